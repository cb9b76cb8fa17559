"""What the elastic space is made of: MobileNetV3's blocks with sizes that gates choose (Howard et al. 2019)."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nastricks.spaces.choices import Allowed
from nastricks.spaces.elastic_layers import conv, depthwise, linear, norm, sized
from nastricks.spaces.network import Gates, Segment
from nastricks.spaces.primitives import conv_bn
from nastricks.spaces.sizes import Sizes, divisible, names

REDUCTION = 4
"""Channels of a squeeze-and-excitation's middle are a quarter of its own."""


class Resize(Segment):
    """Images at the resolution chosen, bilinear: (N, C, H, W) -> (N, C, R, R)."""

    def __init__(self, resolution: Sizes[int]) -> None:
        super().__init__()
        self.resolution, self.choices = resolution, names(resolution)

    def forward(self, state: Tensor, gates: Gates) -> Tensor:
        side = self.resolution.of(gates)
        if tuple(state.shape[2:]) == (side, side):
            return state
        return F.interpolate(state, size=(side, side), mode="bilinear", align_corners=False)


class Stem(Segment):
    """Convolution 3x3 with hard swish, then a block without expansion and with a shortcut."""

    def __init__(self, inputs: int, channels: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, channels, 3, stride, 1, bias=False)
        self.first_norm = nn.BatchNorm2d(channels)
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.depthwise_norm = nn.BatchNorm2d(channels)
        self.project = conv_bn(channels, channels, 1)

    @property
    def residual_norm(self) -> nn.Module:
        """The last normalisation of the branch beside the shortcut."""
        return self.project[1]

    def forward(self, state: Tensor, gates: Gates) -> Tensor:
        x = F.hardswish(self.first_norm(self.first(state)))
        y: Tensor = self.project(F.relu(self.depthwise_norm(self.depthwise(x))))
        return x + y


class SqueezeExcite(nn.Module):
    """Each channel times a factor in [0, 1] that the means of all channels decide: (N, C, H, W) stays."""

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        middle = [self.middle(count) for count in channels]
        self.reduce, self.expand = conv(channels, middle, bias=True), conv(middle, channels, bias=True)

    @staticmethod
    def middle(channels: int) -> int:
        return divisible(channels // REDUCTION)

    def forward(self, x: Tensor) -> Tensor:
        count = x.shape[1]
        means = F.relu(sized(self.reduce, x.mean((2, 3), keepdim=True), self.middle(count)))
        return x * F.hardsigmoid(sized(self.expand, means, count))


class BlockSizes(NamedTuple):
    """The sizes of a block: channels of its input and output, its kernel and expansion, and its stage's depth."""

    inputs: Sizes[int]
    outputs: Sizes[int]
    kernel: Sizes[int]
    expansion: Sizes[int]
    depth: Sizes[int]


class Block(Segment):
    """Inverted residual: 1x1 to the expansion, depthwise, squeeze and excitation where asked, 1x1 to the outputs.

    (N, C, H, W) -> (N, C', ceil(H / stride), ceil(W / stride)). Where the depth chosen is below its number it passes
    its input on. The first block of a stage has no shortcut, since there the shape may change, the others have one.

    Args:
        number: Its place in the stage, counted from 1.
        size: Its sizes.
        stride: 1 or 2.
        squeeze: Whether there is a squeeze and excitation.
        hard_swish: Hard swish in place of ReLU.
        learned: See `ElasticDepthwise`.
        allowed: The options to hold.
    """

    def __init__(
        self,
        number: int,
        size: BlockSizes,
        stride: int,
        squeeze: bool,
        hard_swish: bool,
        learned: bool,
        allowed: Allowed,
    ) -> None:
        super().__init__()
        self.number, self.size, self.shortcut = number, size, number > 1
        self.skippable = number > min(size.depth.kept(allowed))
        self.choices = names(*([size.depth] if self.skippable else []), size.outputs, size.kernel, size.expansion)
        self.activation = F.hardswish if hard_swish else F.relu
        inputs, outputs = size.inputs.kept(allowed), size.outputs.kept(allowed)
        hidden = [self.expanded(i, e) for i in inputs for e in size.expansion.kept(allowed)]
        self.expand, self.expand_norm = conv(inputs, hidden), norm(hidden)
        self.depthwise = depthwise(hidden, size.kernel.kept(allowed), stride, learned)
        self.depthwise_norm = norm(hidden)
        self.squeeze = SqueezeExcite(hidden) if squeeze else None
        self.project, self.project_norm = conv(hidden, outputs), norm(outputs)

    @staticmethod
    def expanded(inputs: int, expansion: int) -> int:
        """The channels between the 1x1 convolutions."""
        return divisible(inputs * expansion)

    def forward(self, state: Tensor, gates: Gates) -> Tensor:
        if self.skippable and self.size.depth.of(gates) < self.number:
            return state
        hidden = self.expanded(state.shape[1], self.size.expansion.of(gates))
        # A call a line: where nothing learns, what a call has read is free before the next one, and still in the cache.
        x = sized(self.expand, state, hidden)
        x = self.expand_norm(x)
        x = self.activation(x)
        x = sized(self.depthwise, x, self.size.kernel.of(gates))
        x = self.depthwise_norm(x)
        x = self.activation(x)
        if self.squeeze is not None:
            x = self.squeeze(x)
        x = sized(self.project, x, self.size.outputs.of(gates))
        x = self.project_norm(x)
        return state + x if self.shortcut else x

    @property
    def residual_norm(self) -> nn.Module | None:
        """The last normalisation of the branch beside the shortcut; None where there is no shortcut."""
        return self.project_norm if self.shortcut else None

    def hidden_sizes(self, allowed: Allowed) -> list[int]:
        """The numbers of hidden channels that paths with allowed options run, each once, rising."""
        inputs, expansions = self.size.inputs.kept(allowed), self.size.expansion.kept(allowed)
        return sorted({self.expanded(i, e) for i in inputs for e in expansions})

    def importance(self) -> Tensor:
        """The L1 norm (hidden,) of what the last convolution reads of each channel (once-for-all, section 3.3)."""
        return self.project.weight.detach().abs().sum((0, 2, 3))

    def hidden_axes(self) -> dict[str, int]:
        """The axis along which each tensor of the state has the hidden channels: what a reordering must permute."""
        axes = {"expand.weight": 0, "depthwise.weight": 0, "project.weight": 1}
        for name in ("expand_norm", "depthwise_norm"):
            axes |= {f"{name}.{key}": 0 for key in ("weight", "bias", "running_mean", "running_var")}
        if self.squeeze is not None:
            axes |= {"squeeze.reduce.weight": 1, "squeeze.expand.weight": 0, "squeeze.expand.bias": 0}
        return axes


class Head(Segment):
    """1x1 convolution with batch norm, average, 1x1 convolution, each with hard swish, then the classifier."""

    def __init__(self, inputs: Sequence[int], channels: int, features: int, classes: int) -> None:
        super().__init__()
        self.expand, self.expand_norm = conv(inputs, [channels]), nn.BatchNorm2d(channels)
        self.mix = nn.Linear(channels, features, bias=False)
        self.classifier = linear([features], classes)

    def forward(self, state: Tensor, gates: Gates) -> Tensor:
        x = F.hardswish(self.expand_norm(self.expand(state)))
        y: Tensor = self.classifier(F.hardswish(self.mix(torch.flatten(x.mean((2, 3)), 1))))
        return y
