"""Learned augmentation policies of torchvision: AutoAugment (Cubuk et al. 2019), RandAugment, TrivialAugment."""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor
from torchvision.transforms import v2

from nastricks.data import Batch
from nastricks.modules.trick import Change, Trick
from nastricks.moment import Moment
from nastricks.rng import forked_rng

if TYPE_CHECKING:
    from nastricks.modules import TrainingModule

Kind = Literal["auto_augment", "rand_augment", "trivial_augment"]
AUGMENTATIONS: dict[str, Callable[[], v2.Transform]] = {
    "auto_augment": lambda: v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10),
    "rand_augment": v2.RandAugment,
    "trivial_augment": v2.TrivialAugmentWide,
}


def augment(images: Tensor, mean: Tensor, deviation: Tensor, transform: v2.Transform) -> Tensor:
    """Normalised images (N, C, H, W) -> the same, each transformed on its own as 8-bit pixels.

    Args:
        images: (N, C, H, W), normalised.
        mean: (C, 1, 1), of 8-bit pixels, as the images were normalised by.
        deviation: (C, 1, 1), likewise.
        transform: A torchvision transform of one uint8 image; it draws from torch's global generator.
    """
    pixels = (images * deviation + mean).round_().clamp_(0, 255).to(torch.uint8)
    changed = torch.stack([transform(image) for image in pixels.cpu()])
    return (changed.to(images.device).to(images.dtype) - mean) / deviation


class AutoAugment(Trick):
    """Transforms each training image by a sub-policy of its own (rotation, shear, contrast, …).

    Args:
        kind: ``auto_augment`` is the policy learned on CIFAR-10, ``rand_augment`` two random operations of magnitude 9,
            ``trivial_augment`` one of random magnitude.
    """

    changes: ClassVar[Change] = "batch"
    order = 0  # before cutout, as in published stacks

    def __init__(self, kind: Kind = "auto_augment") -> None:
        super().__init__()
        self.kind = kind
        self._transform = AUGMENTATIONS[kind]()

    def refusal(self, module: "TrainingModule") -> str | None:
        self._data = module.trainer.datamodule  # type: ignore[attr-defined]
        return super().refusal(module)

    def on_batch(self, batch: Batch, at: Moment) -> Batch:
        if at.role != "weights":
            return batch
        self.act()
        mean, deviation = (t.to(batch.images) for t in (self._data.mean, self._data.deviation))
        with forked_rng(at.seed, at.step, at.rank, "auto_augment"):
            return replace(batch, images=augment(batch.images, mean, deviation, self._transform))
