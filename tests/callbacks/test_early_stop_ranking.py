"""Rankings that settle, and when: by hand, and in whole runs that are killed and go on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from nastricks.callbacks.early_stop_ranking import EarlyStopRanking, learnable, ranking, stable_epochs
from nastricks.errors import InputError
from nastricks.modules import SupernetModule
from nastricks.modules.run_folder import LAST
from nastricks.run import Run
from nastricks.spaces import Tiny64

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
]


def counts(sequence: list[list[float]]) -> list[int]:
    """For how many epochs the ranking of one choice was the same, at each epoch of a sequence of strengths."""
    found, before = [0], {"edge": dict(enumerate(sequence[0]))}
    for strengths in sequence[1:]:
        now = {"edge": dict(enumerate(strengths))}
        found.append(stable_epochs(before, now, found[-1]))
        before = now
    return found


def test_epochs_of_one_ranking_are_counted() -> None:
    assert counts([[0.3, 0.2, 0.1], [0.4, 0.3, 0.2], [0.5, 0.2, 0.1], [0.6, 0.2, 0.3], [0.7, 0.2, 0.3]]) == [
        0,
        1,
        2,
        0,
        1,
    ]
    assert counts([[0.3, 0.2], [0.2, 0.3], [0.3, 0.2], [0.2, 0.3]]) == [0, 0, 0, 0]
    assert counts([[0.3, 0.2], [0.4, 0.1], [0.4, 0.1], [0.4, 0.2]]) == [0, 1, 0, 1]  # nothing moved in between


def test_only_options_that_learn_are_ranked() -> None:
    space = Tiny64(channels=4)
    own = {0: 0.1, 1: 0.2, 2: 0.3, 3: 0.4}  # 3 is the identity
    strengths = {"layer1": own, "layer2": {1: 0.4, 3: 0.6}, "layer3": {0: 0.6, 2: 0.4}}
    assert ranking(learnable(space, strengths)) == {"layer1": [2, 1, 0], "layer3": [0, 2]}
    assert ranking({"edge": {4: 0.5, 7: 0.5, 1: 0.6}}) == {"edge": [1, 4, 7]}


class Steered(pl.Callback):
    """After each epoch, sets alpha so that the first layer's options have a given order, or leaves it as it was."""

    def __init__(self, orders: list[tuple[int, ...]]) -> None:
        self.orders = orders

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        assert isinstance(pl_module, SupernetModule)
        epoch = pl_module.steps_seen // pl_module.steps_per_epoch
        with torch.no_grad():
            for layer in (1, 2, 3):
                alpha = pl_module.policy.get_parameter(f"alpha.layer{layer}")
                for rank, option in enumerate(self.orders[epoch] if layer == 1 else (0, 1, 2)):
                    alpha[option] = 3.0 - rank + 0.01 * epoch * (1 + rank)
                alpha[3] = 0.1 * ((epoch * 7) % 5)  # the identity goes up and down, which counts for nothing


A, B = (0, 1, 2), (1, 0, 2)


@pytest.mark.parametrize(
    ("orders", "epochs", "ends"),
    [
        ([A, A, A, A, A, A, A, A], 2, 3),  # the first comparison is between the starts of epochs 1 and 2
        ([A, A, B, A, A, A, A, A], 2, 5),
        ([A, A, A, A, A, A, A, A], 4, 5),
        ([A, B, A, B, A, B, A, B], 1, 7),  # never
    ],
)
def test_the_run_ends_where_the_ranking_has_settled(
    orders: list[tuple[int, ...]], epochs: int, ends: int, make: Callable[..., Run]
) -> None:
    run = make("darts", {"early_stop_ranking": {"epochs": epochs}}, {"trainer.max_epochs": 7})
    run.trainer.callbacks.insert(0, Steered(orders))  # type: ignore[attr-defined]
    run.fit()
    assert run.module.steps_seen == 4 * ends
    assert run.tricks[0].acts == min(ends, 6)


class KilledError(Exception):
    """The run is killed here."""


class Kill(pl.Callback):
    def on_train_batch_start(self, trainer: pl.Trainer, *args: Any) -> None:
        if trainer.global_step == 10:
            raise KilledError


def test_a_killed_run_stops_where_the_straight_one_does(make: Callable[..., Run], tmp_path: Path) -> None:
    changes = {"trainer.max_epochs": 7, "checkpoint.every_n_epochs": 1}
    chosen = {"early_stop_ranking": {"epochs": 3}}
    first = make("darts", chosen, changes, tmp_path / "run")
    first.trainer.callbacks.insert(0, Steered([A] * 8))  # type: ignore[attr-defined]
    first.trainer.callbacks.append(Kill())  # type: ignore[attr-defined]
    with pytest.raises(KilledError):
        first.fit()
    second = make("darts", chosen, changes, tmp_path / "run")
    second.trainer.callbacks.insert(0, Steered([A] * 8))  # type: ignore[attr-defined]
    second.fit(str(tmp_path / "run" / LAST))
    assert second.module.steps_seen == 16
    assert second.tricks[0].acts == 4
    assert second.tricks[0].measured() == "a ranking that is stable for 3 epochs"


def test_a_warm_up_is_no_settled_ranking(make: Callable[..., Run]) -> None:
    chosen = {"early_stop_ranking": {"epochs": 1}, "weight_warmup": {"epochs": 4}}
    run = make("darts", chosen, {"trainer.max_epochs": 5})
    run.fit()
    assert run.module.steps_seen == 20


def test_what_cannot_be_ranked_is_refused(make: Callable[..., Run]) -> None:
    with pytest.raises(InputError, match=r"early_stop_ranking.epochs is 0: expected at least 1"):
        EarlyStopRanking(epochs=0)
    run = make("darts", {"early_stop_ranking": {"epochs": 2}})
    for choice in run.module.space.choices:
        run.module.policy.restrict(choice.name, [1, 3])
    with pytest.raises(InputError, match="ranks options that learn, and no choice of tiny64 has two"):
        run.check()
