"""DARTS's cells as a chain of segments, which hand on the outputs of the last ones (Liu et al. 2019, section 2.1)."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nastricks.spaces.choices import Allowed, Choice
from nastricks.spaces.darts_operations import Norms, operation, reduction
from nastricks.spaces.darts_shapes import Shape
from nastricks.spaces.network import GatedOps, Gates, Segment
from nastricks.spaces.primitives import classifier, conv_bn

Outputs = tuple[Tensor, ...]
"""The outputs of the last cells, the latest last; before there are so many, the stem's."""


class Source(NamedTuple):
    """What a cell input comes from: its width, and how often it was halved."""

    channels: int
    halvings: int


class Halve(nn.Module):
    """2x2 means: (N, C, H, W) -> (N, C, ceil(H / 2), ceil(W / 2))."""

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, 2, ceil_mode=True)


def align(source: Source, channels: int, halvings: int, norms: Norms) -> nn.Sequential:
    """ReLU, 1x1 convolution, batch norm; a factorized reduction where the input is twice as large.

    An input four times as large (it can be where a cell reads more than two earlier ones) is first halved by 2x2 means.
    """
    if source.halvings == halvings:
        return nn.Sequential(nn.ReLU(), *conv_bn(source.channels, channels, 1, affine=norms.affine))
    means = [Halve() for _ in range(halvings - source.halvings - 1)]
    return nn.Sequential(*means, *reduction(source.channels, channels, norms))


class Stem(Segment):
    """3x3 convolution and batch norm; its output stands for all cells before the first."""

    def __init__(self, inputs: int, channels: int, copies: int) -> None:
        super().__init__()
        self.copies = copies
        self.layers = conv_bn(inputs, channels, 3)

    def forward(self, state: Tensor, gates: Gates) -> Outputs:
        return (self.layers(state),) * self.copies


class Cell(Segment):
    """One cell: its inputs brought to C channels, its nodes, and their concatenation behind the outputs before it.

    Input i of m is the output of cell k - m + i. A node is the sum of the edges into it. In a reduction cell, edges
    from inputs have stride 2. All inputs are aligned, whether or not an edge reads them, as in the official code.

    Args:
        shape: Its choices.
        sources: What each input comes from.
        channels: C, the width of a node.
        halvings: How often this cell's output was halved.
        norms: Its batch norms.
        allowed: The options to hold.
    """

    def __init__(
        self,
        shape: Shape,
        sources: Sequence[Source],
        channels: int,
        halvings: int,
        norms: Norms,
        allowed: Allowed,
    ) -> None:
        super().__init__()
        self.choices = tuple(link.choice.name for link in shape.links)
        before = halvings - 1 if shape.halves else halvings
        self.align = nn.ModuleDict(
            {f"input{i}": align(source, channels, before, norms) for i, source in enumerate(sources)}
        )
        self.edges = nn.ModuleDict()
        for choice, source, _ in shape.links:
            stride = shape.stride(source)
            make = partial(_make, choice, stride, norms)
            self.edges[choice.name] = GatedOps(choice, allowed[choice.name], make, channels, stride)
        self.nodes: list[list[tuple[str, int]]] = [[] for _ in range(shape.nodes)]
        for choice, source, target in shape.links:
            self.nodes[target - shape.inputs].append((choice.name, source))

    def forward(self, state: Outputs, gates: Gates) -> Outputs:
        nodes = [layers(x) for layers, x in zip(self.align.values(), state, strict=True)]
        for edges in self.nodes:
            total: Tensor | None = None
            for name, source in edges:
                edge, gate = self.edges[name], gates[name]
                if edge.adds(gate):  # type: ignore[operator]
                    y = edge(nodes[source], gate)
                    total = y if total is None else total + y
            if total is None:  # zeros
                total = edge(nodes[source], gate)
            nodes.append(total)
        return (*state[1:], torch.cat(nodes[len(state) :], dim=1))


def _make(choice: Choice, stride: int, norms: Norms, index: int, channels: int) -> nn.Module:
    return operation(choice.options[index].name, channels, stride, norms)


class AuxiliaryHead(Segment):
    """A second classifier on the last output, for training alone (the official child for CIFAR-10).

    ReLU, average pooling to 2x2, 1x1 convolution to 128 channels, 2x2 convolution to 768, linear. The published
    pooling is of 8x8 outputs, by windows of 5 at stride 3; at other sizes two windows a side cover the output alike,
    each 5/8 of it.

    Args:
        channels: Of the output that it reads.
        side: Of that output, in pixels, at least 2.
        classes: How many there are.
    """

    def __init__(self, channels: int, side: int, classes: int) -> None:
        super().__init__()
        window = max(1, 5 * side // 8)
        self.layers = nn.Sequential(
            nn.ReLU(),
            nn.AvgPool2d(window, side - window, count_include_pad=False),
            nn.Conv2d(channels, 128, 1, bias=False),
            nn.BatchNorm2d(128),
            nn.ReLU(),
            nn.Conv2d(128, 768, 2, bias=False),
            nn.BatchNorm2d(768),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(768, classes),
        )

    def forward(self, state: Outputs, gates: Gates) -> Tensor:
        return self.layers(state[-1])


class Head(Segment):
    """Global average and linear layer on the last cell."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.layers = classifier(channels, classes)

    def forward(self, state: Outputs, gates: Gates) -> Tensor:
        return self.layers(state[-1])
