"""The rule on sequences with known answers; a run that goes back; the eigenvalue that is logged."""

import csv
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from nastricks.callbacks import early_stop_hessian
from nastricks.callbacks.early_stop_hessian import EarlyStopHessian, epoch_to_return_to
from nastricks.errors import InputError
from nastricks.estimators.hessian import Eigenpair
from nastricks.modules import TrainingModule, Trick
from nastricks.modules.curvature import search_eigenpair
from nastricks.modules.run_folder import LAST, load_checkpoint
from nastricks.moment import Moment
from nastricks.run import Run

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
]


# The rule.


def stops(values: Sequence[float], every: int = 1, **rule: Any) -> tuple[int, int] | None:
    """The first epoch at which the rule stops, and the one it goes back to; values begin at epoch `every`."""
    for number in range(1, len(values) + 1):
        seen = {every * (i + 1): value for i, value in enumerate(values[:number])}
        if (back := epoch_to_return_to(seen, **rule)) is not None:
            return every * number, back
    return None


NARROW = {"window": 1, "distance": 1, "first_epoch": 1}


@pytest.mark.parametrize(
    ("values", "rule", "answer"),
    [
        # Without a window the rule compares single values.
        ([1.0, 1.0, 1.2, 1.5], NARROW, None),
        ([1.0, 1.0, 1.2, 1.6], NARROW, (4, 3)),
        ([2.0, 1.0, 0.5, 0.1], NARROW, None),  # falling sharpness never stops
        ([1.0, 1.4], NARROW | {"first_epoch": 2}, None),
        ([1.0, 1.4, 1.5, 2.0], NARROW | {"first_epoch": 2}, (4, 3)),
        ([1.0, 1.4], NARROW | {"factor": 1.5}, None),
        ([1.0, 1.1, 1.2, 1.35], NARROW | {"distance": 3}, (4, 1)),
        # Windows of three: the epoch is that of the middle value.
        ([1.0, 1.0, 1.0, 1.0, 4.0], {"window": 3, "distance": 1, "first_epoch": 1}, (5, 3)),
        ([1.0, 1.0, 1.0, 1.0, 1.8], {"window": 3, "distance": 1, "first_epoch": 1}, None),
        # The earlier average lacks the value before the first one: (1 + 3) / 2 against (1 + 3 + 8) / 3.
        ([1.0, 3.0, 8.0], {"window": 3, "distance": 1, "first_epoch": 1}, (3, 1)),
        ([1.0, 3.0, 3.8], {"window": 3, "distance": 1, "first_epoch": 1}, None),
        # A spike alone is averaged away, and then leaves the window.
        ([1.0] * 15 + [2.4] + [1.0] * 10, {}, None),
        # The published rule: averages over 5, 4 apart, from epoch 10 on. The first average that holds the jump at
        # epoch 17 is 1.4 times the one of four epochs before.
        ([1.0] * 16 + [3.0] * 10, {}, (17, 11)),
        ([1.0] * 4 + [3.0] * 30, {}, None),  # a jump before the earliest epoch
        ([1.0] * 16 + [1.7] * 10, {}, (19, 13)),  # one such value is not enough (1.14), nor are two (1.28)
        # Where there is no ratio there is no stop.
        ([-1.0, 5.0], NARROW, None),
        ([0.0, 5.0], NARROW, None),
        ([-1.0, -5.0], NARROW, None),
        ([], NARROW, None),
        ([1.0], NARROW, None),
    ],
)
def test_the_rule(values: list[float], rule: dict[str, Any], answer: tuple[int, int] | None) -> None:
    assert stops(values, **rule) == answer


def test_values_that_are_taken_every_second_epoch() -> None:
    assert stops([1.0, 1.0, 1.0, 2.0], every=2, window=1, distance=2, first_epoch=3) == (8, 4)
    trick = EarlyStopHessian(window=5, distance=4, first_epoch=3, every=2)
    assert trick.earliest_stop == 4 + 6 * 2


