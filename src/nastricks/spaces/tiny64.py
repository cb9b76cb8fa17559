"""Three choices of four operations in a row: small enough to train all 64 children, and it tells tricks apart."""

from typing import ClassVar

from torch import Tensor, nn

from nastricks.data.batch import ImageSpec
from nastricks.errors import InputError
from nastricks.spaces.base import Space
from nastricks.spaces.choices import Allowed, Architecture, Choice, Option
from nastricks.spaces.network import GatedOps, Gates, Network, Plain, Segment
from nastricks.spaces.primitives import classifier, conv_bn, max_pool_bn, separable_conv

OPTIONS = (
    Option("max_pool_3x3"),  # its batch norm has weights
    Option("sep_conv_3x3"),
    Option("sep_conv_5x5"),
    Option("identity", identity=True, learns=False, skip=True),
)


def _operation(index: int, channels: int) -> nn.Module:
    if index == 0:
        return max_pool_bn(channels)
    return nn.Identity() if index == 3 else separable_conv(channels, 3 if index == 1 else 5)


class Layer(Segment):
    """One choice of the row."""

    def __init__(self, choice: Choice, channels: int, options: tuple[int, ...]) -> None:
        super().__init__()
        self.choices = (choice.name,)
        self.choice = GatedOps(choice, options, _operation, channels)

    def forward(self, state: Tensor, gates: Gates) -> Tensor:
        return self.choice(state, gates[self.choices[0]])


class Tiny64(Space):
    """Stem, choice, 2x2 max pooling, choice, choice, ReLU, classifier. Written as three digits, ``111`` to ``444``.

    A dropped path passes the layer's input through: the row has no shortcut beside a choice, and a zero would cut
    the sample off.

    Args:
        channels: Width of every layer, at least 1.
    """

    name: ClassVar[str] = "tiny64"

    def __init__(self, channels: int = 16) -> None:
        if channels < 1:
            raise InputError(f"space.channels is {channels}: expected at least 1")
        self.channels = channels
        self.choices = tuple(Choice(f"layer{i}", OPTIONS, dropped="input") for i in (1, 2, 3))

    def build(self, spec: ImageSpec, allowed: Allowed) -> Network:
        first, second, third = (Layer(c, self.channels, tuple(allowed[c.name])) for c in self.choices)
        segments: dict[str, Segment] = {
            "stem": Plain(conv_bn(spec.channels, self.channels, 3)),
            "layer1": first,
            "pool": Plain(nn.MaxPool2d(2)),
            "layer2": second,
            "layer3": third,
            "head": Plain(nn.ReLU(), classifier(self.channels, spec.classes)),
        }
        return Network(segments, allowed)

    def canonical(self, architecture: Architecture) -> Architecture:
        """An identity in layer 2 moves behind layer 3, which has the same shape: 52 distinct networks remain."""
        first, second, third = architecture
        return (first, third, second) if OPTIONS[second].identity else architecture
