"""In-place distillation: the largest path learns the labels, the others learn its outputs of the same step.

Yu & Huang 2019, "Universally Slimmable Networks and Improved Training Techniques" (1903.05134); BigNAS
(Yu et al. 2020, 2003.11142, section 3.1).
"""

from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from nastricks.errors import InputError
from nastricks.modules.soft_labels import soft_cross_entropy
from nastricks.modules.trick import Change, Forward, Trick
from nastricks.moment import Moment

if TYPE_CHECKING:
    from nastricks.modules import TrainingModule


class InplaceDistillation(Trick):
    """Replaces the loss of every path of a step but the first by cross entropy under the first one's soft labels.

    The soft labels are constants: the largest path learns from the labels alone.

    Args:
        temperature: Of both softmaxes, above 0; the papers have 1.

    Raises:
        InputError: `temperature` is out of its range.
    """

    changes: ClassVar[Change] = "loss"
    order = 30

    def __init__(self, temperature: float = 1.0) -> None:
        super().__init__()
        if not 0 < temperature < float("inf"):
            raise InputError(f"inplace_distillation.temperature is {temperature}: expected a number above 0, such as 1")
        self.temperature = temperature

    def refusal(self, module: "TrainingModule") -> str | None:
        if not module.policy.largest_first:
            return (
                "trick inplace_distillation needs other paths that learn from the largest one of the same step, and "
                f"{type(module.policy).__name__} runs no such paths: use nastricks.policies.Sandwich"
            )
        return super().refusal(module)

    def on_loss(self, loss: Tensor, forward: Forward, at: Moment) -> Tensor:
        if at.gate_set == 0:
            return loss
        self.act()
        return soft_cross_entropy(forward.logits, forward.first_logits, self.temperature)
