"""An elastic MobileNetV3: "Once-for-All" (Cai et al. 2020, 1908.09791) and BigNAS (Yu et al. 2020, 2003.11142).

The published sizes are those of the released once-for-all code: five stages, kernels 3, 5, 7, depths 2 to 4, expansions
3, 4, 6 (`Elastic` without arguments).
"""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

from nastricks.data.batch import ImageSpec
from nastricks.errors import InputError, unknown
from nastricks.spaces.base import Edge, Space
from nastricks.spaces.choices import Allowed, Architecture, Choice
from nastricks.spaces.elastic_blocks import Block, BlockSizes, Head, Resize, Stem
from nastricks.spaces.network import Network, Segment
from nastricks.spaces.sizes import Size, Sizes, channel_sizes, sizes

KERNEL_WEIGHTS = ("learned", "cropped")
WIDTHS_OF = ("network", "stage")


@dataclass(frozen=True)
class ElasticStage:
    """A stage at width 1: its channels, the stride of its first block, and what its blocks have."""

    channels: int
    stride: int = 2
    squeeze: bool = False
    hard_swish: bool = False


PUBLISHED = (
    ElasticStage(24),
    ElasticStage(40, squeeze=True),
    ElasticStage(80, hard_swish=True),
    ElasticStage(112, stride=1, squeeze=True, hard_swish=True),
    ElasticStage(160, squeeze=True, hard_swish=True),
)
PUBLISHED_RESOLUTIONS = tuple(range(128, 225, 4))


class StageSizes(NamedTuple):
    """The sizes of a stage; a kernel and an expansion for each of its blocks."""

    width: Sizes[float]
    depth: Sizes[int]
    kernels: tuple[Sizes[int], ...]
    expansions: tuple[Sizes[int], ...]


