"""Latency tables: what is measured once and what adds up, files that are written, read and refused."""

import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch

from nastricks.data import ImageSpec
from nastricks.errors import InputError
from nastricks.spaces import (
    DARTS,
    Mobile,
    NASBench201,
    NASNet,
    OptionCosts,
    Space,
    Stopwatch,
    Tiny64,
    measure_latency,
    read_latency,
    write_latency,
)

SPEC = ImageSpec(1, 8, 10)


class Counted(Stopwatch):
    """A watch that runs once, and says how many-th call it was; whole children take 1,000 ms."""

    def milliseconds(self, run: Callable[[], object]) -> float:
        output = run()
        assert isinstance(output, torch.Tensor)
        if output.dim() == 2:
            return 1000.0
        number = self.__dict__.setdefault("calls", 0) + 1
        self.__dict__["calls"] = number
        return float(number)


def test_equal_operations_on_equal_inputs_are_timed_once() -> None:
    made = measure_latency(Tiny64(channels=4), SPEC, Counted())
    first, second, third = made.costs.options.values()
    assert first == (1, 2, 3, 4)
    assert second == third == (5, 6, 7, 8)  # behind the pooling, images are smaller
    assert made.timed == 8


def test_cells_that_share_a_choice_add_up_and_what_is_not_there_takes_no_time() -> None:
    space = NASBench201(channels=4, cells=2)
    made = measure_latency(space, SPEC, Counted())
    assert made.timed == 3 * 4  # three stages of four operations
    for choice in space.choices:
        assert made.costs.options[choice.name] == (
            0.0, 2 * (1 + 5 + 9), 2 * (2 + 6 + 10), 2 * (3 + 7 + 11), 2 * (4 + 8 + 12)
        )  # fmt: skip


def test_the_base_is_what_children_take_beside_their_operations() -> None:
    made = measure_latency(Tiny64(channels=4), SPEC, Counted())
    parts = sorted(table - made.costs.base for _, table in made.probes)
    assert len(parts) == 3
    assert made.costs.base == 1000 - parts[1]
    assert [whole for whole, _ in made.probes] == [1000.0] * 3


@pytest.mark.parametrize(
    "space", [DARTS(channels=4, cells=3, nodes=2), Mobile((6, 8), (2, 1), (1, 2))], ids=lambda s: s.name
)
def test_every_space_of_operations_is_measured(space: Space) -> None:
    made = measure_latency(space, SPEC, Stopwatch(repeats=1, warmup=0))
    assert {name: len(times) for name, times in made.costs.options.items()} == {
        c.name: len(c.options) for c in space.choices
    }
    for choice in space.choices:
        for option, taken in zip(choice.options, made.costs.options[choice.name], strict=True):
            assert (taken == 0) == option.absent


@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU")
def test_a_gpu_is_measured() -> None:
    made = measure_latency(Tiny64(channels=4), SPEC, Stopwatch("cuda", repeats=3, warmup=1))
    assert all(taken > 0 for times in made.costs.options.values() for taken in times)


def test_a_space_whose_costs_do_not_add_up_is_refused() -> None:
    with pytest.raises(InputError, match="nasnet are no operations beside each other"):
        measure_latency(NASNet(1, channels=4, reductions=1), SPEC, Stopwatch())


def test_the_watch_takes_the_median_of_runs_behind_the_warm_up() -> None:
    waits = iter([0.05, 0.05, 0.0, 0.02, 0.0, 0.0, 0.02])
    taken = Stopwatch(repeats=5, warmup=2).milliseconds(lambda: time.sleep(next(waits)))
    assert 0 < taken < 15
    assert next(waits, None) is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"batch": 0}, "--batch is 0"),
        ({"repeats": 0}, "--repeats is 0"),
        ({"warmup": -1}, "--warmup is -1"),
        ({"device": "abacus"}, "--device is 'abacus'"),
        pytest.param(
            {"device": "cuda"},
            "--device is 'cuda', which this machine has not",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU"),
        ),
    ],
)
def test_settings_that_cannot_be(arguments: dict[str, int | str], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Stopwatch(**arguments)  # type: ignore[arg-type]


# Files.


TABLE = OptionCosts("milliseconds", 0.5, {f"layer{i}": (0.1 * i, 2.0, 1 / 3, 0.0) for i in (1, 2, 3)})


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "new/latency.csv"
    write_latency(path, Tiny64(), TABLE)
    assert path.read_text().splitlines()[:3] == ["choice,option,milliseconds", "base,,0.5", "layer1,max_pool_3x3,0.1"]
    assert read_latency(path, Tiny64()) == TABLE
    assert TABLE.of(Tiny64(), (0, 1, 3)) == 0.5 + 0.1 + 2.0


def rows() -> list[list[str]]:
    options = [o.name for o in Tiny64().choices[0].options]
    return [["base", "", "0.5"], *([f"layer{i}", option, "1.0"] for i in (1, 2, 3) for option in options)]


def changed(place: int, column: int, text: str) -> list[list[str]]:
    return [[*r[:column], text, *r[column + 1 :]] if i == place else r for i, r in enumerate(rows())]


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (rows()[:-1], r"lacks layer3 identity \(rows are missing for 1 of 4 blocks\)"),
        (rows()[:5], r"lacks layer2 max_pool_3x3 \(rows are missing for 2 of 4 blocks\)"),
        (rows()[1:], r"lacks base \(rows"),
        (changed(1, 0, "layer9"), "unknown choice of the latency table .* 'layer9'"),
        (changed(1, 1, "max_pool"), "unknown option of layer1 .* 'max_pool': did you mean 'max_pool_3x3'"),
        (changed(0, 1, "all"), "unknown option of base .* 'all'"),
        ([*rows(), rows()[2]], "two rows for layer1 sep_conv_3x3"),
        ([*rows(), rows()[0]], "two rows for base: keep one"),
        (changed(2, 2, "-0.1"), "gives layer1 sep_conv_3x3 the time '-0.1': expected milliseconds"),
        (changed(2, 2, "nan"), "the time 'nan'"),
        (changed(2, 2, "inf"), "the time 'inf'"),
        (changed(0, 2, ""), "gives base the time ''"),
        (changed(2, 2, "fast"), "the time 'fast'"),
    ],
)
def test_tables_that_cannot_be_used(table: list[list[str]], words: str, tmp_path: Path) -> None:
    path = tmp_path / "latency.csv"
    pd.DataFrame(table, columns=["choice", "option", "milliseconds"]).to_csv(path, index=False)
    with pytest.raises(InputError, match=words):
        read_latency(path, Tiny64())


def test_files_that_are_no_table(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        read_latency(tmp_path / "none.csv", Tiny64())
    (tmp_path / "other.csv").write_text("choice,option,ms\nbase,,1\n")
    with pytest.raises(InputError, match="has no column milliseconds: expected choice, option, milliseconds"):
        read_latency(tmp_path / "other.csv", Tiny64())
