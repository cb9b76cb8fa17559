"""How policies that remember rewards learn: from the training loss of the paths that they drew (Su et al. 2021)."""

import math
from typing import Any

import torch

from nastricks.errors import InputError
from nastricks.estimators.base import Estimator, Order, Step
from nastricks.policies import Policy, RewardedPolicy


class LossReward(Estimator):
    """A path earns the moving average of the training loss over its own loss: more than 1 where it did better.

    Losses fall while the weights learn; the average makes those of different steps comparable (Su et al. 2021, section
    3.2). It takes the present loss in first, so that the first path earns 1. Passes that ran several options at once,
    as under `op_warmup`, teach nothing. Reading the losses waits for the device once an update.

    Args:
        policy: The policy to tell.
        decay: What the average keeps at each loss, in [0, 1).
        every: Update in every this many training steps, at least 1.

    Attributes:
        average: The moving average of the loss; None before the first.

    Raises:
        InputError: a value is out of its range, or the policy remembers no rewards.
    """

    order: Order = "after"

    def __init__(self, policy: Policy, decay: float = 0.9, every: int = 1) -> None:
        super().__init__(policy, every)
        if not isinstance(policy, RewardedPolicy):
            raise InputError(
                f"LossReward tells a policy what its paths earned, and {type(policy).__name__} remembers none of it: "
                "take Prioritised or MonteCarloTree"
            )
        if not 0 <= decay < 1:
            raise InputError(f"estimator.decay is {decay}: expected a number in [0, 1), such as 0.9")
        self.decay = decay
        self.average: float | None = None

    @property
    def policy(self) -> RewardedPolicy:
        assert isinstance(self._policy[0], RewardedPolicy), "the constructor refuses others"
        return self._policy[0]

    def update(self, step: Step) -> None:
        outcomes = step.outcomes()
        (losses,) = step.average([torch.stack([loss for _, loss in outcomes])])
        for (architecture, _), loss in zip(outcomes, losses.tolist(), strict=True):
            if architecture is not None:
                self.policy.observe(architecture, self._reward(loss))

    def _reward(self, loss: float) -> float:
        """What a path with this loss earns.

        Raises:
            InputError: the loss is no finite number above 0.
        """
        if not 0 < loss < math.inf:
            raise InputError(
                f"the training loss of a path is {loss}, and LossReward divides by it: expected a finite number above "
                "0; lower the learning rate"
            )
        self.average = loss if self.average is None else self.decay * self.average + (1 - self.decay) * loss
        return self.average / loss

    def get_extra_state(self) -> dict[str, float | None]:
        return {"average": self.average}

    def set_extra_state(self, state: Any) -> None:
        self.average = state["average"]
