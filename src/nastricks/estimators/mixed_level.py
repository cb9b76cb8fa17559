"""Mixed-level learning: alpha descends the search loss and the training loss together (MiLeNAS, He et al. 2020)."""

import math
from typing import ClassVar, Literal

import torch

from nastricks.errors import InputError
from nastricks.estimators.base import Estimator, Step
from nastricks.policies import Policy


class MixedLevel(Estimator):
    """dL_search/d alpha + lambda dL_train/d alpha, both at the current weights; these learn from the train batch alone.

    Args:
        policy: The policy to update.
        train_weight: Lambda, at least 0; 0 is first-order DARTS.
        every: Update in every this many training steps, at least 1.
        order: Update before or after the weight step of the same batch; None is before.

    Raises:
        InputError: `train_weight` is below 0.
    """

    through_gates: ClassVar[bool] = True

    def __init__(
        self,
        policy: Policy,
        train_weight: float = 1.0,
        every: int = 1,
        order: Literal["before", "after"] | None = None,
    ) -> None:
        super().__init__(policy, every, order)
        if not 0 <= train_weight < math.inf:
            raise InputError(f"estimator.train_weight is {train_weight}: expected at least 0, such as 1")
        self.train_weight = train_weight

    def update(self, step: Step) -> None:
        terms = [step.objective(g) + self.train_weight * step.loss(g, step.train) for g in step.propose()]
        self.leave(step, torch.stack(terms).sum())
