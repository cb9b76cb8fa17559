"""Layers of which a smaller one is the beginning of a larger: the first channels, the middle of a kernel.

How many channels come in is read off the input, and what goes out is an argument, so no layer holds a size. A layer
that keeps one size is torch's own (`conv`, `norm`, `linear`): a child has no elastic layer left.
"""

import re
from collections.abc import Mapping, Sequence
from itertools import combinations, pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nastricks.errors import InputError


class ElasticConv2d(nn.Conv2d):
    """A dense convolution of which the first output and input channels run.

    (N, C, H, W) -> (N, outputs, H', W') for any C up to `in_channels` and `outputs` up to `out_channels`.
    """

    def forward(self, x: Tensor, outputs: int | None = None) -> Tensor:
        count = self.out_channels if outputs is None else outputs
        bias = None if self.bias is None else self.bias[:count]
        return self._conv_forward(x, self.weight[:count, : x.shape[1]], bias)


class ElasticDepthwise(nn.Conv2d):
    """A depthwise convolution without bias of which the first channels run, with one of several odd kernels.

    (N, C, H, W), a kernel -> (N, C, ceil(H / stride), ceil(W / stride)).

    Args:
        channels: The most channels.
        kernels: The kernel sizes, rising.
        stride: 1 or 2.
        learned: Whether a smaller kernel is the middle of the next larger one times a learned matrix, shared by all
            channels and the identity at first (once-for-all, section 3.3); else the middle of the largest.
    """

    def __init__(self, channels: int, kernels: Sequence[int], stride: int = 1, learned: bool = False) -> None:
        largest = max(kernels)
        super().__init__(channels, channels, largest, stride, largest // 2, groups=channels, bias=False)
        for small, large in pairwise(kernels) if learned else ():
            self.register_parameter(transform_name(large, small), nn.Parameter(torch.eye(small * small)))

    def forward(self, x: Tensor, kernel: int | None = None) -> Tensor:
        channels = x.shape[1]
        size = self.kernel_size[0] if kernel is None else kernel
        weight = narrow_kernel(self.weight[:channels], size, dict(self.named_parameters(recurse=False)))
        return F.conv2d(x, weight, stride=self.stride, padding=size // 2, groups=channels)


class ElasticBatchNorm2d(nn.BatchNorm2d):
    """Batch norm over the first channels; each has one mean, variance, scale and shift whatever the width.

    Running statistics are therefore those of all widths that were trained together: a child is calibrated before it is
    scored, in place of a batch norm for each width (slimmable networks, Yu et al. 2019; AutoSlim calibrates).
    """

    def forward(self, x: Tensor) -> Tensor:
        count = x.shape[1]
        if count == self.num_features:
            return super().forward(x)
        mean, variance, scale, shift = (
            None if tensor is None else tensor[:count]
            for tensor in (self.running_mean, self.running_var, self.weight, self.bias)
        )
        moves = self.training and self.track_running_stats and mean is not None
        if self.training and not moves:
            mean = variance = None
        return F.batch_norm(
            x, mean, variance, scale, shift, self.training or mean is None, self._factor() if moves else 0.0, self.eps
        )

    def _factor(self) -> float:
        """The weight of this batch in the running statistics; None as momentum asks for the mean of all batches."""
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if self.momentum is None:
                return 1.0 / float(self.num_batches_tracked)
        return 0.0 if self.momentum is None else self.momentum


class ElasticLinear(nn.Linear):
    """A linear layer of which the first inputs are there: (N, C) -> (N, out_features)."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight[:, : x.shape[1]], self.bias)


def conv(
    inputs: Sequence[int], outputs: Sequence[int], kernel: int = 1, stride: int = 1, bias: bool = False
) -> nn.Conv2d:
    """A dense convolution for these numbers of channels."""
    kind = nn.Conv2d if len(set(inputs)) == len(set(outputs)) == 1 else ElasticConv2d
    return kind(max(inputs), max(outputs), kernel, stride, kernel // 2, bias=bias)


def depthwise(channels: Sequence[int], kernels: Sequence[int], stride: int = 1, learned: bool = False) -> nn.Conv2d:
    """A depthwise convolution without bias for these numbers of channels and kernels."""
    if len(set(channels)) == len(kernels) == 1:
        (count, *_), (kernel,) = channels, kernels
        return nn.Conv2d(count, count, kernel, stride, kernel // 2, groups=count, bias=False)
    return ElasticDepthwise(max(channels), kernels, stride, learned)


def norm(channels: Sequence[int]) -> nn.BatchNorm2d:
    """A batch norm for these numbers of channels."""
    return (nn.BatchNorm2d if len(set(channels)) == 1 else ElasticBatchNorm2d)(max(channels))


def linear(inputs: Sequence[int], outputs: int) -> nn.Linear:
    """A linear layer for these numbers of inputs."""
    return (nn.Linear if len(set(inputs)) == 1 else ElasticLinear)(max(inputs), outputs)


def sized(layer: nn.Conv2d, x: Tensor, size: int) -> Tensor:
    """The convolution at a number of output channels, or of a kernel size; one of torch's own has one size."""
    y: Tensor = layer(x, size) if isinstance(layer, ElasticConv2d | ElasticDepthwise) else layer(x)
    return y


# Weights of a smaller layer out of a larger one's.


def transform_name(large: int, small: int) -> str:
    return f"kernel_{large}_to_{small}"


def is_transform(name: str) -> bool:
    """Whether a tensor of this name is the matrix that makes a smaller kernel."""
    return re.fullmatch(r"kernel_\d+_to_\d+", name.rpartition(".")[2]) is not None


def narrow_kernel(weight: Tensor, size: int, transforms: Mapping[str, Tensor]) -> Tensor:
    """A kernel of side `size` out of the larger `weight` (O, I, K, K) -> (O, I, size, size).

    Step by step through the sizes for which `transforms` has a matrix (k * k, k * k), called ``kernel_5_to_3``: the
    middle, times the matrix. Where there is none, the middle.
    """
    while weight.shape[-1] > size:
        large = weight.shape[-1]
        step = next((s for s in range(large - 2, size - 1, -2) if transform_name(large, s) in transforms), None)
        small = size if step is None else step
        margin = (large - small) // 2
        weight = weight[:, :, margin : margin + small, margin : margin + small]
        if step is not None:
            flat = weight.reshape(*weight.shape[:2], -1)
            weight = F.linear(flat, transforms[transform_name(large, small)]).view(*weight.shape)
    return weight


def narrowed(name: str, shape: torch.Size, state: Mapping[str, Tensor]) -> Tensor:
    """The beginning of a larger network's tensor `name` in the given shape; kernels from their middle.

    Args:
        name: As in `state`, such as ``segments.head.expand.weight``.
        shape: Of the smaller network's tensor of that name.
        state: The larger network's parameters and statistics.

    Raises:
        InputError: the larger network's tensor is the smaller one.
    """
    tensor = state[name]
    if tensor.dim() != len(shape) or any(a < b for a, b in zip(tensor.shape, shape, strict=True)):
        raise InputError(
            f"the earlier weights do not fit at {name}: {tuple(tensor.shape)} holds no {tuple(shape)}, so they are of "
            "another space or width"
        )
    if tensor.dim() == 4 and tensor.shape[-1] > shape[-1]:
        layer, sides = name.removesuffix("weight"), range(shape[-1], tensor.shape[-1] + 1, 2)
        steps = (transform_name(large, small) for small, large in combinations(sides, 2))
        own = {step: state[layer + step] for step in steps if layer + step in state}
        tensor = narrow_kernel(tensor, shape[-1], own)
    return tensor[tuple(slice(count) for count in shape)]
