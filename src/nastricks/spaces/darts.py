"""The cell space of DARTS: "DARTS: Differentiable Architecture Search" (Liu et al. 2019, 1806.09055)."""

from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar

from nastricks.data.batch import ImageSpec
from nastricks.errors import InputError, unknown
from nastricks.spaces.base import Space
from nastricks.spaces.choices import Allowed, Choice
from nastricks.spaces.darts_cells import Cell, Head, Link, Source, Stem
from nastricks.spaces.darts_operations import OPERATIONS, Norms, option
from nastricks.spaces.darts_rules import Rules
from nastricks.spaces.network import Network, Segment

INPUTS = 2  # the outputs of the cells k - 2 and k - 1


class DARTS(Space):
    """Stem, `cells` cells, classifier; those at 1/3 and 2/3 of the depth halve the resolution and double the width.

    All normal cells share one architecture, all reduction cells another. A cell reads the outputs of the cells k - 2
    (node 0) and k - 1 (node 1), the first cell the stem's twice, each brought to C channels. A node adds up its edges
    from all nodes before it; the concatenation of the nodes from 2 on is the cell's output. A choice is the operation
    of one edge of one kind of cell: ``normal_2_0`` is the edge of normal cells into node 2 from node 0. One of its
    options is ``none``; in an architecture exactly two edges of a node are not. A dropped path adds nothing.

    Args:
        channels: Width of a node in the first cells (C), at least 1; 16 in the search, 36 in the published child.
        cells: Number of cells, at least 3; 8 in the search, 20 in the published child.
        nodes: Nodes of a cell beside its inputs, at least 1.
        operations: The names of an edge's operations.
        bn_affine: Learnable scale and shift in the batch norms of operations and inputs; true in the published child.
        pool_bn: Batch norm behind pools; false in the published child.
        stem_multiplier: Width of the stem in C, at least 1.
    """

    name: ClassVar[str] = "darts"

    def __init__(
        self,
        channels: int = 16,
        cells: int = 8,
        nodes: int = 4,
        operations: Sequence[str] = OPERATIONS,
        bn_affine: bool = False,
        pool_bn: bool = True,
        stem_multiplier: int = 3,
    ) -> None:
        sizes = {"channels": (channels, 1), "cells": (cells, 3), "nodes": (nodes, 1)}
        sizes |= {"stem_multiplier": (stem_multiplier, 1)}
        for key, (value, least) in sizes.items():
            if value < least:
                raise InputError(f"space.{key} is {value}: expected at least {least}")
        self.operations = tuple(operations)
        for name in self.operations:
            if name not in OPERATIONS:
                raise unknown("operation", name, OPERATIONS)
        self.channels, self.cells, self.nodes, self.stem_multiplier = channels, cells, nodes, stem_multiplier
        self.bn_affine, self.pool_bn = bn_affine, pool_bn
        self.norms = Norms(bn_affine, pool_bn)
        self.reductions = (cells // 3, 2 * cells // 3)
        self.links = {kind: self._links(kind, kind == "reduce") for kind in ("normal", "reduce")}
        every = [link for links in self.links.values() for link in links]
        self.choices = tuple(link.choice for link in every)
        starts = [i for i, (a, b) in enumerate(pairwise(every), start=1) if a.choice.node != b.choice.node]
        nodes_of = [tuple((p,) for p in range(a, b)) for a, b in pairwise([0, *starts, len(every)])]
        self.rules = Rules(self.choices, nodes_of, INPUTS)

    def _links(self, kind: str, halves: bool) -> tuple[Link, ...]:
        links = []
        for target in range(INPUTS, INPUTS + self.nodes):
            for source in range(target):
                stride = 2 if halves and source < INPUTS else 1
                options = tuple(option(name, stride, self.norms) for name in self.operations)
                node = f"{kind}_node{target}"
                choice = Choice(f"{kind}_{target}_{source}", options, dropped="zero", node=node, cell=kind)
                links.append(Link(choice, source, target))
        return tuple(links)

    def build(self, spec: ImageSpec, allowed: Allowed) -> Network:
        if spec.size < 4:
            raise InputError(f"images have {spec.size} pixels a side: darts halves them twice, expected at least 4")
        width = self.stem_multiplier * self.channels
        segments: dict[str, Segment] = {"stem": Stem(spec.channels, width, INPUTS)}
        sources = [Source(width, 0)] * INPUTS
        channels, halvings = self.channels, 0
        for place in range(self.cells):
            halves = place in self.reductions
            channels, halvings = (2 * channels, halvings + 1) if halves else (channels, halvings)
            links = self.links["reduce" if halves else "normal"]
            segments[f"cell{place + 1}"] = Cell(links, sources, channels, halvings, halves, self.norms, allowed)
            sources = [*sources[1:], Source(self.nodes * channels, halvings)]
        segments["head"] = Head(sources[-1].channels, spec.classes)
        return Network(segments, allowed)

    def legal(self, prefix: Sequence[int]) -> tuple[int, ...]:
        """All operations while a node has fewer than two edges; ``none`` while two can still be reached."""
        return tuple(self.odds(prefix))

    def odds(self, prefix: Sequence[int], allowed: Allowed | None = None) -> dict[int, int]:
        return self.rules.odds(prefix, allowed)

    @property
    def size(self) -> int:
        return self.rules.size
