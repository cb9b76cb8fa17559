"""One level: alpha and the weights descend the same loss on the same batch (GOLD-NAS, Bi et al. 2020)."""

from typing import ClassVar

from nastricks.estimators.base import Estimator, Order, Step


class SingleLevel(Estimator):
    """Alpha's gradient comes with the weights' own backward pass over the training batch; no search split is needed.

    `every` is the number of weight steps an update of alpha.
    """

    order: Order = "joined"
    through_gates: ClassVar[bool] = True

    def update(self, step: Step) -> None:
        """The gradients are there already."""
