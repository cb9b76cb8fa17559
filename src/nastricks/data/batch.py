"""What a network needs to know of the data, and what one step of training is given."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class ImageSpec(NamedTuple):
    """The shape of a data set's images (square, `size` pixels a side) and the number of its classes."""

    channels: int
    size: int
    classes: int


@dataclass
class Batch:
    """Images with their labels.

    `images` is (N, C, H, W) float32, `labels` (N,) int64: always the hard labels, so that accuracy stays defined.
    `targets` is (N, K) float32, the soft targets, where a trick mixed the batch, and None otherwise. `indices` is (N,)
    int64, the number of each image in the data set; None where the images are not those of the data set any more.
    """

    images: Tensor
    labels: Tensor
    targets: Tensor | None = None
    indices: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def chunks(self, n: int) -> list["Batch"]:
        """At most `n` micro-batches in order, cut as by ``torch.chunk`` (fewer than `n` where the batch is short)."""
        if n == 1:
            return [self]
        images, labels = self.images.chunk(n), self.labels.chunk(n)
        targets = [None] * len(labels) if self.targets is None else self.targets.chunk(n)
        indices = [None] * len(labels) if self.indices is None else self.indices.chunk(n)
        return [Batch(*part) for part in zip(images, labels, targets, indices, strict=True)]

    # Lightning moves a batch by its `to` where there is one; without it, it deep-copies the dataclass every step.
    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Batch":
        """This batch on `device`; itself where it is there already."""
        if self.images.device == torch.device(device):
            return self
        return Batch(
            self.images.to(device, non_blocking=non_blocking),
            self.labels.to(device, non_blocking=non_blocking),
            None if self.targets is None else self.targets.to(device, non_blocking=non_blocking),
            None if self.indices is None else self.indices.to(device, non_blocking=non_blocking),
        )
