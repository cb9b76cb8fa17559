"""Genotypes and cells as text: they print and parse, tolerate spellings, and say what is wrong."""

import json
from pathlib import Path

import pytest

from nastricks.cli import main
from nastricks.errors import InputError
from nastricks.files import safe_name
from nastricks.rng import generator
from nastricks.spaces import DARTS

NORMAL = [("sep_conv_3x3", 0), ("sep_conv_3x3", 1), ("sep_conv_3x3", 0), ("sep_conv_3x3", 1)]
NORMAL += [("sep_conv_3x3", 1), ("skip_connect", 0), ("skip_connect", 0), ("dil_conv_3x3", 2)]
REDUCE = [("max_pool_3x3", 0), ("max_pool_3x3", 1), ("skip_connect", 2), ("max_pool_3x3", 1)]
REDUCE += [("max_pool_3x3", 0), ("skip_connect", 2), ("skip_connect", 2), ("max_pool_3x3", 1)]
GENOTYPE = f"Genotype(normal={NORMAL}, normal_concat=range(2, 6), reduce={REDUCE}, reduce_concat=range(2, 6))"
FREE = {
    "all": {"ops_per_edge": None, "inputs_per_node": None, "input_cells": 3, "shared_cells": False},
    "any operations": {"ops_per_edge": None},
    "any inputs": {"inputs_per_node": None},
    "own cells": {"shared_cells": False},
    "three cells": {"input_cells": 3},
    "one of three cells": {"input_cells": 3, "inputs_per_node": 1},
}


def test_the_published_genotype_is_the_architecture() -> None:
    space = DARTS()
    named = {
        f"{kind}_{2 + number // 2}_{source}": operation
        for kind, pairs in (("normal", NORMAL), ("reduce", REDUCE))
        for number, (operation, source) in enumerate(pairs)
    }
    for choice, index in zip(space.choices, space.parse(GENOTYPE), strict=True):
        assert choice.options[index].name == named.get(choice.name, "none")


@pytest.mark.parametrize("operations", ["published", "s1", "s2", "s3", "s4"])
def test_architectures_print_and_parse(operations: str) -> None:
    space, rng = DARTS(operations=operations), generator("print", operations)  # type: ignore[arg-type]
    for _ in range(30):
        architecture = space.sample(rng)
        text = space.format(architecture)
        assert text.startswith("Genotype(normal=[('")
        assert "\n" not in text
        assert space.parse(text) == architecture


@pytest.mark.parametrize("rules", FREE.values(), ids=FREE)
def test_free_architectures_print_and_parse(rules: dict[str, object]) -> None:
    space, rng = DARTS(channels=4, cells=4, **rules), generator("print", str(rules))  # type: ignore[arg-type]
    for _ in range(30):
        architecture = space.sample(rng)
        assert space.parse(space.format(architecture)) == architecture


@pytest.mark.parametrize(
    "spelt",
    [
        GENOTYPE.replace("'", '"'),
        GENOTYPE.replace("range(2, 6)", "[2, 3, 4, 5]"),
        GENOTYPE.replace(" ", ""),
        f"  {GENOTYPE.replace(', ', ' ,  ')}\n",
        GENOTYPE.replace("[", "(").replace("]", ")"),
        GENOTYPE.replace("('sep_conv_3x3', 1), ('skip_connect', 0)", "('skip_connect', 0), ('sep_conv_3x3', 1)"),
    ],
)
def test_spellings_of_one_genotype(spelt: str) -> None:
    assert DARTS().parse(spelt) == DARTS().parse(GENOTYPE)


WRONG = {
    "": "expected Genotype",
    "Genotype(": "expected Genotype",
    "[1]": "expected Genotype",
    "os.system('true')": "expected Genotype",
    "(" * 10_000: "expected Genotype",
    "Genotype(normal=[])": "expected the fields normal, normal_concat, reduce, reduce_concat",
    GENOTYPE.replace("normal_concat", "concat"): "expected the fields",
    GENOTYPE.replace("range(2, 6)", "range(3, 6)"): r"normal_concat is not range\(2, 6\)",
    GENOTYPE.replace("range(2, 6)", "range(2, 10 ** 9)"): r"normal_concat is not range\(2, 6\)",
    GENOTYPE.replace("range(2, 6)", "print(2, 6)"): r"normal_concat is not range\(2, 6\)",
    GENOTYPE.replace("normal=[", "normal=[print(1), "): "normal is no list of pairs",
    GENOTYPE.replace("'skip_connect', 0", "'skip_connect', 0.0"): "normal is no list of pairs",
    GENOTYPE.replace("('skip_connect', 0), ", "", 1): "normal has 7 pairs: expected 8, 2 for each of 4 nodes",
    GENOTYPE.replace("dil_conv_3x3", "dil_conv_7x7"): "'dil_conv_7x7' is no operation of node 5 of normal cells",
    GENOTYPE.replace("dil_conv_3x3", "none"): "'none' is no operation of node 5",
    GENOTYPE.replace("'dil_conv_3x3', 2", "'dil_conv_3x3', 5"): "no edge into node 5 .* expected a node from 0 to 4",
    GENOTYPE.replace("'dil_conv_3x3', 2", "'dil_conv_3x3', -1"): "no edge into node 5",
    GENOTYPE.replace("'dil_conv_3x3', 2", "'dil_conv_3x3', 0"): "two operations on the edge into node 5",
}


