"""The cell space of "NAS-Bench-201: Extending the Scope of Reproducible Neural Architecture Search" (Dong, Yang 2020).

Every one of its 15,625 architectures was trained three times on three data sets; those tables are read from CSV.
"""

import re
from typing import ClassVar

from torch import Tensor, nn

from nastricks.data.batch import ImageSpec
from nastricks.errors import InputError
from nastricks.spaces.base import Edge, Space
from nastricks.spaces.choices import Allowed, Architecture, Choice, Option
from nastricks.spaces.nasbench201_equivalence import EDGES, OPERATIONS, representative
from nastricks.spaces.network import GatedOps, Gates, Network, Plain, Segment
from nastricks.spaces.primitives import classifier, conv_bn

OPTIONS = tuple(
    Option(
        name,
        identity=name == "skip_connect",
        learns="conv" in name,
        skip=name == "skip_connect",
        absent=name == "none",
    )
    for name in OPERATIONS
)
STAGES = 3
EXAMPLE = "|nor_conv_3x3~0|+|nor_conv_3x3~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_3x3~1|skip_connect~2|"


def _relu_conv_bn(inputs: int, outputs: int, kernel: int, stride: int, affine: bool) -> nn.Sequential:
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(outputs, affine=affine),
    )


class Cell(Segment):
    """Node j is the sum of its edges from nodes 0 to j - 1; node 0 is the input, node 3 the output."""

    def __init__(self, channels: int, affine: bool, choices: tuple[Choice, ...], allowed: Allowed) -> None:
        super().__init__()
        self.channels, self.affine = channels, affine
        self.choices = tuple(choice.name for choice in choices)
        self.edges = nn.ModuleDict(
            {choice.name: GatedOps(choice, allowed[choice.name], self._operation, channels) for choice in choices}
        )

    def _operation(self, index: int, channels: int) -> nn.Module:
        name = OPERATIONS[index]
        if name == "skip_connect":
            return nn.Identity()
        if name == "avg_pool_3x3":
            return nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
        return _relu_conv_bn(channels, channels, 1 if name == "nor_conv_1x1" else 3, 1, self.affine)

    def forward(self, state: Tensor, gates: Gates) -> Tensor:
        nodes = [state]
        for name, (source, target) in zip(self.choices, EDGES, strict=True):
            y = self.edges[name](nodes[source], gates[name])
            if target < len(nodes):
                nodes[target] = nodes[target] + y
            else:
                nodes.append(y)
        return nodes[-1]


class ResidualBlock(Segment):
    """ResNet's basic block at stride 2: (N, C, H, W) -> (N, outputs, ceil(H / 2), ceil(W / 2))."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = _relu_conv_bn(inputs, outputs, 3, 2, affine=True)
        self.second = _relu_conv_bn(outputs, outputs, 3, 1, affine=True)
        self.shortcut = nn.Sequential(
            nn.AvgPool2d(2, stride=2, ceil_mode=True), nn.Conv2d(inputs, outputs, 1, bias=False)
        )

    def forward(self, state: Tensor, gates: Gates) -> Tensor:
        return self.shortcut(state) + self.second(self.first(state))


class NASBench201(Space):
    """Stem, three stages of `cells` equal cells with residual blocks of stride 2 between them, classifier.

    All cells share one architecture: one of five operations on each of the six edges among four nodes, a node being
    the sum of its edges. Written as published, a node after the other, each edge as ``operation~source``:
    ``|nor_conv_3x3~0|+|nor_conv_3x3~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_3x3~1|skip_connect~2|``. `none` is legal
    everywhere, even on all edges. Edges that nothing takes to the output are built, and counted in sizes, as published.

    A dropped path adds nothing to its node.

    Args:
        channels: Width of the first stage, at least 1; it doubles from stage to stage. 16 in the paper.
        cells: Cells a stage, at least 1; 5 in the paper.
        bn_affine: Learnable scale and shift in the cells' batch norms: off in the published searches, on in the
            published children.
    """

    name: ClassVar[str] = "nasbench201"

    def __init__(self, channels: int = 16, cells: int = 5, bn_affine: bool = False) -> None:
        for key, value in {"channels": channels, "cells": cells}.items():
            if value < 1:
                raise InputError(f"space.{key} is {value}: expected at least 1")
        self.channels, self.cells, self.bn_affine = channels, cells, bn_affine
        self.choices = tuple(Choice(f"edge{source}{target}", OPTIONS, node=f"node{target}") for source, target in EDGES)

    def build(self, spec: ImageSpec, allowed: Allowed) -> Network:
        segments: dict[str, Segment] = {"stem": Plain(conv_bn(spec.channels, self.channels, 3))}
        width = self.channels
        for stage in range(1, STAGES + 1):
            if stage > 1:
                segments[f"reduction{stage - 1}"] = ResidualBlock(width, 2 * width)
                width *= 2
            for number in range(1, self.cells + 1):
                segments[f"stage{stage}_cell{number}"] = Cell(width, self.bn_affine, self.choices, allowed)
        segments["head"] = Plain(nn.BatchNorm2d(width), nn.ReLU(), classifier(width, spec.classes))
        return Network(segments, allowed)

    def canonical(self, architecture: Architecture) -> Architecture:
        """The first of the cells that compute the same sum (`nasbench201_equivalence`), with as many `none` as can be.

        Twins may differ in size: weights on edges that nothing takes to the output count, and never move. The first
        call takes half a second.
        """
        return representative(self.check(architecture), self.bn_affine)

    def format(self, architecture: Architecture) -> str:
        """The published notation, such as ``|none~0|+|none~0|none~1|+|none~0|none~1|skip_connect~2|``."""
        nodes: dict[int, list[str]] = {}
        for (source, target), index in zip(EDGES, architecture, strict=True):
            nodes.setdefault(target, []).append(f"{OPERATIONS[index]}~{source}")
        return "+".join(f"|{'|'.join(edges)}|" for edges in nodes.values())

    def parse(self, text: str) -> Architecture:
        names = re.findall(r"[|](\w+)~", text)
        if len(names) == len(EDGES) and all(name in OPERATIONS for name in names):
            architecture = tuple(OPERATIONS.index(name) for name in names)
            if self.format(architecture) == text:  # the joints are where they should be
                return architecture
        raise InputError(
            f"{text!r} is no architecture of {self.name}: expected one of {', '.join(OPERATIONS)} an edge, such as "
            f"{EXAMPLE!r}"
        )

    def graph(self, architecture: Architecture) -> list[Edge]:
        """One cell; edges with `none` are left out, unless no other is there."""
        nodes = ["cell input", "node 1", "node 2", "output"]
        edges = [
            Edge(nodes[source], nodes[target], OPERATIONS[index])
            for (source, target), index in zip(EDGES, architecture, strict=True)
        ]
        return [edge for edge in edges if edge.label != "none"] or edges
