"""Alpha stays as it was until the warm-up is over, and moves after it."""

from collections.abc import Callable
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from nastricks.callbacks.weight_warmup import WeightWarmup
from nastricks.errors import InputError
from nastricks.modules import TrainingModule
from nastricks.run import Run

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
]


class Alphas(pl.Callback):
    """Alpha and the first weights, before training and after each of its steps."""

    def __init__(self) -> None:
        self.alphas: list[torch.Tensor] = []
        self.weights: list[torch.Tensor] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.on_train_batch_end(trainer, pl_module)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        assert isinstance(pl_module, TrainingModule)
        self.alphas.append(torch.cat([p.detach().flatten() for p in pl_module.policy.parameters()]))
        self.weights.append(next(pl_module.networks.parameters()).detach().clone())


@pytest.mark.parametrize(
    ("arguments", "frozen"), [({"epochs": 1}, 4), ({"epochs": 0.5}, 2), ({"fraction": 0.5}, 4), ({"fraction": 0.25}, 2)]
)
def test_alpha_is_frozen_for_its_steps_alone(
    arguments: dict[str, float], frozen: int, make: Callable[..., Run]
) -> None:
    run, alphas = make("darts", {"weight_warmup": arguments}), Alphas()
    run.trainer.callbacks.append(alphas)  # type: ignore[attr-defined]
    run.fit()
    moved = [not torch.equal(a, b) for a, b in zip(alphas.alphas, alphas.alphas[1:], strict=False)]
    assert moved == [False] * frozen + [True] * (8 - frozen)
    assert not any(torch.equal(a, b) for a, b in zip(alphas.weights, alphas.weights[1:], strict=False))
    (trick,) = run.tricks
    assert trick.acts == frozen


def test_a_whole_run_of_warm_up_is_refused(make: Callable[..., Run]) -> None:
    with pytest.raises(
        InputError, match=r"weight_warmup.epochs is 2.* and the run has 2: the policy would never learn"
    ):
        make("darts", {"weight_warmup": {"epochs": 2}}).fit()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({}, r"needs one of epochs and fraction"),
        ({"epochs": 1, "fraction": 0.5}, r"needs one of epochs and fraction"),
        ({"epochs": -1}, r"weight_warmup.epochs is -1: expected at least 0"),
        ({"fraction": 1.0}, r"weight_warmup.fraction is 1.0: expected a number in \[0, 1\)"),
        ({"fraction": -0.1}, r"weight_warmup.fraction is -0.1"),
    ],
)
def test_bad_values_are_refused(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        WeightWarmup(**arguments)
