"""One level: alpha and the weights descend the same loss on the same batch (GOLD-NAS, Bi et al. 2020)."""

from typing import ClassVar

from nastricks.errors import InputError
from nastricks.estimators.base import Estimator, Order, Step
from nastricks.moment import Moment
from nastricks.policies import Policy


class SingleLevel(Estimator):
    """Alpha's gradient comes with the weights' own backward pass over the training batch; no search split is needed.

    There is no `order` to choose: before or after the weights' pass there would be no gradient.

    Args:
        policy: The policy to update.
        every: Update in every this many training steps, at least 1.

    Raises:
        InputError: the gates of the weights' pass have no weights, so that alpha would learn nothing from it.
    """

    order: Order = "joined"
    through_gates: ClassVar[bool] = True

    def __init__(self, policy: Policy, every: int = 1) -> None:
        super().__init__(policy, every)
        gates = policy.propose(Moment(role="weights", seed=0))[0]
        if all(gate.weights is None for gate in gates.values()):
            raise InputError(
                f"SingleLevel teaches by the weights' own pass, in which {type(policy).__name__} runs one path without "
                "weights, so that alpha would learn nothing: use FirstOrder"
            )

    def update(self, step: Step) -> None:
        """The gradients are there already."""
