"""The layer-wise space of NAS-Bench-Macro: "Prioritized Architecture Sampling with Monto-Carlo Tree Search" (Su et al.
2021, 2103.11922, section 5 and the released code). All 6,561 children were trained three times on CIFAR-10.
"""

import functools
from collections.abc import Sequence
from functools import partial
from typing import ClassVar

from torch import Tensor, nn

from nastricks.data.batch import ImageSpec
from nastricks.errors import InputError
from nastricks.spaces.base import Cost, Space
from nastricks.spaces.choices import Allowed, Architecture, Choice, Option
from nastricks.spaces.network import GatedOps, Gates, Network, Plain, Segment
from nastricks.spaces.primitives import InvertedResidual, Projection, classifier, conv_bn

STAGES = (2, 3, 3)
IDENTITY = 0


def _options(reduces: bool) -> tuple[Option, ...]:
    return (
        Option("identity", identity=not reduces, learns=reduces, skip=True),
        Option("ir_3x3_e3"),
        Option("ir_5x5_e6"),
    )


def _operation(index: int, channels: int, reduces: bool) -> nn.Module:
    """An option for an input of so many channels; the first layer of a stage halves the image and doubles them."""
    outputs, stride = (2 * channels, 2) if reduces else (channels, 1)
    if index == IDENTITY:
        return Projection(channels, outputs, stride) if reduces else nn.Identity()
    kernel, expansion = ((3, 3), (5, 6))[index - 1]
    return InvertedResidual(channels, outputs, kernel, expansion, stride)


class Layer(Segment):
    """One choice of the row."""

    def __init__(self, choice: Choice, channels: int, reduces: bool, options: Sequence[int]) -> None:
        super().__init__()
        self.choices = (choice.name,)
        stride, outputs = (2, 2 * channels) if reduces else (1, channels)
        make = partial(_operation, reduces=reduces)
        self.choice = GatedOps(choice, options, make, channels, stride, outputs)

    def forward(self, state: Tensor, gates: Gates) -> Tensor:
        return self.choice(state, gates[self.choices[0]])


class NASBenchMacro(Space):
    """Stem, eight layers in stages of 2, 3 and 3, 1x1 convolution, classifier. Written as in the table: ``00000000``
    to ``22222222``, a digit a layer: 0 identity, 1 inverted residual of kernel 3 and expansion 3, 2 of 5 and 6.

    The first layer of a stage has stride 2 and twice the channels; an identity is a 1x1 convolution with batch norm
    there. Behind the stem, an identity in a later layer of a stage moves to the stage's end without changing the
    network, so 3,969 of the 6,561 codes are distinct networks when trained alone. A ranking counts each once: the
    canonical code, identities last, is scored, and stands for its other spellings, which a supernet scores otherwise
    (it has weights of its own for every layer).

    A dropped path passes the layer's input through; in the first layer of a stage its 2x2 mean, padded with zeros.

    The published table counts as parameters all that is trained, and as FLOPs the multiply-adds of convolutions and of
    the classifier without its bias, each once; batch norm, ReLU, additions and pooling are not counted. `Space.cost`
    counts the same operations with 2 FLOPs a multiply-add, so its figures are twice the table's.

    Args:
        channels: Width of the stem, at least 1; 32 as published.
        head_channels: Width of the last convolution, at least 1; 1280 as published.
    """

    name: ClassVar[str] = "nas_bench_macro"
    counts_twins: ClassVar[bool] = False

    def __init__(self, channels: int = 32, head_channels: int = 1280) -> None:
        for key, value in {"channels": channels, "head_channels": head_channels}.items():
            if value < 1:
                raise InputError(f"space.{key} is {value}: expected at least 1")
        self.channels, self.head_channels = channels, head_channels
        self.reduces = tuple(number == 0 for layers in STAGES for number in range(layers))
        self.choices = tuple(
            Choice(f"layer{i}", _options(reduces), dropped="input") for i, reduces in enumerate(self.reduces, start=1)
        )

    def build(self, spec: ImageSpec, allowed: Allowed) -> Network:
        width = self.channels
        segments: dict[str, Segment] = {"stem": Plain(conv_bn(spec.channels, width, 3), nn.ReLU())}
        for choice, reduces in zip(self.choices, self.reduces, strict=True):
            segments[choice.name] = Layer(choice, width, reduces, allowed[choice.name])
            width *= 2 if reduces else 1
        last = conv_bn(width, self.head_channels, 1)
        segments["head"] = Plain(last, nn.ReLU(), classifier(self.head_channels, spec.classes))
        return Network(segments, allowed)

    def canonical(self, architecture: Architecture) -> Architecture:
        """Identities behind the first layer of a stage move to its end; sizes stay the same."""
        stages, start = [], 0
        for layers in STAGES:
            first, *rest = architecture[start : start + layers]
            stages += [first, *sorted(rest, key=lambda option: option == IDENTITY)]
            start += layers
        return tuple(stages)

    def cost(self, architecture: Architecture, spec: ImageSpec) -> Cost:
        """As `Space.cost`, as a sum over layers: all options of a layer have the same shapes. 6,561 take a second."""
        base, added = _costs(self.channels, self.head_channels, spec)
        terms = [added[place, index] for place, index in enumerate(self.check(architecture))]
        return Cost(*(sum(column) for column in zip(base, *terms, strict=True)))

    def format(self, architecture: Architecture) -> str:
        """The code of the published table, such as ``20122100``."""
        return "".join(str(index) for index in architecture)

    def parse(self, text: str) -> Architecture:
        if len(text) == len(self.choices) and all(character in "012" for character in text):
            return tuple(int(character) for character in text)
        raise InputError(
            f"{text!r} is no architecture of {self.name}: expected {len(self.choices)} digits from 0 to 2, such as "
            "'20122100'"
        )


@functools.cache
def _costs(channels: int, head_channels: int, spec: ImageSpec) -> tuple[Cost, dict[tuple[int, int], Cost]]:
    """The cost of the child of identities, and what each option of each layer adds to it: 17 children are built."""
    space = NASBenchMacro(channels, head_channels)
    identities = (IDENTITY,) * len(space.choices)
    base = Space.cost(space, identities, spec)
    added = {}
    for place, choice in enumerate(space.choices):
        for index in range(len(choice.options)):
            whole = Space.cost(space, (*identities[:place], index, *identities[place + 1 :]), spec)
            added[place, index] = Cost(*(a - b for a, b in zip(whole, base, strict=True)))
    return base, added
