"""The space of a table: what it reads as choices, and the tables that it refuses."""

import os
from pathlib import Path

import pytest

from nastricks.data import ImageSpec
from nastricks.errors import InputError
from nastricks.ranking.tables import load_table
from nastricks.rng import generator
from nastricks.spaces import Tabular

DATA = os.environ.get("NASTRICKS_DATA")


def written(folder: Path, *rows: str, header: str = "architecture,accuracy_0") -> str:
    path = folder / "table.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return str(path)


def test_options_are_the_characters_of_a_position(tmp_path: Path) -> None:
    space = Tabular(written(tmp_path, "b0,0.1", "a0,0.2", "b2,0.3", "a2,0.4", "b1,0.5", "a1,0.6"))
    assert [[option.name for option in choice.options] for choice in space.choices] == [["a", "b"], ["0", "1", "2"]]
    everything = list(space.architectures())
    assert [space.format(a) for a in everything] == ["a0", "a1", "a2", "b0", "b1", "b2"]
    assert [space.parse(space.format(a)) for a in everything] == everything
    assert len(space) == 6
    assert space.parse("b2") == (1, 2)


@pytest.mark.parametrize("header", ["arch,acc", "child,acc", "id,architecture", " architecture ,acc"])
def test_codes_are_text(tmp_path: Path, header: str) -> None:
    """Zeros in front stay, and NA is a string."""
    last = header.startswith("id")
    rows = [f"7,{code}" if last else f"{code},0.5" for code in ("00", "01", "10", "11")]
    assert [Tabular(written(tmp_path, *rows, header=header)).format(a) for a in ((0, 0), (0, 1))] == ["00", "01"]
    (only,) = Tabular(written(tmp_path, "7,NA" if last else "NA,0.5", header=header)).architectures()
    assert only == (0, 0)


def test_a_shipped_table_is_found_by_its_name() -> None:
    space = Tabular("tiny64_digits")
    assert len(space) == 64
    assert [len(c.options) for c in space.choices] == [4, 4, 4]
    table = load_table(space.path, space.parse)
    table.require(space.format(a) for a in space.architectures())


@pytest.mark.skipif(DATA is None, reason="NASTRICKS_DATA is not set: the folder that holds the published tables")
@pytest.mark.parametrize(
    ("name", "shape"), [("nas_bench_macro", (3,) * 8), ("weight_sharing_64_cifar10", (4,) * 3)], ids=["macro", "64"]
)
def test_published_tables(name: str, shape: tuple[int, ...]) -> None:
    space = Tabular(f"{DATA}/tables/{name}.csv")
    assert tuple(len(c.options) for c in space.choices) == shape
    assert space.format((0,) * len(shape)) == ("00000000" if name == "nas_bench_macro" else "111")
    table = load_table(space.path, space.parse)
    assert sorted(table.architectures) == [space.format(a) for a in space.architectures()]
    rng = generator("table")
    assert len(table.truth([space.format(space.sample(rng)) for _ in range(20)])) == 20


def test_a_table_with_a_gap_is_refused_and_the_gap_named(tmp_path: Path) -> None:
    path = written(tmp_path, "00,0.1", "01,0.2", "11,0.4")
    with pytest.raises(InputError, match="has no row for '10': a search may ask for every combination"):
        Tabular(path)


@pytest.mark.parametrize(
    ("header", "rows", "message"),
    [
        ("architecture,acc", ["00,1", "1,1"], "architectures of 1 and 2 characters: expected rows .* one length"),
        ("architecture,acc", ["  ,1"], "architectures of 0 characters"),
        ("architecture,acc", [], "architectures of no characters"),
        ("name,acc", ["00,1"], "no column 'architecture', only name, acc"),
        ("architecture,acc", ["00,1,2", "01,1,2"], "not a CSV file with a header"),
    ],
)
def test_tables_that_are_refused(tmp_path: Path, header: str, rows: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Tabular(written(tmp_path, *rows, header=header))


def test_bad_input(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'no_such' does not exist: .* shipped table \(.*tiny64_digits"):
        Tabular("no_such")
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(InputError, match="not a CSV file with a header"):
        Tabular(str(tmp_path / "empty.csv"))
    space = Tabular("tiny64_digits")
    for text in ("", "11", "1111", "115", "１１１"):
        with pytest.raises(InputError, match="expected 3 characters, such as '111'"):
            space.parse(text)
    with pytest.raises(InputError, match="has no network to build: search it with `nastricks search`"):
        space.child(ImageSpec(1, 8, 10), (0, 0, 0))
