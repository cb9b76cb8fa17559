"""Augmentations as batched tensor operations: pure functions of the images and a generator.

Images are (N, C, H, W), of any device; nothing is changed in place. A generator on the CPU is meant, also for images
on an accelerator: the draws are a few numbers a sample, and a run then sees the same batches on every device.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from nastricks.errors import InputError


def crop_windows(padded: Tensor, size: int) -> Tensor:
    """A view of all crops of `size` pixels a side: (N, C, H, W) -> (N, H - size + 1, W - size + 1, C, size, size)."""
    return padded.unfold(2, size, 1).unfold(3, size, 1).permute(0, 2, 3, 1, 4, 5)


def random_offsets(n: int, padding: int, generator: torch.Generator) -> Tensor:
    """The upper left corners of `n` crops out of images padded by `padding`: (2, n) int64, uniform in 0 … 2·padding."""
    return torch.randint(2 * padding + 1, (2, n), generator=generator)


def random_crop(images: Tensor, padding: int, generator: torch.Generator) -> Tensor:
    """Pad with zeros and cut out the original size at a place of its own for each sample.

    The same as a shift by -`padding` … +`padding` pixels in each direction, where what comes in is zero.
    """
    if padding == 0:
        return images
    n, size = len(images), images.shape[-1]
    windows = crop_windows(F.pad(images, [padding] * 4), size)
    y, x = random_offsets(n, padding, generator).to(images.device, non_blocking=True)
    return windows[torch.arange(n, device=images.device), y, x]


def random_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror each sample left to right with probability one half."""
    flip = torch.rand(len(images), generator=generator).lt(0.5).to(images.device, non_blocking=True)
    return torch.where(flip[:, None, None, None], images.flip(-1), images)


def cutout(images: Tensor, length: int, generator: torch.Generator) -> Tensor:
    """Set one square a sample to zero (DeVries & Taylor 2017, arXiv:1708.04552).

    The square's centre is uniform over the image's pixels and the square is clipped at the border, so that part of it
    may lie outside. Its side is `length`; the released code makes an odd `length` one pixel smaller, here it is exact.

    Raises:
        InputError: `length` is below 1 or above the side of the image.
    """
    n, _, height, width = images.shape
    if not 1 <= length <= min(height, width):
        raise InputError(f"cutout length {length} does not fit: choose 1 to {min(height, width)}, the image's side")
    centres = torch.stack(
        [torch.randint(side, (n,), generator=generator) for side in (height, width)],
    )
    top, left = (centres - length // 2).to(images.device, non_blocking=True)
    rows = torch.arange(height, device=images.device) - top[:, None]
    columns = torch.arange(width, device=images.device) - left[:, None]
    inside = ((rows >= 0) & (rows < length))[:, :, None] & ((columns >= 0) & (columns < length))[:, None, :]
    return images.masked_fill(inside[:, None], 0.0)


def mixup(
    images: Tensor, labels: Tensor, classes: int, alpha: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Mix each sample with another of the batch (Zhang et al. 2018, arXiv:1710.09412).

    One λ ~ Beta(`alpha`, `alpha`) a batch and one permutation π, as in the released code:
    x' = λ·x + (1 - λ)·x[π], and the same for the one-hot labels.

    Args:
        images: (N, C, H, W), floating point.
        labels: (N,) hard labels.
        classes: K, the number of classes.
        alpha: above 0; towards 0 nothing is mixed, 1 draws λ uniformly.
        generator: on the CPU.

    Returns:
        The mixed images and the soft targets (N, K) of the images' type, whose rows sum to 1.

    Raises:
        InputError: `alpha` is not above 0.
    """
    if not alpha > 0:
        raise InputError(f"mixup alpha {alpha} is not above 0: choose for instance 1.0, or leave mixup out")
    # torch's Beta takes no generator, numpy's does: its seed comes from the keyed one.
    seed = int(torch.randint(2**62, (1,), generator=generator))
    weight = float(np.random.default_rng(seed).beta(alpha, alpha))
    other = torch.randperm(len(images), generator=generator).to(images.device, non_blocking=True)
    hard = F.one_hot(labels, classes).to(images.dtype)
    return weight * images + (1 - weight) * images[other], weight * hard + (1 - weight) * hard[other]
