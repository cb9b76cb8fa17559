"""A run that stands before its first step, for tricks that are looked at from within a step; and a run's first step."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor

from nastricks.data import Batch
from nastricks.modules.step import TrainingStep
from nastricks.run import Run
from nastricks.spaces import Gates, Network

Stand = Callable[[Run], TrainingStep]
Loss = Callable[[Network, Gates, int], Tensor]


@dataclass
class FirstStep:
    """The first step of a run: the network before it, the paths, the batch, the gradients that moved the weights."""

    network: Network
    paths: Sequence[Gates]
    batch: Batch
    gradients: dict[str, Tensor]

    def apart(self, loss: Loss) -> dict[str, Tensor]:
        """The sum of the gradients that each path's loss (network, gates, number) has alone, each on a fresh copy."""
        total = {name: torch.zeros_like(g) for name, g in self.gradients.items()}
        for number, gates in enumerate(self.paths):
            network = copy.deepcopy(self.network)
            loss(network, gates, number).backward()  # type: ignore[no-untyped-call]
            for name, parameter in network.named_parameters():
                total[name] += 0.0 if parameter.grad is None else parameter.grad
        return total


class Watch(pl.Callback):
    """Writes the first step down."""

    def __init__(self) -> None:
        self.seen: FirstStep | None = None

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Batch, batch_idx: int) -> None:
        network = copy.deepcopy(pl_module.networks[0])
        self.seen = FirstStep(network, pl_module.policy.propose(pl_module.moment("weights")), batch, {})

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *args: Any) -> None:
        assert self.seen is not None
        for name, p in pl_module.networks[0].named_parameters():
            self.seen.gradients[name] = torch.zeros_like(p) if p.grad is None else p.grad.clone()


@pytest.fixture(scope="session")
def first_step() -> Callable[[Run], FirstStep]:
    """``first_step(run)`` trains the first step of a run that has no other, and tells it."""

    def step(run: Run) -> FirstStep:
        watch = Watch()
        run.trainer.callbacks.append(watch)  # type: ignore[attr-defined]
        run.fit()
        assert run.module.steps_seen == 1
        assert watch.seen is not None
        return watch.seen

    return step


@pytest.fixture(scope="session")
def stand() -> Stand:
    """``stand(run)`` sets the run up as `fit` does and gives its first step; nothing is trained."""

    def begin(run: Run) -> TrainingStep:
        module, trainer = run.module, run.trainer
        module.trainer = trainer
        trainer.datamodule = run.data  # type: ignore[attr-defined]
        run.data.setup("fit")
        for trick in run.tricks:
            trick.setup(trainer, module, "fit")
        module.setup("fit")
        if trainer.precision == "64-true":
            module.double()
        module.train()
        first, *rest = module.configure_optimizers()
        now = module.moment("weights")
        batch = module.points.batch(run.data.batch("train", now.step), now)
        module.current = TrainingStep(module, now, batch, weight_optimizer=first, policy_optimizers=rest)
        return module.current

    return begin
