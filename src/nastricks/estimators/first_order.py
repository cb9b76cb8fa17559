"""The first-order gradient of DARTS (Liu et al. 2019, section 2.3, xi = 0)."""

from typing import ClassVar

import torch

from nastricks.estimators.base import Estimator, Step


class FirstOrder(Estimator):
    """Gradient of the search loss by alpha at the current weights; the weights themselves get none."""

    through_gates: ClassVar[bool] = True

    def update(self, step: Step) -> None:
        self.leave(step, torch.stack([step.objective(gates) for gates in step.propose()]).sum())
