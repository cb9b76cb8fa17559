"""Operations that spaces share. They map (N, C, H, W) to (N, C', ceil(H / stride), ceil(W / stride))."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def conv_bn(inputs: int, outputs: int, kernel: int, affine: bool = True) -> nn.Sequential:
    """Convolution without bias, then batch norm."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False), nn.BatchNorm2d(outputs, affine=affine)
    )


def separable_conv(
    channels: int, kernel: int, *, dilation: int = 1, stride: int = 1, affine: bool = True
) -> nn.Sequential:
    """ReLU, depthwise, pointwise, batch norm: once [DARTS applies it twice]."""
    padding = dilation * (kernel - 1) // 2
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(channels, channels, kernel, stride, padding, dilation, groups=channels, bias=False),
        nn.Conv2d(channels, channels, 1, bias=False),
        nn.BatchNorm2d(channels, affine=affine),
    )


def max_pool_bn(channels: int, *, stride: int = 1, affine: bool = True) -> nn.Sequential:
    """3x3 max pooling, then batch norm."""
    return nn.Sequential(nn.MaxPool2d(3, stride, padding=1), nn.BatchNorm2d(channels, affine=affine))


class FactorizedReduction(nn.Module):
    """Halves the resolution without losing every second pixel: two 1x1 convolutions of stride 2, one of them shifted
    by a pixel down and right, each make half of the channels. (N, inputs, H, W) -> (N, outputs, ceil(H/2), ceil(W/2));
    beyond the edge of an odd image the shifted one reads zeros.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.even = nn.Conv2d(inputs, outputs // 2, 1, bias=False)
        self.odd = nn.Conv2d(inputs, outputs - outputs // 2, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        # The stride is taken by slicing: a 1x1 convolution of stride 2 on four channels-last channels writes beyond
        # its memory on the CPU (torch 2.15.0, backward pass).
        shifted = F.pad(x, (0, 1, 0, 1))[:, :, 1::2, 1::2]
        return torch.cat([self.even(x[:, :, ::2, ::2]), self.odd(shifted)], dim=1)


def classifier(channels: int, classes: int) -> nn.Sequential:
    """Global average, then a linear layer: (N, C, H, W) -> (N, classes)."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))
