"""Cutout: one square a sample is erased. DeVries & Taylor 2017; DARTS children use 16 of 32 pixels."""

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from nastricks.data import Batch
from nastricks.data.transforms import cutout
from nastricks.errors import InputError
from nastricks.modules.trick import Change, Trick
from nastricks.moment import Moment

if TYPE_CHECKING:
    from nastricks.modules import TrainingModule


class Cutout(Trick):
    """Erases one square of each training image, at a place of its own.

    Args:
        length: Side in pixels, at least 1 and at most the image's; None takes half of the image's.

    Raises:
        InputError: `length` is out of its range.
    """

    changes: ClassVar[Change] = "batch"
    order = 10

    def __init__(self, length: int | None = None) -> None:
        super().__init__()
        if length is not None and length < 1:
            raise InputError(f"cutout.length is {length}: expected at least 1, or null for half of the image")
        self.length = length

    def refusal(self, module: "TrainingModule") -> str | None:
        size = module.spec.size
        if self.length is not None and self.length > size:
            return f"cutout.length is {self.length} and images are {size} pixels wide: choose at most {size}"
        return super().refusal(module)

    def on_batch(self, batch: Batch, at: Moment) -> Batch:
        if at.role != "weights":
            return batch
        self.act()
        length = max(1, batch.images.shape[-1] // 2) if self.length is None else self.length
        return replace(batch, images=cutout(batch.images, length, at.generator("cutout", per_sample=True)))
