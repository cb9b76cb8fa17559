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


class InvertedResidual(nn.Module):
    """1x1 to `expansion` times the channels, depthwise, 1x1; each with batch norm, ReLU behind the first two.

    (N, inputs, H, W) -> (N, outputs, ceil(H / stride), ceil(W / stride)), with a shortcut where the shapes are equal
    (MobileNetV2, Sandler et al. 2018, figure 4). Without expansion the first convolution falls away. MobileNetV2 has
    ReLU6; plain ReLU unless said otherwise.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        expansion: int,
        stride: int = 1,
        *,
        dilation: int = 1,
        activation: type[nn.Module] = nn.ReLU,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        hidden, padding = expansion * inputs, dilation * (kernel - 1) // 2
        expand = [nn.Conv2d(inputs, hidden, 1, bias=False), nn.BatchNorm2d(hidden, eps=eps), activation()]
        self.body = nn.Sequential(
            *(expand if expansion > 1 else []),
            nn.Conv2d(hidden, hidden, kernel, stride, padding, dilation, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden, eps=eps),
            activation(),
            nn.Conv2d(hidden, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs, eps=eps),
        )
        self.shortcut = inputs == outputs and stride == 1

    @property
    def residual_norm(self) -> nn.Module | None:
        """The last normalisation of the branch beside the shortcut; None where there is no shortcut."""
        return self.body[-1] if self.shortcut else None

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        return x + y if self.shortcut else y


class Projection(nn.Module):
    """Every second pixel where the stride is 2, 1x1 convolution, batch norm: what changes a shortcut's shape."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.layers = conv_bn(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        # Sliced for the reason given in FactorizedReduction.
        return self.layers(x[:, :, :: self.stride, :: self.stride])


def classifier(channels: int, classes: int) -> nn.Sequential:
    """Global average, then a linear layer: (N, C, H, W) -> (N, classes)."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))
