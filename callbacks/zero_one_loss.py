"""The zero-one loss: strengths are pushed away from one half, towards 0 or 1.

FairDARTS (Chu et al. 2020, "Fair DARTS: Eliminating Unfair Advantages in Differentiable Architecture Search", section
3.4): L = -w / N * sum (sigmoid(alpha) - 0.5)^2, w 10 in the released code.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from nastricks.errors import InputError
from nastricks.estimators import Step
from nastricks.modules.trick import Change, Need, Trick
from nastricks.policies import Policy
from nastricks.spaces import Gates

if TYPE_CHECKING:
    from nastricks.modules import TrainingModule


def zero_one_loss(strengths: Sequence[Tensor]) -> Tensor:
    """-mean((s - 0.5)^2) () over all strengths, tensors of any length; -0.25 where all are 0 or 1, 0 at one half."""
    return -(torch.cat(list(strengths)) - 0.5).square().mean()


class ZeroOneLoss(Trick):
    """Adds the zero-one loss of the policy's strengths to what the policy learns from.

    Args:
        weight: At least 0.

    Raises:
        InputError: `weight` is out of its range.
    """

    changes: ClassVar[Change] = "policy gradient"
    needs: ClassVar[tuple[Need, ...]] = ("gradient through the gates",)
    order = 50
    neutral = {"weight": 0.0}

    def __init__(self, weight: float = 10.0) -> None:
        super().__init__()
        if not 0 <= weight < float("inf"):
            raise InputError(f"zero_one_loss.weight is {weight}: expected at least 0, such as 10")
        self.weight = weight
        self._policy: Policy | None = None

    def refusal(self, module: "TrainingModule") -> str | None:
        self._policy = module.policy
        lacking = super().refusal(module)
        if lacking is None and not module.policy.strengths():
            lacking = f"trick zero_one_loss needs strengths of options, and {type(module.policy).__name__} has none"
        return lacking

    def on_policy_loss(self, loss: Tensor, gates: Gates, step: Step) -> Tensor:
        if self.weight == 0.0:
            return loss
        assert self._policy is not None, "refusal comes first"
        self.act()
        return loss + self.weight * zero_one_loss(list(self._policy.strengths().values()))
