"""Batch statistics: a child is scored with the normalisation statistics of the very images that are scored.

Some texts call this batch-norm calibration as well; the other one, `bn_calibration`, recomputes the statistics over
training images. Here no training image is needed, and a score depends on which images are scored together. It is what
the released code of DARTS-PT does (Wang et al. 2021), and networks left in train mode by mistake.
"""

from typing import TYPE_CHECKING, ClassVar

from nastricks.errors import InputError
from nastricks.modules.trick import Calibration, Change, Need, Trick

if TYPE_CHECKING:
    from nastricks.modules import TrainingModule


class BatchStatistics(Trick):
    """Normalises the images that are scored by their own batch's mean and variance, in every batch norm of a child.

    Args:
        size: Images a batch at least, 2 or more; batches are of nearly equal sizes. None takes the data's
            `eval_batch_size`, whose last batch may be short.

    Raises:
        InputError: `size` is out of its range.
    """

    changes: ClassVar[Change] = "normalisation statistics"
    needs: ClassVar[tuple[Need, ...]] = ("batch norm",)
    after_training = True

    def __init__(self, size: int | None = None) -> None:
        super().__init__()
        if size is not None and size < 2:
            raise InputError(f"batch_statistics.size is {size}: expected at least 2 images, or null")
        self.size = size

    def refusal(self, module: "TrainingModule") -> str | None:
        others = [t.name for t in module.trainer.callbacks if isinstance(t, Trick) and _calibrates(t)]  # type: ignore[attr-defined]
        other = next((name for name in others if name != self.name), None)
        if other is not None:
            return (
                f"tricks {self.name} and {other} both say which statistics a child is scored with: leave one of them "
                "out"
            )
        return super().refusal(module)

    def calibration(self) -> Calibration:
        self.act()
        return Calibration(own=True, size=self.size)


def _calibrates(trick: Trick) -> bool:
    return type(trick).calibration is not Trick.calibration
