"""A space of inverted residuals, block by block: ProxylessNAS (1812.00332) and FBNet (1812.03443)."""

from collections.abc import Sequence
from functools import partial
from typing import ClassVar

from torch import Tensor, nn

from nastricks.data.batch import ImageSpec
from nastricks.errors import InputError
from nastricks.spaces.base import Space
from nastricks.spaces.choices import Allowed, Architecture, Choice, Option
from nastricks.spaces.network import GatedOps, Gates, Network, Plain, Segment
from nastricks.spaces.primitives import InvertedResidual, classifier

BN_EPS = 1e-3  # of the published networks
SKIP = Option("skip", identity=True, learns=False, skip=True)


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    """Convolution without bias, batch norm, ReLU6."""
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return [convolution, nn.BatchNorm2d(outputs, eps=BN_EPS), nn.ReLU6()]


_inverted_residual = partial(InvertedResidual, activation=nn.ReLU6, eps=BN_EPS)


def _make(
    shapes: Sequence[tuple[int, int, int]], outputs: int | None, stride: int, index: int, channels: int
) -> nn.Module:
    """The operation of an option; `outputs` None keeps the number of channels."""
    if index == len(shapes):
        return nn.Identity()
    kernel, expansion, dilation = shapes[index]
    return _inverted_residual(channels, outputs or channels, kernel, expansion, stride, dilation=dilation)


class Block(Segment):
    """One choice of the row."""

    def __init__(
        self,
        choice: Choice,
        shapes: Sequence[tuple[int, int, int]],
        inputs: int,
        outputs: int,
        stride: int,
        allowed: Allowed,
    ) -> None:
        super().__init__()
        self.choices = (choice.name,)
        make = partial(_make, shapes, None if inputs == outputs else outputs, stride)
        self.choice = GatedOps(choice, allowed[choice.name], make, inputs, stride, outputs)

    def forward(self, state: Tensor, gates: Gates) -> Tensor:
        return self.choice(state, gates[self.choices[0]])