@pytest.mark.parametrize("text", WRONG, ids=range(len(WRONG)))
def test_texts_that_are_no_genotype(text: str) -> None:
    with pytest.raises(InputError, match=f"is no architecture of darts: .*{WRONG[text]}") as refusal:
        DARTS().parse(text)
    assert len(str(refusal.value)) < 400


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("normal:skip_connect~0", "expected normal:.* for normal, reduce"),
        ("normal:skip_connect~0 reduce:skip_connect~0|skip_connect~1", "normal has 1 nodes: expected 2"),
        ("normal:skip_connect~0|skip_connect reduce:skip_connect~0|skip_connect~1", "'skip_connect' is no node"),
        ("normal:skip_connect~0|skip_connect~3 reduce:skip_connect~0|skip_connect~1", "no edge into node 3"),
        ("normal:skip_connect~0+skip_connect~0|noise~0 reduce:noise~0|noise~1", "the same operation on the edge"),
    ],
)
def test_texts_that_are_no_free_cells(text: str, reason: str) -> None:
    space = DARTS(nodes=2, operations=["skip_connect", "noise"], ops_per_edge=None, inputs_per_node=None)
    with pytest.raises(InputError, match=reason):
        space.parse(text)


def test_free_cells_must_have_the_inputs_that_are_left_as_a_rule() -> None:
    space = DARTS(nodes=1, operations=["skip_connect", "noise"], ops_per_edge=None)
    with pytest.raises(InputError, match="is not legal for choice normal_2_1_noise"):
        space.parse("normal:skip_connect~0+noise~0 reduce:noise~0+noise~1")
    assert space.parse("normal:skip_connect~0+noise~1+noise~0 reduce:noise~0+noise~1")


def test_a_genotype_is_a_csv_cell_and_a_file_name() -> None:
    name = safe_name(GENOTYPE)
    assert len(name) == 20
    assert name.isalnum()
    assert safe_name(GENOTYPE) != safe_name(GENOTYPE.replace("range", "range "))
    assert safe_name("213") == "213"
    assert safe_name("0.1.1.0.a-1.2.2.2.c_0.0.1.1.a-2.0.0.0.a") == "0.1.1.0.a-1.2.2.2.c_0.0.1.1.a-2.0.0.0.a"
    assert all(len(safe_name(text)) == 20 for text in ("", ".hidden", "a/b", "a b", "é", "a" * 101))


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(list(arguments)) == 0
    return capsys.readouterr().out


def test_show_prints_golden_sizes_and_draws_both_cells(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    stack = ["-c", "recipes/spaces/darts.yaml", "-c", "recipes/child/darts_cifar10.yaml"]
    printed = told(capsys, "show", *stack, GENOTYPE, "--draw", str(tmp_path / "v2.svg"))
    assert "3,349,342" in printed
    assert "3,825,768" in printed
    drawing = (tmp_path / "v2.svg").read_text()
    assert "normal cells" in drawing
    assert "reduce cells" in drawing
    assert drawing.count("max pool 3x3") == 5
    (listed,) = json.loads(told(capsys, "show", *stack, GENOTYPE, "--json"))
    assert (listed["params"], listed["with_auxiliary"]) == (3_349_342, 3_825_768)
    described = told(capsys, "show", "-c", "recipes/spaces/darts.yaml", "-c", "recipes/data/cifar10.yaml")
    assert "1,930,618" in described


def test_a_text_that_is_no_genotype_ends_with_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    stack = ["-c", "recipes/spaces/darts.yaml", "-c", "recipes/child/darts_cifar10.yaml"]
    assert main(["show", *stack, "Genotype(normal=1)"]) == 2
    assert "expected the fields" in capsys.readouterr().err
