"""One training step as an estimator sees it (the protocol is `nastricks.estimators.Step`)."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from nastricks.data.batch import Batch
from nastricks.moment import Moment, Role
from nastricks.rng import forked_rng
from nastricks.spaces import Architecture, Cost, Gates

if TYPE_CHECKING:
    from nastricks.modules.training import TrainingModule


@dataclass
class TrainingStep:
    """See `nastricks.estimators.Step`."""

    module: "TrainingModule"
    moment: Moment
    train: Batch
    weight_optimizer: Optimizer
    policy_optimizers: Sequence[Optimizer] = ()
    ran: Sequence[tuple[Gates, Tensor]] = ()  # the gates of the weights' first passes, each with its loss

    @cached_property
    def search(self) -> Batch:
        """The batch of the search split with the number of this step, after the tricks that act on batches."""
        data = self.module.trainer.datamodule  # type: ignore[attr-defined]
        batch = data.batch("search", self.moment.step, rank=self.moment.rank, world=self.module.trainer.world_size)
        return self.module.points.batch(batch, self.moment.at(role="policy"))

    @property
    def weights(self) -> Sequence[nn.Parameter]:
        return [p for p in self.module.networks.parameters() if p.requires_grad]

    def propose(self) -> Sequence[Gates]:
        return self.module.policy.propose(self.moment.at(role="policy"))

    def loss(self, gates: Gates, batch: Batch, *, role: Role = "policy") -> Tensor:
        at = self.moment.at(role=role, samples=len(batch))
        gates = self.module.points.gates(gates, at)
        key = (at.seed, at.step, at.role, at.gate_set, "forward", at.rank)
        with self.module.frozen_statistics(), forked_rng(*key, device=at.device):
            return self.module.criterion(self.module.logits(batch.images, gates), batch)

    def objective(self, gates: Gates) -> Tensor:
        return self.module.points.policy_loss(self.loss(gates, self.search), gates, self)

    @torch.no_grad()
    def reward(self, architectures: Sequence[Architecture]) -> Tensor:
        batch = self.search
        hits = []
        with self.module.frozen_statistics():
            for architecture in architectures:
                logits = self.module.logits(batch.images, self.module.space.gates(architecture))
                hits.append((logits.argmax(1) == batch.labels).float().mean())
        return torch.stack(hits)

    def cost(self, architecture: Architecture) -> Cost:
        return self.module.child_costs.of(architecture)

    def outcomes(self) -> Sequence[tuple[Architecture | None, Tensor]]:
        return [(self.module.architecture_of(gates), loss) for gates, loss in self.ran]

    def average(self, gradients: Sequence[Tensor]) -> list[Tensor]:
        strategy = self.module.trainer.strategy
        return [strategy.reduce(g, reduce_op="mean") for g in gradients]

    def advance(self) -> None:
        self.module.step_policy(self.policy_optimizers)
        for optimizer in self.policy_optimizers:
            optimizer.zero_grad(set_to_none=True)
