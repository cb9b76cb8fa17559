"""The tricks of a run at the named points of the training step (DESIGN, "One training step")."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from nastricks.data.batch import Batch
from nastricks.estimators import Step
from nastricks.modules.trick import Compute, Forward, Trick, in_order
from nastricks.moment import Moment
from nastricks.spaces import Gates

if TYPE_CHECKING:
    from nastricks.modules.training import TrainingModule

POINTS = (
    "surgery",
    "on_epoch",
    "on_learning_rate",
    "on_batch",
    "may_learn",
    "on_gates",
    "on_forward",
    "on_loss",
    "on_policy_loss",
    "around_gradients",
    "calibration",
)
"""The points at which tricks act, in the order in which they come."""


def acts_at(trick: Trick, point: str) -> bool:
    """Whether a trick overrides a point."""
    return getattr(type(trick), point) is not getattr(Trick, point)


class Points:
    """Calls the tricks that act at a point, in their order.

    Args:
        tricks: The tricks of the run.
    """

    def __init__(self, tricks: Sequence[Trick] = ()) -> None:
        self.tricks = in_order(tricks)
        self._acting = {point: [t for t in self.tricks if acts_at(t, point)] for point in POINTS}

    def ends_before_epoch(self, module: "TrainingModule", at: Moment) -> bool:
        """Whether a trick asks to stop before the epoch that begins at `at`; all of them have their say first."""
        asked = [trick.on_epoch(module, at) for trick in self._acting["on_epoch"]]
        return any(asked)

    def learning_rate(self, rate: float, base: float, at: Moment) -> float:
        for trick in self._acting["on_learning_rate"]:
            rate = trick.on_learning_rate(rate, base, at)
        return rate

    def batch(self, batch: Batch, at: Moment) -> Batch:
        for trick in self._acting["on_batch"]:
            batch = trick.on_batch(batch, at)
        return batch

    def policy_may_learn(self, at: Moment) -> bool:
        """Whether every trick agrees that the policy is updated at this step."""
        return all(trick.may_learn(at) for trick in self._acting["may_learn"])

    def gates(self, gates: Gates, at: Moment) -> Gates:
        for trick in self._acting["on_gates"]:
            gates = trick.on_gates(gates, at)
        return gates

    def begin(self, batch: Batch, at: Moment) -> tuple[Any, int] | None:
        """The state that a pass begins with and the segment that takes it; None for the images."""
        said = (trick.on_forward(batch, at) for trick in self._acting["on_forward"])
        return next((begun for begun in said if begun is not None), None)

    def loss(self, loss: Tensor, forward: Forward, at: Moment) -> Tensor:
        for trick in self._acting["on_loss"]:
            loss = trick.on_loss(loss, forward, at)
        return loss

    def policy_loss(self, loss: Tensor, gates: Gates, step: Step) -> Tensor:
        for trick in self._acting["on_policy_loss"]:
            loss = trick.on_policy_loss(loss, gates, step)
        return loss

    def around_gradients(self, compute: Compute, module: "TrainingModule", at: Moment) -> Compute:
        for trick in self._acting["around_gradients"]:
            compute = trick.around_gradients(compute, module, at)
        return compute
