"""The operations of NASNet's cells, and the small layers that join them (Zoph et al. 2018, section 3 and appendix A).

Every operation maps (N, C, H, W) to (N, C, ceil(H / stride), ceil(W / stride)) for a stride of 1 or 2. Convolutions
come in the paper's order ReLU, convolution, batch norm; separable ones are applied twice. Pools have no batch norm.
"""

from collections.abc import Callable

from torch import nn

from nastricks.spaces.primitives import FactorizedReduction

Kernel = tuple[int, int]


def pointwise(inputs: int, outputs: int, stride: int) -> nn.Module:
    """A 1x1 convolution without bias; at stride 2 a factorized reduction. Both are linear."""
    if stride == 2:
        return FactorizedReduction(inputs, outputs)
    return nn.Conv2d(inputs, outputs, 1, bias=False)


def operation(name: str, channels: int, stride: int, affine: bool) -> nn.Module:
    """The operation called `name`, one of `OPERATIONS`, with fresh weights."""
    return _MAKERS[name](channels, stride, affine)


def has_weights(name: str, stride: int = 1) -> bool:
    """Whether the operation called `name` learns: pools do not, the identity only at stride 2."""
    return stride == 2 if name == "identity" else "pool" not in name


def _identity(channels: int, stride: int, affine: bool) -> nn.Module:
    if stride == 1:
        return nn.Identity()
    return nn.Sequential(FactorizedReduction(channels, channels), nn.BatchNorm2d(channels, affine=affine))


def _convolution(*kernels: Kernel, dilation: int = 1) -> Callable[[int, int, bool], nn.Module]:
    """ReLU, convolution, batch norm for each kernel in turn; of two, each strides along the side that it covers."""

    def make(channels: int, stride: int, affine: bool) -> nn.Module:
        layers: list[nn.Module] = []
        for height, width in kernels:
            alone = len(kernels) == 1
            steps = (stride if alone or height > 1 else 1, stride if alone or width > 1 else 1)
            padding = (dilation * (height - 1) // 2, dilation * (width - 1) // 2)
            layers += [
                nn.ReLU(),
                nn.Conv2d(channels, channels, (height, width), steps, padding, dilation, bias=False),
                nn.BatchNorm2d(channels, affine=affine),
            ]
        return nn.Sequential(*layers)

    return make


def _separable(side: int) -> Callable[[int, int, bool], nn.Module]:
    """ReLU, depthwise, pointwise, batch norm: twice, the stride in the first."""

    def make(channels: int, stride: int, affine: bool) -> nn.Module:
        layers: list[nn.Module] = []
        for step in (stride, 1):
            layers += [
                nn.ReLU(),
                nn.Conv2d(channels, channels, side, step, side // 2, groups=channels, bias=False),
                nn.Conv2d(channels, channels, 1, bias=False),
                nn.BatchNorm2d(channels, affine=affine),
            ]
        return nn.Sequential(*layers)

    return make


def _max_pool(side: int) -> Callable[[int, int, bool], nn.Module]:
    return lambda channels, stride, affine: nn.MaxPool2d(side, stride, side // 2)


def _avg_pool(channels: int, stride: int, affine: bool) -> nn.Module:
    return nn.AvgPool2d(3, stride, 1, count_include_pad=False)


_MAKERS: dict[str, Callable[[int, int, bool], nn.Module]] = {
    "identity": _identity,
    "conv_1x3_3x1": _convolution((1, 3), (3, 1)),
    "conv_1x7_7x1": _convolution((1, 7), (7, 1)),
    "dil_conv_3x3": _convolution((3, 3), dilation=2),
    "avg_pool_3x3": _avg_pool,
    "max_pool_3x3": _max_pool(3),
    "max_pool_5x5": _max_pool(5),
    "max_pool_7x7": _max_pool(7),
    "conv_1x1": _convolution((1, 1)),
    "conv_3x3": _convolution((3, 3)),
    "sep_conv_3x3": _separable(3),
    "sep_conv_5x5": _separable(5),
    "sep_conv_7x7": _separable(7),
}
OPERATIONS: dict[str, tuple[str, ...]] = {
    "small": ("identity", "sep_conv_3x3", "max_pool_3x3"),
    "published": tuple(_MAKERS),
}
