"""Operations that spaces share. All keep the shape (N, C, H, W) -> (N, C, H, W) at stride 1."""

from torch import nn


def conv_bn(inputs: int, outputs: int, kernel: int, affine: bool = True) -> nn.Sequential:
    """Convolution without bias, then batch norm."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False), nn.BatchNorm2d(outputs, affine=affine)
    )


def separable_conv(channels: int, kernel: int, *, dilation: int = 1, affine: bool = True) -> nn.Sequential:
    """ReLU, depthwise, pointwise, batch norm: once [DARTS applies it twice]."""
    padding = dilation * (kernel - 1) // 2
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(channels, channels, kernel, padding=padding, dilation=dilation, groups=channels, bias=False),
        nn.Conv2d(channels, channels, 1, bias=False),
        nn.BatchNorm2d(channels, affine=affine),
    )


def max_pool_bn(channels: int, *, affine: bool = True) -> nn.Sequential:
    """3x3 max pooling at stride 1, then batch norm."""
    return nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1), nn.BatchNorm2d(channels, affine=affine))


def classifier(channels: int, classes: int) -> nn.Sequential:
    """Global average, then a linear layer: (N, C, H, W) -> (N, classes)."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))
