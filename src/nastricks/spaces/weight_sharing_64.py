"""The 64-child cell space of "Deeper Insights into Weight Sharing in Neural Architecture Search" (2001.01431).

After the released code: operation 4 is the depthwise 5x5 dilated by 2 (the paper's text says 3x3; only the 5x5 gives
the parameter-count Kendall tau of 0.650 against the published accuracies).
"""

from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from nastricks.data.batch import ImageSpec
from nastricks.errors import InputError
from nastricks.spaces.base import Edge, Space
from nastricks.spaces.choices import Allowed, Architecture, Choice, Option
from nastricks.spaces.network import GatedOps, Gates, Network, Plain, Segment
from nastricks.spaces.primitives import classifier, conv_bn, max_pool_bn, separable_conv

OPTIONS = (
    Option("max_pool_3x3", learns=False),
    Option("sep_conv_3x3"),
    Option("sep_conv_5x5"),
    Option("dil_conv_5x5"),
)
EDGES = {"edge01": "node1", "edge02": "node2", "edge12": "node2"}


def _operation(index: int, channels: int, affine: bool) -> nn.Module:
    if index == 0:
        return max_pool_bn(channels, affine=affine)
    if index == 3:
        return separable_conv(channels, 5, dilation=2, affine=affine)
    kernel = 3 if index == 1 else 5
    return nn.Sequential(*(separable_conv(channels, kernel, affine=affine) for _ in range(2)))


class Cell(Segment):
    """Nodes 1 = edge01(x) and 2 = edge02(x) + edge12(node 1), concatenated: (N, 2 * channels, H, W)."""

    choices = tuple(EDGES)

    def __init__(self, inputs: int, channels: int, affine: bool, choices: tuple[Choice, ...], allowed: Allowed) -> None:
        super().__init__()
        self.entry = nn.Sequential(nn.ReLU(), conv_bn(inputs, channels, 1, affine=affine))
        self.edges = nn.ModuleDict(
            {
                choice.name: GatedOps(choice, allowed[choice.name], partial(_operation, affine=affine), channels)
                for choice in choices
            }
        )

    def forward(self, state: Tensor, gates: Gates) -> Tensor:
        x = self.entry(state)
        first = self.edges["edge01"](x, gates["edge01"])
        second = self.edges["edge02"](x, gates["edge02"]) + self.edges["edge12"](first, gates["edge12"])
        return torch.cat([first, second], dim=1)


class WeightSharing64(Space):
    """Stem, `cells` equal cells that share one architecture, classifier. Written as a digit for edges 01, 02, 12.

    A dropped path adds nothing to its node (edge 02 and 12 stand beside each other, edge 01 beside the other node).

    Args:
        channels: Width of a node, at least 1.
        cells: Number of cells, at least 1.
        stem_channels: Width of the stem, at least 1.
        bn_affine: Learnable scale and shift in the cells' batch norms.
        bn_momentum: Momentum of all batch norms in PyTorch's sense, in (0, 1].
        outer_relu: ReLUs between the stem's convolutions and before the classifier; the released code has none there.
    """

    name: ClassVar[str] = "weight_sharing_64"

    def __init__(
        self,
        channels: int = 16,
        cells: int = 4,
        stem_channels: int = 48,
        bn_affine: bool = False,
        bn_momentum: float = 0.1,
        outer_relu: bool = True,
    ) -> None:
        for key, value in {"channels": channels, "cells": cells, "stem_channels": stem_channels}.items():
            if value < 1:
                raise InputError(f"space.{key} is {value}: expected at least 1")
        if not 0 < bn_momentum <= 1:
            raise InputError(f"space.bn_momentum is {bn_momentum}: expected a number in (0, 1]")
        self.channels, self.cells, self.stem_channels = channels, cells, stem_channels
        self.bn_affine, self.bn_momentum, self.outer_relu = bn_affine, bn_momentum, outer_relu
        self.choices = tuple(Choice(edge, OPTIONS, node=node) for edge, node in EDGES.items())

    def build(self, spec: ImageSpec, allowed: Allowed) -> Network:
        outer = nn.ReLU if self.outer_relu else nn.Identity
        segments: dict[str, Segment] = {
            "stem": Plain(
                conv_bn(spec.channels, self.stem_channels, 3),
                outer(),
                conv_bn(self.stem_channels, self.stem_channels, 3),
            )
        }
        width = self.stem_channels
        for number in range(1, self.cells + 1):
            segments[f"cell{number}"] = Cell(width, self.channels, self.bn_affine, self.choices, allowed)
            width = 2 * self.channels
        segments["head"] = Plain(outer(), classifier(width, spec.classes))
        network = Network(segments, allowed)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = self.bn_momentum
        return network

    def graph(self, architecture: Architecture) -> list[Edge]:
        """One cell: its input, its two nodes, and their concatenation."""
        first, skip, second = (OPTIONS[index].name for index in architecture)
        return [
            Edge("cell input", "node 1", first),
            Edge("cell input", "node 2", skip),
            Edge("node 1", "node 2", second),
            Edge("node 1", "output", "concatenate"),
            Edge("node 2", "output", "concatenate"),
        ]
