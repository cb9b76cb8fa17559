"""Where in a run something happens: the key of every random draw, and what schedules are functions of."""

from dataclasses import dataclass, replace
from typing import Literal

import torch

from nastricks.rng import generator

Role = Literal["weights", "policy", "attack", "evaluation"]


CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class Moment:
    """One forward pass of a run.

    `step` counts the batches that the run itself has seen (Lightning's ``global_step`` counts the steps of every
    optimizer), `epochs` is the run's length in epochs, `role` says what the pass is for: to train the weights, to
    train the policy, to search for a perturbation, or to evaluate.
    """

    role: Role
    seed: int
    step: int = 0
    steps_per_epoch: int = 1
    epochs: float = 1.0
    gate_set: int = 0
    micro_batch: int = 0
    samples: int = 0
    rank: int = 0
    device: torch.device = CPU

    @property
    def epoch(self) -> float:
        """Epochs done, as a fraction: 1.5 is the middle of the second epoch."""
        return self.step / self.steps_per_epoch

    @property
    def progress(self) -> float:
        """Part of the run that is done, in [0, 1]."""
        return min(1.0, self.epoch / self.epochs) if self.epochs > 0 else 1.0

    def at(self, **changes: object) -> "Moment":
        """The same moment with some fields changed, for instance ``moment.at(gate_set=1)``."""
        return replace(self, **changes)  # type: ignore[arg-type]

    def generator(self, purpose: str, *, per_sample: bool = False) -> torch.Generator:
        """A CPU generator keyed by (seed, step, set of gates, purpose); by micro-batch and rank too for samples.

        Draws for a whole batch (a path, a mixing weight) are the same on every rank. They are made on the CPU, so
        that every device sees the same run; the few numbers a sample are then copied over.
        """
        if not per_sample:
            return generator(self.seed, self.step, self.gate_set, purpose)
        return generator(self.seed, self.step, self.micro_batch, self.gate_set, purpose, self.rank)
