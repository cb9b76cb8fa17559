"""Mixup: samples and labels are mixed in pairs. Zhang et al. 2018, section 2; the CIFAR code uses alpha 1."""

from typing import TYPE_CHECKING, ClassVar

from nastricks.data import Batch
from nastricks.data.transforms import mixup
from nastricks.errors import InputError
from nastricks.modules.trick import Change, Trick
from nastricks.moment import Moment

if TYPE_CHECKING:
    from nastricks.modules import TrainingModule


class Mixup(Trick):
    """Mixes each training image and its label with another of the batch.

    The loss sees soft targets, accuracies the hard labels of the images' own samples; batches that
    teach the policy are left alone. Label smoothing, where set, is applied once, in the loss.

    Args:
        alpha: Of lambda ~ Beta(alpha, alpha), above 0.

    Raises:
        InputError: `alpha` is out of its range.
    """

    changes: ClassVar[Change] = "batch"
    order = 20  # after cutout: the erased squares are mixed, as in published stacks

    def __init__(self, alpha: float = 1.0) -> None:
        super().__init__()
        if not 0 < alpha < float("inf"):
            raise InputError(f"mixup.alpha is {alpha}: expected a number above 0, such as 1.0")
        self.alpha = alpha
        self._classes = 0

    def refusal(self, module: "TrainingModule") -> str | None:
        self._classes = module.spec.classes
        return super().refusal(module)

    def on_batch(self, batch: Batch, at: Moment) -> Batch:
        if at.role != "weights":
            return batch
        self.act()
        rng = at.generator("mixup", per_sample=True)
        images, targets = mixup(batch.images, batch.labels, self._classes, self.alpha, rng)
        return Batch(images, batch.labels, targets)