class Mobile(Space):
    """Stem, a fixed first block, stages of blocks, 1x1 convolution, classifier.

    The stem is a 3x3 convolution, the first block an inverted residual with kernel 3 and no expansion. A choice is the
    operation of one block: ``k5e3`` is an inverted residual with a depthwise 5x5 and three times the channels,
    ``k5e3d2`` one dilated by 2. The first block of a stage takes the stage's stride and width. Blocks that keep the
    shape may be left out: ``skip``. Their shortcut is part of the operation, so weighted operations add up to input +
    weighted branches where the weights add up to 1.

    An architecture is its blocks joined by dashes, and its stages by underscores: ``k3e6-skip_k5e3-k3e3``.

    A dropped path passes the block's input through; blocks that change the shape are not dropped.

    Args:
        widths: Channels of each stage, at least 1.
        depths: Blocks of each stage, at least 1.
        strides: Stride of each stage's first block, 1 or 2.
        kernels: Odd sides of the depthwise kernel, different ones.
        expansions: Factors of the channels inside a block, at least 1, different ones.
        dilations: Dilations of the depthwise kernel, at least 1, different ones.
        skip: Whether blocks that keep the shape may be left out.
        stem_channels: Width of the stem, at least 1.
        stem_stride: 1 or 2.
        first_channels: Width of the fixed first block, at least 1.
        head_channels: Width of the last convolution, at least 1.

    The defaults are the space of ProxylessNAS on ImageNet.

    Raises:
        InputError: a value is out of its range, or the stages have not the same number of widths, depths and strides.
    """

    name: ClassVar[str] = "mobile"

    def __init__(
        self,
        widths: Sequence[int] = (24, 40, 80, 96, 192, 320),
        depths: Sequence[int] = (4, 4, 4, 4, 4, 1),
        strides: Sequence[int] = (2, 2, 2, 1, 2, 1),
        kernels: Sequence[int] = (3, 5, 7),
        expansions: Sequence[int] = (3, 6),
        dilations: Sequence[int] = (1,),
        skip: bool = True,
        stem_channels: int = 32,
        stem_stride: int = 2,
        first_channels: int = 16,
        head_channels: int = 1280,
    ) -> None:
        lists = {
            "widths": widths,
            "depths": depths,
            "kernels": kernels,
            "expansions": expansions,
            "dilations": dilations,
        }
        numbers = {"stem_channels": stem_channels, "first_channels": first_channels, "head_channels": head_channels}
        for key, values in (lists | {key: (value,) for key, value in numbers.items()}).items():
            if not values or min(values) < 1:
                raise InputError(f"space.{key} is {values if key in lists else values[0]}: expected at least 1")
        for key, values in {"strides": strides, "stem_stride": (stem_stride,)}.items():
            if not set(values) <= {1, 2}:
                raise InputError(f"space.{key} is {values if key == 'strides' else stem_stride}: expected 1 or 2")
        if not len(widths) == len(depths) == len(strides):
            raise InputError(
                f"space.widths, depths and strides have {len(widths)}, {len(depths)} and {len(strides)} entries: "
                "expected one a stage in each"
            )
        for key in ("kernels", "expansions", "dilations"):
            if len(set(lists[key])) < len(lists[key]) or (key == "kernels" and any(k % 2 == 0 for k in kernels)):
                what = "odd numbers, each once" if key == "kernels" else "each number once"
                raise InputError(f"space.{key} is {list(lists[key])}: expected {what}")
        self.widths, self.depths, self.strides = tuple(widths), tuple(depths), tuple(strides)
        self.skip = skip
        self.stem_channels, self.stem_stride = stem_channels, stem_stride
        self.first_channels, self.head_channels = first_channels, head_channels
        self.shapes = tuple((k, e, d) for d in dilations for k in kernels for e in expansions)
        self.choices = tuple(self._choice(name, *shape) for name, shape in self._blocks().items())

    def _blocks(self) -> dict[str, tuple[int, int, int]]:
        """(inputs, outputs, stride) of each block."""
        blocks, inputs = {}, self.first_channels
        for stage, (width, depth, stride) in enumerate(
            zip(self.widths, self.depths, self.strides, strict=True), start=1
        ):
            for number in range(1, depth + 1):
                blocks[f"stage{stage}_block{number}"] = (inputs, width, stride if number == 1 else 1)
                inputs = width
        return blocks

    def _choice(self, name: str, inputs: int, outputs: int, stride: int) -> Choice:
        keeps = inputs == outputs and stride == 1
        options = tuple(Option(f"k{k}e{e}" + (f"d{d}" if d > 1 else "")) for k, e, d in self.shapes)
        options += (SKIP,) if keeps and self.skip else ()
        return Choice(name, options, dropped="input" if keeps else "never")

    def build(self, spec: ImageSpec, allowed: Allowed) -> Network:
        segments: dict[str, Segment] = {
            "stem": Plain(*_conv(spec.channels, self.stem_channels, 3, self.stem_stride)),
            "first": Plain(_inverted_residual(self.stem_channels, self.first_channels, 3, 1)),
        }
        for choice, shape in zip(self.choices, self._blocks().values(), strict=True):
            segments[choice.name] = Block(choice, self.shapes, *shape, allowed)
        head = _conv(self.widths[-1], self.head_channels, 1)
        segments["head"] = Plain(*head, classifier(self.head_channels, spec.classes))
        return Network(segments, allowed)

    def canonical(self, architecture: Architecture) -> Architecture:
        """Skips move behind the other blocks of the same shape that stand with them in a row."""
        sorted_rows: Architecture = ()
        row: list[int] = []
        for choice, index in zip(self.choices, architecture, strict=True):
            if SKIP not in choice.options:
                sorted_rows, row = (*sorted_rows, *_skips_last(row, self.shapes)), []
                sorted_rows += (index,)
            else:
                row.append(index)
        return (*sorted_rows, *_skips_last(row, self.shapes))

    def format(self, architecture: Architecture) -> str:
        """The notation of the class, such as ``k3e6-skip_k5e3-k3e3`` for two stages of two blocks."""
        words = [choice.options[i].name for choice, i in zip(self.choices, architecture, strict=True)]
        starts = [sum(self.depths[:stage]) for stage in range(len(self.depths))]
        return "_".join("-".join(words[a : a + depth]) for a, depth in zip(starts, self.depths, strict=True))

    def parse(self, text: str) -> Architecture:
        words = text.replace("_", "-").split("-")
        if len(words) == len(self.choices):
            names = [[option.name for option in choice.options] for choice in self.choices]
            if all(word in known for word, known in zip(words, names, strict=True)):
                architecture = tuple(known.index(word) for word, known in zip(words, names, strict=True))
                if self.format(architecture) == text:  # the joints are where they should be
                    return architecture
        raise InputError(
            f"{text!r} is no architecture of {self.name}: expected {', '.join(map(str, self.depths))} blocks a stage, "
            f"such as {self.format(next(self.architectures()))!r}; only blocks that keep the shape can be skip"
        )


def _skips_last(row: Sequence[int], shapes: Sequence[object]) -> list[int]:
    return sorted(row, key=lambda index: index == len(shapes))
