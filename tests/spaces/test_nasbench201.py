"""NAS-Bench-201 as a space: published sizes and notation, children equal their paths, twins are the same network."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from nastricks.cli import main
from nastricks.data import ImageSpec
from nastricks.errors import InputError
from nastricks.ranking.rank import picked
from nastricks.rng import forked_rng, generator
from nastricks.spaces import Architecture, Gate, NASBench201, Network
from nastricks.spaces.drawing import draw
from nastricks.spaces.nasbench201 import Cell
from nastricks.spaces.nasbench201_equivalence import EDGES, OPERATIONS

SMALL = NASBench201(channels=4, cells=1, bn_affine=True)
SPEC = ImageSpec(1, 8, 10)
CIFAR10, CIFAR100, IMAGENET16 = ImageSpec(3, 32, 10), ImageSpec(3, 32, 100), ImageSpec(3, 16, 120)
ZERO = "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|"
LARGEST = ZERO.replace("none", "nor_conv_3x3")


# Sizes.


@pytest.mark.parametrize(
    ("spec", "text", "params", "flops"),
    [
        # Smallest and largest of the published tables, quoted from the benchmark's files by automl/multi-obj-baselines
        # and by EvoXBench (C-10/MOP5); millions of parameters and of multiply-adds.
        (CIFAR10, ZERO, 0.073306, 7.78305),
        (CIFAR10, LARGEST, 1.531546, 220.11969),
        (CIFAR100, ZERO, 0.079156, 7.7889),
        (CIFAR100, LARGEST, 1.537396, 220.12554),
        (IMAGENET16, ZERO, 0.080456, 1.9534),
        (IMAGENET16, LARGEST, 1.538696, 55.03756),
        # github.com/D-X-Y/NATS-Bench, issue 36: what `get_cost_info(hp="12")` prints.
        (
            CIFAR10,
            "|skip_connect~0|+|none~0|nor_conv_3x3~1|+|avg_pool_3x3~0|nor_conv_3x3~1|nor_conv_3x3~2|",
            0.802426,
            113.95137,
        ),
    ],
)
def test_sizes_are_the_published_ones(spec: ImageSpec, text: str, params: float, flops: float) -> None:
    space = NASBench201(bn_affine=True)
    cost = space.cost(space.parse(text), spec)
    assert cost.params == round(params * 1e6)
    # The published counter adds the classifier's bias, and counts a multiply-add once.
    assert cost.flops // 2 + spec.classes == round(flops * 1e6)


@pytest.mark.parametrize(
    ("spec", "params", "flops"), [(CIFAR10, 0.802, 113.95), (CIFAR100, 0.808, 113.96), (IMAGENET16, 0.810, 28.50)]
)
def test_sizes_on_three_data_sets_to_the_digits_printed(spec: ImageSpec, params: float, flops: float) -> None:
    """github.com/D-X-Y/NATS-Bench, issue 18: what `query_info_str_by_arch` prints of architecture 1."""
    space = NASBench201(bn_affine=True)
    text = "|nor_conv_3x3~0|+|nor_conv_3x3~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_3x3~1|skip_connect~2|"
    cost = space.cost(space.parse(text), spec)
    assert round(cost.params / 1e6, 3) == params
    assert round((cost.flops / 2 + spec.classes) / 1e6, 2) == flops


def test_a_search_network_has_no_scale_and_shift_in_its_cells() -> None:
    for affine in (False, True):
        network = NASBench201(4, 1, bn_affine=affine).supernet(SPEC)
        norms = {name: m for name, m in network.named_modules() if isinstance(m, nn.BatchNorm2d)}
        assert {m.affine for name, m in norms.items() if "_cell" in name} == {affine}
        assert all(m.affine for name, m in norms.items() if "_cell" not in name)


@pytest.mark.parametrize("size", [1, 5, 7, 8])
def test_odd_images_are_halved_upwards(size: int) -> None:
    logits = SMALL.child(ImageSpec(3, size, 10), SMALL.parse(LARGEST)).eval()(torch.zeros(2, 3, size, size))
    assert logits.shape == (2, 10)


def test_sizes_that_cannot_be() -> None:
    for key in ("channels", "cells"):
        with pytest.raises(InputError, match=f"space.{key} is 0"):
            NASBench201(**{key: 0})


# Notation.


def test_every_architecture_prints_and_parses() -> None:
    everything = list(SMALL.architectures())
    texts = [SMALL.format(a) for a in everything]
    assert len(set(texts)) == len(everything) == len(SMALL) == 15625
    assert [SMALL.parse(text) for text in texts] == everything
    assert texts[0] == ZERO
    text = "|nor_conv_1x1~0|+|nor_conv_3x3~0|avg_pool_3x3~1|+|skip_connect~0|none~1|nor_conv_1x1~2|"
    assert SMALL.parse(text) == (2, 3, 4, 1, 0, 2)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "111111",
        ZERO[:-1],
        ZERO + "\n",
        ZERO.replace("none~2", "none~1"),
        ZERO.replace("|+|", "|"),
        ZERO.replace("none~2", "max_pool_3x3~2"),
        ZERO + "+|none~0|none~1|none~2|none~3|",
        ZERO.replace("~0", "~٠"),
    ],
)
def test_strings_that_do_not_parse(text: str) -> None:
    with pytest.raises(InputError, match="is no architecture of nasbench201: expected one of none, skip_connect, nor_"):
        SMALL.parse(text)


def test_choices_name_their_nodes_and_what_their_options_are() -> None:
    assert [(c.name, c.node) for c in SMALL.choices] == [(f"edge{i}{j}", f"node{j}") for i, j in EDGES]
    none, skip, *convs, pool = SMALL.choices[0].options
    assert none.absent
    assert skip.skip
    assert skip.identity
    assert [o.learns for o in (none, skip, *convs, pool)] == [False, False, True, True, False]


def test_a_drawing_shows_the_edges_that_are_there() -> None:
    text = ZERO.replace("none~2", "nor_conv_1x1~2").replace("none~0|none~1|+", "avg_pool_3x3~0|none~1|+")
    (pool, conv) = SMALL.graph(SMALL.parse(text))
    assert (pool.source, pool.target, conv.source, conv.target) == ("cell input", "node 2", "node 2", "output")
    assert "output" in "".join(ElementTree.fromstring(draw(SMALL.graph(SMALL.parse(ZERO)), ZERO)).itertext())


# Networks.


def worn(module: nn.Module, *key: object) -> None:
    """Random batch-norm statistics and affine parameters, as after training."""
    rng = generator(*key)
    with torch.no_grad():
        for norm in module.modules():
            if isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None:
                assert norm.running_var is not None
                norm.running_mean.normal_(generator=rng)
                norm.running_var.uniform_(0.5, 2.0, generator=rng)
                if norm.affine:
                    norm.weight.uniform_(0.5, 1.5, generator=rng)
                    norm.bias.normal_(generator=rng)


def supernet() -> Network:
    with forked_rng("supernet"):
        network = SMALL.supernet(SPEC)
    worn(network, "statistics")
    return network


def images() -> Tensor:
    return torch.randn(4, 1, 8, 8, generator=generator("images"))


def sampled(n: int) -> list[Architecture]:
    rng = generator("architectures")
    return [SMALL.parse(ZERO), *(SMALL.sample(rng) for _ in range(n - 1))]


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_a_child_with_copied_weights_equals_its_path(training: bool) -> None:
    network, seen = supernet().train(training), []
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with torch.no_grad():
        for architecture in sampled(12):
            network.load_state_dict(before)
            child = SMALL.child(SPEC, architecture).train(training)
            child.load_state_dict({key: before[key].clone() for key in child.state_dict()})
            seen.append(network(images(), SMALL.gates(architecture)))
            torch.testing.assert_close(child(images()), seen[-1], atol=1e-5, rtol=0)
            after = network.state_dict()
            for key, value in child.state_dict().items():
                torch.testing.assert_close(value, after[key], atol=1e-5, rtol=0)
    assert all(not torch.allclose(a, b, atol=1e-3) for a, b in itertools.combinations(seen, 2))


def test_a_childs_parameters_are_the_supernets() -> None:
    whole = {key: p.shape for key, p in supernet().named_parameters()}
    together: set[str] = set()
    for index in range(len(OPERATIONS)):
        own = {key: p.shape for key, p in SMALL.child(SPEC, (index,) * len(EDGES)).named_parameters()}
        assert own.items() <= whole.items()
        together |= set(own)
    assert together == set(whole)


def test_one_hot_weights_over_all_options_equal_the_single_path() -> None:
    network = supernet().eval()
    for architecture in sampled(6):
        gates = {
            c.name: Gate(tuple(range(5)), torch.eye(5)[i]) for c, i in zip(SMALL.choices, architecture, strict=True)
        }
        with torch.no_grad():
            torch.testing.assert_close(network(images(), gates), network(images(), SMALL.gates(architecture)))


def test_a_cell_of_nothing_trains_what_is_behind_it() -> None:
    child = SMALL.child(SPEC, SMALL.parse(ZERO)).train()
    child(images()).square().sum().backward()
    assert {name.split(".")[1] for name, p in child.named_parameters() if p.grad is not None} >= {"head"}
    assert all(torch.isfinite(p.grad).all() for p in child.parameters() if p.grad is not None)


def test_wiring_by_hand() -> None:
    """With skips and pools alone, the cell is a sum that can be written down."""
    text = "|skip_connect~0|+|avg_pool_3x3~0|skip_connect~1|+|none~0|skip_connect~1|avg_pool_3x3~2|"
    x = torch.randn(2, 4, 6, 6, generator=generator("x"))
    pool = nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
    torch.testing.assert_close(cell(SMALL.parse(text))(x, SMALL.gates(SMALL.parse(text))), x + pool(pool(x) + x))


# The same network in several spellings.


def cell(architecture: Architecture, affine: bool = True, channels: int = 4) -> Cell:
    allowed = {c.name: (i,) for c, i in zip(SMALL.choices, architecture, strict=True)}
    return Cell(channels, affine, SMALL.choices, allowed)


def outputs(module: Cell, architecture: Architecture, x: Tensor) -> Tensor:
    """The outputs in train mode and, with the statistics that this leaves, in eval mode."""
    gates = SMALL.gates(architecture)
    with torch.no_grad():
        return torch.cat([module.train()(x, gates), module.eval()(x, gates)])


def exchanges(one: Architecture, other: Architecture) -> Iterator[dict[str, str]]:
    """All ways to give each convolution of `other` one of `one` for its own."""
    names = [c.name for c in SMALL.choices]
    convs = [[n for n, i in zip(names, a, strict=True) if "conv" in OPERATIONS[i]] for a in (one, other)]
    for picks in itertools.permutations(convs[0], len(convs[1])):
        yield dict(zip(convs[1], picks, strict=True))


def are_the_same_network(one: Architecture, other: Architecture, affine: bool) -> bool:
    """Whether some exchange of weights gives the same outputs."""
    x = torch.randn(3, 2, 5, 5, generator=generator("x"), dtype=torch.float64)
    with forked_rng("cell"):
        first, second = (cell(a, affine, channels=2).double() for a in (one, other))
    if affine:
        worn(first, "cell")
    start = {key: value.clone() for key, value in first.state_dict().items()}
    expected = outputs(first, one, x)
    blank = {key: value.clone() for key, value in second.state_dict().items()}
    for exchange in exchanges(one, other):
        state = dict(blank)
        for key in blank:
            edge, rest = key.split(".")[1], key.split(".")[4:]
            theirs = next(k for k in start if k.startswith(f"edges.{exchange[edge]}.") and k.split(".")[4:] == rest)
            if start[theirs].shape == blank[key].shape:  # the kernel of what reads nothing may differ
                state[key] = start[theirs].clone()
        second.load_state_dict(state)
        if torch.allclose(outputs(second, other, x), expected, atol=1e-9):
            return True
    return False


@pytest.mark.parametrize("affine", [True, False])
def test_twins_are_the_same_network(affine: bool) -> None:
    space, rng, tried = NASBench201(4, 1, bn_affine=affine), generator("twins"), 0
    while tried < 60:
        architecture = space.sample(rng)
        twin = space.canonical(architecture)
        assert space.canonical(twin) == twin
        if twin != architecture:
            tried += 1
            assert are_the_same_network(architecture, twin, affine), space.format(architecture)


@pytest.mark.parametrize(
    ("one", "other", "affine"),
    [
        # One convolution taken twice, and two convolutions.
        ((3, 1, 0, 0, 1, 1), (3, 0, 0, 3, 1, 0), True),
        ((3, 0, 1, 0, 1, 1), (3, 3, 0, 0, 1, 1), True),
        # A convolution of nothing is its shift, where it has one.
        ((0, 0, 3, 1, 0, 1), (0, 0, 0, 1, 0, 0), True),
        # Not linear.
        ((1, 4, 1, 0, 0, 3), (1, 3, 4, 0, 1, 1), True),
    ],
)
def test_networks_that_differ_are_told_apart(one: Architecture, other: Architecture, affine: bool) -> None:
    space = NASBench201(4, 1, bn_affine=affine)
    assert space.canonical(one) != space.canonical(other)
    assert not are_the_same_network(one, other, affine)


def test_what_adds_nothing_and_leads_nowhere_is_none() -> None:
    for affine in (True, False):
        space = NASBench201(4, 1, bn_affine=affine)
        dead = space.parse("|nor_conv_3x3~0|+|nor_conv_1x1~0|avg_pool_3x3~1|+|skip_connect~0|none~1|none~2|")
        assert space.canonical(dead) == space.parse(
            ZERO.replace("|+|none~0|none~1|none~2|", "|+|skip_connect~0|none~1|none~2|")
        )
    nothing = ZERO.replace("none~2", "nor_conv_3x3~2")
    assert space.canonical(space.parse(nothing)) == space.parse(ZERO)


def test_the_number_of_networks() -> None:
    """5,234 by the algebra, 5,044 without affine; and the published 6,466 by the rule that it was counted with."""
    everything = list(SMALL.architectures())
    assert len({SMALL.canonical(a) for a in everything}) == 5234
    plain = NASBench201(4, 1, bn_affine=False)
    assert len({plain.canonical(a) for a in everything}) == 5044
    assert len({published_string(a) for a in everything}) == 6466


def published_string(architecture: Architecture) -> str:
    """What the authors compare (`to_unique_str` with zeros considered): the count rests on this very spelling.

    Terms are sorted as text, so a sum that a skip passes on stays in one piece; convolutions have no names.
    """
    nodes = ["0", "", "", ""]
    for target in (1, 2, 3):
        terms = []
        for (source, end), index in zip(EDGES, architecture, strict=True):
            if end == target and (OPERATIONS[index] == "none" or nodes[source] == "#"):
                terms.append("#")
            elif end == target:
                skips = OPERATIONS[index] == "skip_connect"
                terms.append(nodes[source] if skips else f"({nodes[source]})@{OPERATIONS[index]}")
        nodes[target] = "+".join(sorted(terms))
    return nodes[3]


# Tables.


@pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning")
def test_a_supernet_is_ranked_by_a_table_in_the_published_notation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipes = ["spaces/nasbench201", "data/digits", "algorithms/spos"]
    arguments = [part for name in recipes for part in ("-c", f"recipes/{name}.yaml")]
    sizes = {"space.init_args.channels": 2, "space.init_args.cells": 1, "trainer.max_epochs": 1}
    sizes |= {f"data.init_args.{split}_size": 32 for split in ("train", "search", "validation")}
    arguments += [f"--{key}={value}" for key, value in sizes.items()] + ["--trainer.accelerator=cpu"]
    assert main(["fit", *arguments, "--out", str(tmp_path / "run")]) == 0
    space = NASBench201(2, 1)
    rows = {space.format(a): 0.5 + i / 100 for i, a in enumerate(picked(space, "20", seed=0))}
    table = tmp_path / "table.csv"
    table.write_text("architecture,accuracy\n" + "".join(f"{name},{value}\n" for name, value in rows.items()))
    assert main(["rank", str(tmp_path / "run"), "--table", str(table), "--children", "20"]) == 0
    ranking = pd.read_csv(tmp_path / "run/ranking.csv").set_index("architecture")
    assert ranking["truth"].to_dict() == rows
    assert "gt_tau" in capsys.readouterr().out
    table.write_text(table.read_text().replace("~2", "~3"))
    assert main(["rank", str(tmp_path / "run"), "--table", str(table), "--children", "20"]) == 2
    assert "is no architecture of nasbench201" in capsys.readouterr().err
