"""The first-order gradient of DARTS (Liu et al. 2019, section 2.3, xi = 0)."""

import torch

from nastricks.estimators.base import Estimator, Step


class FirstOrder(Estimator):
    """Gradient of the search loss by alpha at the current weights; the weights themselves get none."""

    def update(self, step: Step) -> None:
        losses = [step.loss(gates, step.search) for gates in step.propose()]
        self.leave(step, torch.stack(losses).sum())