@pytest.mark.parametrize("rule", [{}, NARROW, {"window": 3, "distance": 2, "first_epoch": 4}, {"window": 4}])
def test_the_earliest_stop_is_as_told(rule: dict[str, int]) -> None:
    growing = [2.0**i for i in range(40)]
    assert stops(growing, **rule) == (EarlyStopHessian(**rule).earliest_stop, max(rule.get("first_epoch", 10), 1))


# A run.


class Keep(pl.Callback):
    """Keeps each epoch's checkpoint; comes after the one that writes it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        shutil.copy(self.folder / LAST, self.folder / f"epoch-{trainer.current_epoch + 1}.ckpt")


class Shrink(Trick):
    """Allows less at every epoch, as pruning does; acts after the trick that is tested."""

    name = "shrink"
    changes = "options"

    def on_epoch(self, module: TrainingModule, at: Moment) -> bool:
        module.policy.restrict("layer1", range(4 - round(at.epoch) // 2))
        self.act()
        return False


SIX = {"trainer.max_epochs": 6, "checkpoint.every_n_epochs": 1}


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[int, float]], None]:
    """``scripted({epoch: eigenvalue})``: what is measured, in place of the true value."""

    def use(values: dict[int, float]) -> None:
        def measured(module: TrainingModule, at: Moment, batches: int) -> Eigenpair:
            return Eigenpair(values[round(at.epoch)], torch.zeros(1), 0.0, 1)

        monkeypatch.setattr(early_stop_hessian, "search_eigenpair", measured)

    return use


def fit(run: Run, folder: Path) -> None:
    run.trainer.callbacks.append(Keep(folder))  # type: ignore[attr-defined]
    run.trainer.callbacks.insert(0, Shrink())  # type: ignore[attr-defined]
    run.fit()


def same(a: Any, b: Any) -> bool:
    """Whether two nests of values are equal bit for bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def test_the_result_is_the_checkpoint_of_the_epoch_gone_back_to(
    scripted: Callable[[dict[int, float]], None], make: Callable[..., Run], tmp_path: Path
) -> None:
    scripted({1: 1.0, 2: 1.0, 3: 1.0, 4: 1.1, 5: 2.0})
    run = make("darts", {"early_stop_hessian": {"window": 3, "distance": 1, "first_epoch": 1}}, SIX, tmp_path)
    fit(run, tmp_path)
    assert run.module.steps_seen == 5 * 4  # the sixth epoch was not trained
    (trick,) = run.tricks
    assert isinstance(trick, EarlyStopHessian)
    assert (trick.acts, trick.back_to) == (5, 3)
    end, there = load_checkpoint(tmp_path), load_checkpoint(tmp_path / "epoch-3.ckpt")
    assert same(end["state_dict"], there["state_dict"])
    assert any(key.endswith("running_var") for key in end["state_dict"])
    assert end["state_dict"]["policy._extra_state"]["allowed"]["layer1"] == [
        0,
        1,
        2,
    ]  # the options of then, and not fewer
    for epoch in (2, 4, 5):
        assert not same(end["state_dict"], load_checkpoint(tmp_path / f"epoch-{epoch}.ckpt")["state_dict"])
    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["early_stop_hessian/eigenvalue"] for row in rows] == ["1.0", "1.0", "1.0", "1.1", "2.0"]
    assert [row["early_stop_hessian/back_to"] for row in rows] == ["", "", "", "", "3.0"]


def test_without_rollback_it_ends_where_it_is(
    scripted: Callable[[dict[int, float]], None], make: Callable[..., Run], tmp_path: Path
) -> None:
    scripted({1: 1.0, 2: 2.0})
    run = make("darts", {"early_stop_hessian": NARROW | {"rollback": False}}, SIX, tmp_path)
    run.trainer.callbacks.append(Keep(tmp_path))  # type: ignore[attr-defined]
    run.fit()
    assert run.module.steps_seen == 8
    assert same(load_checkpoint(tmp_path)["state_dict"], load_checkpoint(tmp_path / "epoch-2.ckpt")["state_dict"])
    assert run.tricks[0].state_dict()["kept"] == {}


