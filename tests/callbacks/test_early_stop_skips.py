"""Skips are counted where they are, and the run ends at the epoch at which they are too many."""

from collections.abc import Callable
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from nastricks.callbacks.early_stop_skips import EarlyStopSkips, count_skips
from nastricks.derivations import BestRanked, Perturbation
from nastricks.errors import InputError
from nastricks.modules import SupernetModule
from nastricks.modules.run_folder import LAST, load_checkpoint
from nastricks.moment import Moment
from nastricks.run import Run
from nastricks.spaces import DARTS, Tiny64

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
]


def test_skips_are_counted_in_their_cell() -> None:
    space = DARTS(channels=4, cells=3, nodes=1, operations=("none", "skip_connect", "sep_conv_3x3"))
    for architecture, normal, reduce in [((1, 1, 2, 1), 2, 1), ((2, 2, 1, 1), 0, 2), ((2, 1, 2, 2), 1, 0)]:
        assert count_skips(space, architecture) == count_skips(space, architecture, "normal") == normal
        assert count_skips(space, architecture, "reduce") == reduce
    assert count_skips(Tiny64(channels=4), (3, 0, 3)) == 2


class Steered(pl.Callback):
    """Before each epoch, sets alpha so that so many of the three layers would be skips."""

    def __init__(self, skips: list[int]) -> None:
        self.skips = skips

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        assert isinstance(pl_module, SupernetModule)
        epoch = pl_module.steps_seen // pl_module.steps_per_epoch
        for layer in (1, 2, 3):
            alpha = pl_module.policy.get_parameter(f"alpha.layer{layer}")
            with torch.no_grad():
                alpha.zero_()
                alpha[3 if layer <= self.skips[epoch] else 1] = 5.0


@pytest.mark.parametrize(
    ("skips", "arguments", "epochs"),
    [
        ([0, 0, 1, 2, 0, 0], {"skips": 2}, 3),
        ([0, 0, 1, 2, 0, 0], {"skips": 1}, 2),
        ([3, 3, 0, 0, 0, 0], {"skips": 2}, 1),
        ([0, 1, 1, 1, 1, 3], {"skips": 2}, 5),
        ([0, 1, 1, 1, 1, 1], {"skips": 2}, 6),
        ([0, 2, 2, 2, 2, 2], {"skips": 3}, 6),
    ],
)
def test_the_run_ends_at_the_epoch_that_has_too_many(
    skips: list[int], arguments: dict[str, int], epochs: int, make: Callable[..., Run]
) -> None:
    run = make("darts", {"early_stop_skips": arguments}, {"trainer.max_epochs": 6})
    run.trainer.callbacks.insert(0, Steered([*skips, 0]))  # type: ignore[attr-defined]
    run.fit()
    assert run.module.steps_seen == 4 * epochs
    (trick,) = run.tricks
    assert trick.acts == min(epochs, 5)
    assert trick.measured() == f"{skips[min(epochs, 5)]} skip connections"


def test_a_frozen_policy_does_not_stop(make: Callable[..., Run]) -> None:
    """Alpha's start happens to have three skips: it is no reason to stop while it has not moved."""
    run = make("darts", {"early_stop_skips": {"skips": 2}, "weight_warmup": {"epochs": 2}}, {"trainer.max_epochs": 4})
    with torch.no_grad():
        for layer in (1, 2, 3):
            run.module.policy.get_parameter(f"alpha.layer{layer}")[3] = 5.0
    run.fit()
    assert run.module.steps_seen == 12  # frozen for two epochs, then one that moves alpha, and it stops


def test_what_is_left_is_the_state_of_that_epoch(make: Callable[..., Run], tmp_path: Any) -> None:
    """A stopped run's checkpoint is what the run without the trick holds at the same step; resuming changes nothing."""
    stopped = make("darts", {"early_stop_skips": {"skips": 2}}, {"trainer.max_epochs": 4}, tmp_path / "stopped")
    stopped.trainer.callbacks.insert(0, Steered([0, 0, 2, 2, 2]))  # type: ignore[attr-defined]
    stopped.fit()
    plain = make("darts", None, {"trainer.max_epochs": 4, "checkpoint.every_n_epochs": 2}, tmp_path / "plain")
    plain.trainer.callbacks.insert(0, Steered([0, 0, 2, 2, 2]))  # type: ignore[attr-defined]
    plain.trainer.callbacks.append(Halt(8))  # type: ignore[attr-defined]
    with pytest.raises(HaltError):
        plain.fit()
    one, other = load_checkpoint(tmp_path / "stopped"), load_checkpoint(tmp_path / "plain")
    assert one["nastricks"]["steps_seen"] == other["nastricks"]["steps_seen"] == 8
    tensors = {k: v for k, v in other["state_dict"].items() if isinstance(v, torch.Tensor)}
    assert all(torch.equal(one["state_dict"][key], value) for key, value in tensors.items())

    again = make("darts", {"early_stop_skips": {"skips": 2}}, {"trainer.max_epochs": 4}, tmp_path / "stopped")
    again.fit(str(tmp_path / "stopped" / LAST))
    assert again.module.steps_seen == 8


class HaltError(Exception):
    """The run is killed here."""


class Halt(pl.Callback):
    """Kills a run before a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: pl.Trainer, *args: Any) -> None:
        if trainer.global_step == self.step:
            raise HaltError


def test_what_cannot_be_counted_is_refused(make: Callable[..., Run]) -> None:
    with pytest.raises(InputError, match=r"early_stop_skips.skips is 0: expected at least 1"):
        EarlyStopSkips(skips=0)
    with pytest.raises(InputError, match="tiny64 has no cell 'normal': its choices belong to none, take null"):
        make("darts", {"early_stop_skips": {"cell": "normal"}}).fit()
    for derivation in (BestRanked(), Perturbation()):
        run = make("darts", {"early_stop_skips": {"skips": 2}})
        assert isinstance(run.module, SupernetModule)
        run.module.derivation = derivation
        with pytest.raises(InputError, match=f"{type(derivation).__name__} measures networks for that: derive with"):
            run.fit()


def test_spaces_without_skips_are_refused(make: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    run = make("darts", {"early_stop_skips": {"skips": 2}})
    for choice in run.module.space.choices:
        run.module.policy.restrict(choice.name, [0, 1])
    with pytest.raises(InputError, match="counts skip connections, and tiny64 has no skip"):
        run.check()


def test_an_epoch_without_an_architecture_is_not_counted(make: Callable[..., Run]) -> None:
    run = make("darts", {"early_stop_skips": {"skips": 2}})
    module, (trick,) = run.module, run.tricks
    assert isinstance(module, SupernetModule)

    class Never(Perturbation):
        needs_network = False

        def derive(self, trained: Any) -> Any:
            raise InputError("no node has an input")

    module.derivation = Never()
    assert trick.on_epoch(module, Moment("weights", 0, step=4)) is False
    assert trick.acts == 0
    assert trick.measured() == "no architecture yet"