class Elastic(Space):
    """Stem, stages of inverted residuals with sizes to choose, head of MobileNetV3. Every choice is nested.

    Choices, from small to large: the images' resolution; a multiplier of the stages' channels, for the network or each
    stage; and for every stage its depth, and the kernel and the expansion of each of its blocks. A choice's `dimension`
    is ``resolution``, ``width``, ``depth``, ``kernel`` or ``expansion``; what has one value alone is no choice. All
    channels are multiples of 8. Blocks beyond a stage's depth are skipped.

    Written as ``r224_w1_d2-k3e3-k5e6_d3-k7e4-k3e3-k3e6``: the resolution, the width, then a stage after the other with
    its depth and its blocks (with `widths_of` stage: ``d2-w0.75-k3e3-k5e6``, and no width before). What is no choice
    is written too, but for the resolution where images are not resized. The sizes of skipped blocks make no difference;
    they are left out where they are the smallest, which makes the canonical architecture. A ranking counts a network
    once.

    A gate runs one option: sizes cannot be mixed, so policies that weigh options are refused. Batch-norm statistics are
    those of all widths trained together: calibrate a child before it is scored.

    Args:
        stages: The stages at width 1.
        resolutions: Pixels a side, rising; None leaves images as they are.
        widths: Multipliers of the stages' channels, rising.
        widths_of: ``network``: one multiplier for all stages; ``stage``: each has its own.
        depths: Blocks a stage, rising.
        kernels: Odd kernel sizes, rising.
        expansions: Hidden channels of a block over those of its input, rising.
        kernel_weights: A smaller kernel is ``cropped`` out of the middle of the largest, or ``learned``: the middle of
            the next larger one times a learned matrix, as in once-for-all.
        stem_channels: Width of the stem, at least 1.
        stem_stride: 1 or 2.
        head_channels: Width of the head's convolution, at least 1.
        features: Inputs of the classifier, at least 1.
    """

    name: ClassVar[str] = "elastic"
    counts_twins: ClassVar[bool] = False

    def __init__(
        self,
        stages: Sequence[ElasticStage] = PUBLISHED,
        resolutions: Sequence[int] | None = PUBLISHED_RESOLUTIONS,
        widths: Sequence[float] = (1.0,),
        widths_of: Literal["network", "stage"] = "network",
        depths: Sequence[int] = (2, 3, 4),
        kernels: Sequence[int] = (3, 5, 7),
        expansions: Sequence[int] = (3, 4, 6),
        kernel_weights: Literal["learned", "cropped"] = "learned",
        stem_channels: int = 16,
        stem_stride: int = 2,
        head_channels: int = 960,
        features: int = 1280,
    ) -> None:
        counts = {"stem_channels": stem_channels, "head_channels": head_channels, "features": features}
        for key, value in counts.items():
            if value < 1:
                raise InputError(f"space.{key} is {value}: expected at least 1")
        if not stages or any(stage.channels < 1 or stage.stride not in (1, 2) for stage in stages):
            raise InputError(f"space.stages are {list(stages)}: expected at least one, with channels and stride 1 or 2")
        if stem_stride not in (1, 2):
            raise InputError(f"space.stem_stride is {stem_stride}: expected 1 or 2")
        if any(kernel % 2 == 0 for kernel in kernels):
            raise InputError(f"space.kernels are {list(kernels)}: expected odd sizes, such as 3, 5 and 7")
        if kernel_weights not in KERNEL_WEIGHTS:
            raise unknown("kernel_weights", kernel_weights, KERNEL_WEIGHTS)
        if widths_of not in WIDTHS_OF:
            raise unknown("widths_of", widths_of, WIDTHS_OF)
        self.stages, self.widths_of, self.kernel_weights = tuple(stages), widths_of, kernel_weights
        self.stem_channels, self.stem_stride = stem_channels, stem_stride
        self.head_channels, self.features = head_channels, features
        self.resolution = None if resolutions is None else sizes("resolution", "resolution", resolutions, "r")
        width = sizes("width", "width", widths, "w")
        self.stage_sizes = tuple(
            self._stage(name, width, widths, depths, kernels, expansions) for name in self._stage_names()
        )
        every = dict.fromkeys(one.choice for one in self._all_sizes() if one.choice is not None)
        self.choices: tuple[Choice, ...] = tuple(every)
        self._places = {choice.name: place for place, choice in enumerate(self.choices)}
        self.channels = tuple(
            channel_sizes(stage.channels, own.width) for stage, own in zip(self.stages, self.stage_sizes, strict=True)
        )

    def _stage(
        self,
        name: str,
        width: Sizes[float],
        widths: Sequence[float],
        depths: Sequence[int],
        kernels: Sequence[int],
        expansions: Sequence[int],
    ) -> StageSizes:
        depth = sizes(f"{name}_depth", "depth", depths, "d")
        blocks = [f"{name}_block{number}" for number in range(1, depth.values[-1] + 1)]
        return StageSizes(
            width if self.widths_of == "network" else sizes(f"{name}_width", "width", widths, "w"),
            depth,
            tuple(sizes(f"{block}_kernel", "kernel", kernels, "k") for block in blocks),
            tuple(sizes(f"{block}_expansion", "expansion", expansions, "e") for block in blocks),
        )

    def _all_sizes(self) -> Iterator[Sizes[Any]]:
        if self.resolution is not None:
            yield self.resolution
        for stage in self.stage_sizes:
            yield stage.width
            yield stage.depth
            for pair in zip(stage.kernels, stage.expansions, strict=True):
                yield from pair

    def build(self, spec: ImageSpec, allowed: Allowed) -> Network:
        segments: dict[str, Segment] = {} if self.resolution is None else {"resize": Resize(self.resolution)}
        segments["stem"] = Stem(spec.channels, self.stem_channels, self.stem_stride)
        inputs: Sizes[int] = Sizes((self.stem_channels,))
        learned = self.kernel_weights == "learned"
        stages = zip(self._stage_names(), self.stages, self.stage_sizes, self.channels, strict=True)
        for name, stage, own, outputs in stages:
            for place in range(1, max(own.depth.kept(allowed)) + 1):
                size = BlockSizes(inputs, outputs, own.kernels[place - 1], own.expansions[place - 1], own.depth)
                stride = stage.stride if place == 1 else 1
                block = Block(place, size, stride, stage.squeeze, stage.hard_swish, learned, allowed)
                segments[f"{name}_block{place}"] = block
                inputs = outputs
        segments["head"] = Head(inputs.kept(allowed), self.head_channels, self.features, spec.classes)
        return Network(segments, allowed, nested=True)

    # Twins.

    def canonical(self, architecture: Architecture) -> Architecture:
        """Skipped blocks take their smallest sizes."""
        indices = list(architecture)
        for stage in self.stage_sizes:
            for place in self._skipped(stage, architecture):
                indices[place] = 0
        return tuple(indices)

    def _skipped(self, stage: StageSizes, architecture: Architecture) -> list[int]:
        """The places of the choices of blocks beyond the stage's depth."""
        depth = self.value(stage.depth, architecture)
        beyond = (*stage.kernels[depth:], *stage.expansions[depth:])
        return [self._places[size.choice.name] for size in beyond if size.choice is not None]

    @property
    def rankable_size(self) -> int:
        """The number of distinct networks."""
        widths = [stage.width for stage in self.stage_sizes][: 1 if self.widths_of == "network" else None]
        total = math.prod(len(size.values) for size in widths)
        total *= 1 if self.resolution is None else len(self.resolution.values)
        for stage in self.stage_sizes:
            block = len(stage.kernels[0].values) * len(stage.expansions[0].values)
            total *= sum(block**depth for depth in stage.depth.values)
        return total

    # Notation.

    def value(self, size: Sizes[Size], architecture: Architecture) -> Size:
        """The value of a size in an architecture."""
        return size.values[0 if size.choice is None else architecture[self._places[size.choice.name]]]

    def format(self, architecture: Architecture) -> str:
        """Such as ``r224_w1_d2-k3e3-k5e6_d3-k7e4-k3e3-k3e6``."""
        parts = []
        for stage, items in self._layout():
            written = len(items)
            if stage is not None and not any(architecture[place] for place in self._skipped(stage, architecture)):
                written -= len(stage.kernels) - self.value(stage.depth, architecture)
            texts = ["".join(f"{letter}{self.value(size, architecture):g}" for letter, size in i) for i in items]
            parts.append("-".join(texts[:written]))
        return "_".join(parts)

    def parse(self, text: str) -> Architecture:
        """The inverse of `format`."""
        architecture = self._read(text) or (0,) * len(self.choices)
        if self.format(architecture) != text:
            raise InputError(
                f"{text!r} is no architecture of {self.name}: expected one such as {self.format(architecture)!r}"
            )
        return architecture

    def _layout(self) -> list[tuple[StageSizes | None, list[list[tuple[str, Sizes[Any]]]]]]:
        """The parts of a string, a stage's with its stage; a part's items, and each item's letters with their sizes."""
        parts: list[tuple[StageSizes | None, list[list[tuple[str, Sizes[Any]]]]]] = []
        if self.resolution is not None:
            parts.append((None, [[("r", self.resolution)]]))
        if self.widths_of == "network":
            parts.append((None, [[("w", self.stage_sizes[0].width)]]))
        for stage in self.stage_sizes:
            own: list[list[tuple[str, Sizes[Any]]]] = [[("d", stage.depth)]]
            own += [[("w", stage.width)]] if self.widths_of == "stage" else []
            own += [[("k", k), ("e", e)] for k, e in zip(stage.kernels, stage.expansions, strict=True)]
            parts.append((stage, own))
        return parts

    def _read(self, text: str) -> Architecture | None:
        """The options that a string names, the smallest of what it leaves out; None where something is not known."""
        indices = [0] * len(self.choices)
        layout, parts = self._layout(), text.split("_")
        if len(parts) != len(layout):
            return None
        for (_, items), part in zip(layout, parts, strict=True):
            for item, written in zip(items, part.split("-"), strict=False):
                matched = re.fullmatch("".join(f"{letter}([0-9.]+)" for letter, _ in item), written)
                for group, (_, size) in enumerate(item, start=1):
                    known = [f"{value:g}" for value in size.values]
                    if matched is None or matched[group] not in known:
                        return None
                    if size.choice is not None:
                        indices[self._places[size.choice.name]] = known.index(matched[group])
        return tuple(indices)

    def graph(self, architecture: Architecture) -> list[Edge]:
        """A row: the stem, then the stages with the sizes of their blocks, as in the architecture's string."""
        texts = self.format(self.canonical(architecture)).split("_")
        before = len(texts) - len(self.stages)
        labels = ["stem " + " ".join(texts[:before]), *(text.replace("-", " ") for text in texts[before:])]
        nodes = ["input", *(f"after {label}" for label in ["stem", *self._stage_names()[:-1]]), "output"]
        return [Edge(a, b, label) for a, b, label in zip(nodes[:-1], nodes[1:], labels, strict=True)]

    def _stage_names(self) -> list[str]:
        return [f"stage{number}" for number, _ in enumerate(self.stages, start=1)]