def test_calm_values_train_to_the_end(
    scripted: Callable[[dict[int, float]], None], make: Callable[..., Run], tmp_path: Path
) -> None:
    scripted(dict.fromkeys(range(1, 7), 1.0))
    run = make("darts", {"early_stop_hessian": NARROW}, SIX, tmp_path)
    run.fit()
    assert run.module.steps_seen == 24
    assert set(run.tricks[0].state_dict()["kept"]) == {4, 5}  # window // 2 + distance + 1 of them


class KilledError(Exception):
    """The run is killed here."""


class Kill(pl.Callback):
    def on_train_batch_start(self, trainer: pl.Trainer, *args: Any) -> None:
        if trainer.global_step == 14:
            raise KilledError


def test_a_run_that_was_killed_goes_back_to_the_same_state(
    scripted: Callable[[dict[int, float]], None], make: Callable[..., Run], tmp_path: Path
) -> None:
    scripted({1: 1.0, 2: 1.0, 3: 1.0, 4: 2.0})
    chosen = {"early_stop_hessian": {"window": 1, "distance": 2, "first_epoch": 1}}
    ends = []
    for name, every in {"straight": {}, "end": {}, "middle": {"checkpoint.every_n_steps": 5}}.items():
        folder, changes = tmp_path / name, {**SIX, **every}
        run = make("darts", chosen, changes, folder)
        if name != "straight":
            run.trainer.callbacks.append(Kill())  # type: ignore[attr-defined]
            with pytest.raises(KilledError):
                run.fit()
            run = make("darts", chosen, changes, folder)
        run.fit(None if name == "straight" else str(folder / LAST))
        ends.append(load_checkpoint(folder))
        assert run.tricks[0].state_dict()["back_to"] == 2
        assert (folder / "metrics.csv").read_text() == (tmp_path / "straight" / "metrics.csv").read_text()
    for end in ends[1:]:
        for part in ("state_dict", "optimizer_states", "nastricks"):
            assert same(end[part], ends[0][part]), part


def test_the_sharpness_is_that_of_the_search_loss(make: Callable[..., Run], tmp_path: Path) -> None:
    run, seen = make("darts", {"early_stop_hessian": NARROW | {"batches": 2}}, out=tmp_path), []

    class Measure(pl.Callback):
        def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            assert isinstance(pl_module, TrainingModule)
            seen.append(search_eigenpair(pl_module, pl_module.moment("weights"), 2).value)

    run.trainer.callbacks.append(Measure())  # type: ignore[attr-defined]
    run.fit()
    (trick,) = run.tricks
    assert isinstance(trick, EarlyStopHessian)
    assert trick.eigenvalues == {1: pytest.approx(seen[0])}
    assert trick.measured() == f"largest eigenvalue {seen[0]:.4g}; may stop after epoch 2"


# What is refused.


def test_a_run_that_is_too_short_is_refused(make: Callable[..., Run]) -> None:
    words = "early_stop_hessian may stop after epoch 16 at the earliest, and the run has 2: train longer"
    with pytest.raises(InputError, match=words):
        make("darts", {"early_stop_hessian": {"window": 5}}).fit()


def test_a_search_split_that_is_empty_is_refused(make: Callable[..., Run]) -> None:
    run = make("darts", {"early_stop_hessian": NARROW}, {"data.init_args.search_size": 0})
    with pytest.raises(InputError, match="measures the loss of the search split, and it is empty: set search_size"):
        run.fit()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        *[({name: 0}, f"early_stop_hessian.{name} is 0: expected at least 1") for name in NARROW],
        ({"every": 0}, "early_stop_hessian.every is 0: expected at least 1"),
        ({"batches": -1}, "early_stop_hessian.batches is -1: expected at least 1"),
        ({"factor": 1.0}, "early_stop_hessian.factor is 1.0: expected a number above 1, such as 1.3"),
        ({"factor": float("nan")}, "early_stop_hessian.factor is nan"),
    ],
)
def test_bad_values_are_refused(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        EarlyStopHessian(**arguments)
