"""What slimmable networks are made of: layers whose numbers of channels gates choose."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from nastricks.spaces.choices import Allowed
from nastricks.spaces.elastic_layers import conv, depthwise, linear, norm, sized
from nastricks.spaces.network import Gates, Segment
from nastricks.spaces.sizes import Sizes, names


class SlimStem(Segment):
    """Convolution 3x3, batch norm, ReLU or MobileNetV2's ReLU6."""

    def __init__(self, inputs: int, outputs: Sizes[int], stride: int, mobile: bool, allowed: Allowed) -> None:
        super().__init__()
        self.outputs, self.choices = outputs, names(outputs)
        self.activation = F.relu6 if mobile else F.relu
        kept = outputs.kept(allowed)
        self.conv, self.norm = conv([inputs], kept, 3, stride), norm(kept)

    def forward(self, state: Tensor, gates: Gates) -> Tensor:
        return self.activation(self.norm(sized(self.conv, state, self.outputs.of(gates))))


def norm_axes(name: str) -> dict[str, int]:
    """A normalisation has its channels along the only axis of each of its tensors."""
    return {f"{name}.{key}": 0 for key in ("weight", "bias", "running_mean", "running_var")}


class BasicBlock(Segment):
    """ResNet's: two 3x3 convolutions with batch norm beside a shortcut, 1x1 with batch norm where the stream changes.

    (N, C, H, W) -> (N, outputs, ceil(H / stride), ceil(W / stride)); `inside` channels between the convolutions.
    """

    def __init__(
        self, inputs: Sizes[int], inside: Sizes[int] | None, outputs: Sizes[int], stride: int, allowed: Allowed
    ) -> None:
        super().__init__()
        assert inside is not None, "a ResNet's block has a layer inside"
        self.inside, self.outputs, self.choices = inside, outputs, names(inside, outputs)
        own, middle, after = inputs.kept(allowed), inside.kept(allowed), outputs.kept(allowed)
        self.first, self.first_norm = conv(own, middle, 3, stride), norm(middle)
        self.second, self.second_norm = conv(middle, after, 3), norm(after)
        changes = stride != 1 or inputs is not outputs
        self.shortcut = conv(own, after, 1) if changes else None
        self.shortcut_norm = norm(after) if changes else None
        self.stride = stride

    @property
    def residual_norm(self) -> nn.Module:
        """The last normalisation of the branch beside the shortcut."""
        return self.second_norm

    def hidden_sizes(self, allowed: Allowed) -> Sequence[int]:
        """The numbers of channels between the convolutions that paths with allowed options run, rising."""
        return self.inside.kept(allowed)

    def importance(self) -> Tensor:
        """The L1 norm (inside,) of what the second convolution reads of each channel."""
        return self.second.weight.detach().abs().sum((0, 2, 3))

    def hidden_axes(self) -> dict[str, int]:
        """The axis along which each tensor of the state has the channels between the convolutions."""
        return {"first.weight": 0, "second.weight": 1, **norm_axes("first_norm")}

    def forward(self, state: Tensor, gates: Gates) -> Tensor:
        outputs = self.outputs.of(gates)
        x = F.relu(self.first_norm(sized(self.first, state, self.inside.of(gates))))
        x = self.second_norm(sized(self.second, x, outputs))
        if self.shortcut is not None and self.shortcut_norm is not None:
            # The stride is taken by slicing, for the reason given in FactorizedReduction.
            state = self.shortcut_norm(sized(self.shortcut, state[:, :, :: self.stride, :: self.stride], outputs))
        return F.relu(x + state)


class InvertedBlock(Segment):
    """MobileNetV2's: 1x1 to `inside` channels, depthwise 3x3, 1x1 to `outputs`, with a shortcut where the stream stays.

    `inside` None: no first convolution, the depthwise one reads the input.
    """

    def __init__(
        self, inputs: Sizes[int], inside: Sizes[int] | None, outputs: Sizes[int], stride: int, allowed: Allowed
    ) -> None:
        super().__init__()
        self.inside, self.outputs = inside, outputs
        self.choices = names(*([] if inside is None else [inside]), outputs)
        own, after = inputs.kept(allowed), outputs.kept(allowed)
        middle = own if inside is None else inside.kept(allowed)
        self.expand = None if inside is None else conv(own, middle)
        self.expand_norm = None if inside is None else norm(middle)
        self.depthwise, self.depthwise_norm = depthwise(middle, [3], stride), norm(middle)
        self.project, self.project_norm = conv(middle, after), norm(after)
        self.shortcut = stride == 1 and inputs is outputs

    @property
    def residual_norm(self) -> nn.Module | None:
        """The last normalisation of the branch beside the shortcut; None where there is no shortcut."""
        return self.project_norm if self.shortcut else None

    def hidden_sizes(self, allowed: Allowed) -> Sequence[int]:
        """The numbers of channels inside that paths with allowed options run, rising."""
        return () if self.inside is None else self.inside.kept(allowed)

    def importance(self) -> Tensor:
        """The L1 norm (inside,) of what the last convolution reads of each channel."""
        return self.project.weight.detach().abs().sum((0, 2, 3))

    def hidden_axes(self) -> dict[str, int]:
        """The axis along which each tensor of the state has the channels inside; {} where it has no such layer."""
        if self.inside is None:
            return {}
        weights = {"expand.weight": 0, "depthwise.weight": 0, "project.weight": 1}
        return weights | norm_axes("expand_norm") | norm_axes("depthwise_norm")

    def forward(self, state: Tensor, gates: Gates) -> Tensor:
        x = state
        if self.inside is not None and self.expand is not None and self.expand_norm is not None:
            x = F.relu6(self.expand_norm(sized(self.expand, x, self.inside.of(gates))))
        x = F.relu6(self.depthwise_norm(self.depthwise(x)))
        y: Tensor = self.project_norm(sized(self.project, x, self.outputs.of(gates)))
        return state + y if self.shortcut else y


class SlimHead(Segment):
    """Average and classifier; before them 1x1 convolution, batch norm and ReLU6 where `last` says how wide."""

    def __init__(self, inputs: Sizes[int], last: Sizes[int] | None, classes: int, allowed: Allowed) -> None:
        super().__init__()
        self.last, self.choices = last, () if last is None else names(last)
        own = inputs.kept(allowed)
        wide = own if last is None else last.kept(allowed)
        self.conv: nn.Conv2d | None = None if last is None else conv(own, wide)
        self.norm = None if last is None else norm(wide)
        self.classifier = linear(wide, classes)

    def forward(self, state: Tensor, gates: Gates) -> Tensor:
        x = state
        if self.last is not None and self.conv is not None and self.norm is not None:
            x = F.relu6(self.norm(sized(self.conv, x, self.last.of(gates))))
        y: Tensor = self.classifier(x.mean((2, 3)))
        return y
