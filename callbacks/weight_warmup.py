"""Weight warm-up: the policy stays frozen while the weights train first.

PC-DARTS (Xu et al. 2020) freezes alpha for 15 of 50 epochs, P-DARTS (Chen et al. 2019) for 10 of 25 a stage.
"""

from typing import TYPE_CHECKING, ClassVar

from nastricks.errors import InputError
from nastricks.modules.trick import Change, Need, Trick
from nastricks.moment import Moment

if TYPE_CHECKING:
    from nastricks.modules import TrainingModule


class WeightWarmup(Trick):
    """Freezes the policy for the first epochs.

    Args:
        epochs: Epochs for which the policy is frozen, at least 0; give this or `fraction`.
        fraction: Part of the run for which the policy is frozen, in [0, 1).

    Raises:
        InputError: neither or both are given, or a value is out of its range.
    """

    changes: ClassVar[Change] = "policy"
    needs: ClassVar[tuple[Need, ...]] = ("policy that learns",)
    neutral = {"epochs": 0}

    def __init__(self, epochs: float | None = None, fraction: float | None = None) -> None:
        super().__init__()
        if (epochs is None) == (fraction is None):
            raise InputError("trick weight_warmup needs one of epochs and fraction: give epochs: 15, for instance")
        if epochs is not None and not epochs >= 0:
            raise InputError(f"weight_warmup.epochs is {epochs}: expected at least 0")
        if fraction is not None and not 0 <= fraction < 1:
            raise InputError(f"weight_warmup.fraction is {fraction}: expected a number in [0, 1)")
        self.epochs, self.fraction = epochs, fraction

    def refusal(self, module: "TrainingModule") -> str | None:
        total = module.trainer.max_epochs
        if self.epochs is not None and total is not None and 0 < total <= self.epochs:
            return (
                f"weight_warmup.epochs is {self.epochs} and the run has {total}: the policy would never learn; "
                "warm up for less"
            )
        return super().refusal(module)

    def may_learn(self, at: Moment) -> bool:
        frozen = at.epoch < self.epochs if self.epochs is not None else at.progress < (self.fraction or 0.0)
        if frozen:
            self.act()
        return not frozen
