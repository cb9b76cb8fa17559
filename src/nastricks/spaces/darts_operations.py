"""The operations of DARTS's cells (Liu et al. 2019, section 3.1 and the official code).

Every operation maps (N, C, H, W) to (N, C, ceil(H / stride), ceil(W / stride)) for a stride of 1 or 2. Convolutions
come in the order ReLU, convolution, batch norm.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from nastricks.spaces.choices import Option
from nastricks.spaces.primitives import FactorizedReduction, separable_conv

NONE, SKIP, NOISE = "none", "skip_connect", "noise"


class Norms(NamedTuple):
    """Which batch norms there are: with learnable scale and shift (`affine`), and behind pools (`pools`)."""

    affine: bool
    pools: bool


def operation(name: str, channels: int, stride: int, norms: Norms) -> nn.Module:
    """The operation called `name`, one of `OPERATIONS` but ``none``, with fresh weights."""
    return _MAKERS[name](channels, stride, norms)


def option(name: str, stride: int, norms: Norms) -> Option:
    """What a choice says of the operation called `name`.

    A skip connection passes its input through at stride 1, and is a factorized reduction with weights at stride 2.
    """
    if name == NONE:
        return Option(NONE, learns=False, absent=True)
    if name == SKIP:
        return Option(SKIP, identity=stride == 1, learns=stride == 2, skip=True)
    if "pool" in name:
        return Option(name, learns=norms.pools and norms.affine)
    return Option(name, learns=name != NOISE)


def _pool(layer: nn.Module, channels: int, norms: Norms) -> nn.Module:
    return nn.Sequential(layer, nn.BatchNorm2d(channels, affine=norms.affine)) if norms.pools else layer


def _max_pool(channels: int, stride: int, norms: Norms) -> nn.Module:
    return _pool(nn.MaxPool2d(3, stride, padding=1), channels, norms)


def _avg_pool(channels: int, stride: int, norms: Norms) -> nn.Module:
    return _pool(nn.AvgPool2d(3, stride, padding=1, count_include_pad=False), channels, norms)


def _skip(channels: int, stride: int, norms: Norms) -> nn.Module:
    return nn.Identity() if stride == 1 else reduction(channels, channels, norms)


def reduction(inputs: int, outputs: int, norms: Norms) -> nn.Sequential:
    """ReLU, factorized reduction, batch norm."""
    return nn.Sequential(nn.ReLU(), FactorizedReduction(inputs, outputs), nn.BatchNorm2d(outputs, affine=norms.affine))


class Noise(nn.Module):
    """Standard normal noise in place of the input, drawn anew in every pass, in evaluation too (Zela et al. 2020, S4).

    It comes from torch's global generator of the input's device, which a training step keys.
    """

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return torch.randn_like(x[:, :, :: self.stride, :: self.stride])


def _noise(channels: int, stride: int, norms: Norms) -> nn.Module:
    return Noise(stride)


def _separable(kernel: int) -> Callable[[int, int, Norms], nn.Module]:
    """Twice, the stride in the first."""
    return lambda channels, stride, norms: nn.Sequential(
        separable_conv(channels, kernel, stride=stride, affine=norms.affine),
        separable_conv(channels, kernel, affine=norms.affine),
    )


def _dilated(kernel: int) -> Callable[[int, int, Norms], nn.Module]:
    return lambda channels, stride, norms: separable_conv(
        channels, kernel, dilation=2, stride=stride, affine=norms.affine
    )


_MAKERS: dict[str, Callable[[int, int, Norms], nn.Module]] = {
    "max_pool_3x3": _max_pool,
    "avg_pool_3x3": _avg_pool,
    SKIP: _skip,
    "sep_conv_3x3": _separable(3),
    "sep_conv_5x5": _separable(5),
    "dil_conv_3x3": _dilated(3),
    "dil_conv_5x5": _dilated(5),
    NOISE: _noise,
}
OPERATIONS = (NONE, *_MAKERS)
PUBLISHED = OPERATIONS[:-1]
"""The operations of DARTS, in the order of the official code."""
