"""The images of a data set as tensors on one device, ready to be cut into batches."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2.functional import resize

from nastricks.data.splits import Split
from nastricks.data.transforms import crop_windows, random_crop, random_flip, random_offsets

# Up to here images are normalised and padded once and kept as float32: a batch is then a single gather (digits: 0.5
# MiB). Larger sets stay uint8, a quarter of the memory, and are normalised a batch at a time: for CIFAR-10 that is
# 184 MB in place of 1.2 GB, and the conversion vanishes beside the step of a network for images of that size.
FLOAT_BYTES = 64 * 2**20

T = TypeVar("T")


class RawImages(NamedTuple):
    """What a data set's files hold: uint8 images (N, C, H, W), int64 labels (N,), and the official test set if any."""

    images: Tensor
    labels: Tensor
    test_images: Tensor | None = None
    test_labels: Tensor | None = None


class JoinedImages(NamedTuple):
    """The same with the official test images behind the first `training` images, and no second copy in memory."""

    images: Tensor
    labels: Tensor
    training: int

    @staticmethod
    def of(raw: RawImages) -> "JoinedImages":
        if raw.test_images is None or raw.test_labels is None:
            return JoinedImages(raw.images, raw.labels, len(raw.labels))
        images, labels = torch.cat([raw.images, raw.test_images]), torch.cat([raw.labels, raw.test_labels])
        return JoinedImages(images, labels, len(raw.labels))


def channel_statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of uint8 images (N, C, H, W) over all but the channels: two (C, 1, 1) float32.

    Counts how often each of the 256 values occurs, so it is exact and no float copy is made. A constant channel gets
    the deviation 1, which normalises it to zero.
    """
    value = torch.arange(256, dtype=torch.float64)
    counts = torch.stack([torch.bincount(c.flatten(), minlength=256) for c in images.unbind(1)]).double()
    share = counts / counts.sum(1, keepdim=True)
    mean = share @ value
    deviation = (share * (value - mean[:, None]).square()).sum(1).sqrt()
    deviation = torch.where(deviation > 0, deviation, 1.0)
    return mean.float()[:, None, None], deviation.float()[:, None, None]


@dataclass(frozen=True)
class ImageStore:
    """All images of a data set on one device with the indices of each split.

    `images` are uint8 (N, C, H, W), or float32, normalised and padded by `padding` zeros, where they are few.
    """

    images: Tensor
    labels: Tensor
    index: dict[Split, Tensor]
    mean: Tensor
    deviation: Tensor
    size: int
    padding: int

    @staticmethod
    def build(images: Tensor, labels: Tensor, index: dict[Split, Tensor], size: int, padding: int) -> "ImageStore":
        """Resize uint8 images (N, C, H, W) to `size` pixels a side and normalise them by the train split."""
        if images.shape[-1] != size:
            images = resize(images, [size, size], antialias=True)
        mean, deviation = channel_statistics(images[index["train"]])
        if images.shape[0] * images.shape[1] * (size + 2 * padding) ** 2 * 4 <= FLOAT_BYTES:
            # The zeros are those of the normalised image: a shifted-in border has the train split's mean colour.
            images = F.pad((images.float() - mean) / deviation, [padding] * 4)
        return ImageStore(images, labels, index, mean, deviation, size, padding)

    @property
    def device(self) -> torch.device:
        return self.images.device

    def to(self, device: torch.device) -> "ImageStore":
        """A copy on `device`; itself where it is there already."""
        if device == self.device:
            return self
        index = {split: i.to(device) for split, i in self.index.items()}
        images, labels, mean, deviation = (t.to(device) for t in (self.images, self.labels, self.mean, self.deviation))
        return ImageStore(images, labels, index, mean, deviation, self.size, self.padding)

    @cached_property
    def _crops(self) -> Tensor:
        return crop_windows(self.images, self.size)

    def read(self, chosen: Tensor) -> Tensor:
        """The images `chosen` (N,), normalised, as they are: (N, C, size, size) float32."""
        if self.images.dtype == torch.uint8:
            return (self.images[chosen].float() - self.mean) / self.deviation
        p = self.padding
        return self.images[:, :, p : p + self.size, p : p + self.size][chosen]

    def read_augmented(self, chosen: Tensor, flip: bool, generator: torch.Generator) -> Tensor:
        """The images `chosen`, each cropped after padding and, where `flip`, mirrored at random."""
        if self.images.dtype == torch.uint8:
            images = random_crop(self.read(chosen), self.padding, generator)
        elif self.padding:
            # The same draws as `random_crop`, on images that are padded already.
            y, x = random_offsets(len(chosen), self.padding, generator).to(self.device, non_blocking=True)
            images = self._crops[chosen, y, x]
        else:
            images = self.images[chosen]
        return random_flip(images, generator) if flip else images


def cached(cache: OrderedDict[Hashable, T], key: Hashable, make: Callable[[], T]) -> T:
    """What `cache` holds under `key`, made by `make` where it holds nothing; the least recently used goes first."""
    if key not in cache:
        cache[key] = make()
        while len(cache) > _CACHED:
            cache.popitem(last=False)
    cache.move_to_end(key)
    return cache[key]


# A process that trains many trials pays for reading and preparing a data set once. Few entries: they hold the images.
RAW: OrderedDict[Hashable, JoinedImages] = OrderedDict()
STORES: OrderedDict[Hashable, ImageStore] = OrderedDict()
_CACHED = 4
