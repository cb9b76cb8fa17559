"""The cell space of DARTS: "DARTS: Differentiable Architecture Search" (Liu et al. 2019, 1806.09055)."""

from collections.abc import Sequence
from typing import ClassVar, Literal

from nastricks.data.batch import ImageSpec
from nastricks.errors import InputError
from nastricks.spaces.base import Edge, Space
from nastricks.spaces.choices import Allowed, Architecture
from nastricks.spaces.darts_cells import AuxiliaryHead, Cell, Head, Source, Stem
from nastricks.spaces.darts_notation import Pair, free_text, genotype_text, read_free, read_genotype
from nastricks.spaces.darts_operation_sets import operations_of_edges
from nastricks.spaces.darts_operations import Norms
from nastricks.spaces.darts_rules import Rules
from nastricks.spaces.darts_shapes import Shape
from nastricks.spaces.network import Network, Segment

SHOWN = 60  # letters of a text that is no architecture


class DARTS(Space):
    """Stem, `cells` cells, classifier; those at 1/3 and 2/3 of the depth halve the resolution and double the width.

    All normal cells share one architecture, all reduction cells another. A cell reads the outputs of the cells k - 2
    (node 0) and k - 1 (node 1), the first cell the stem's twice, each brought to C channels. A node adds up its edges
    from nodes before it; the concatenation of the nodes from 2 on is the cell's output. A choice is the operation of
    one edge of one kind of cell: ``normal_3_0`` is the edge of normal cells into node 3 from node 0. One of its options
    is ``none``, which takes part in the search where `operations` name it; in an architecture, exactly two edges of a
    node are not ``none``. A dropped path adds nothing. Written in the published notation:
    ``Genotype(normal=[('sep_conv_3x3', 0), ('skip_connect', 1), ...], normal_concat=range(2, 6), reduce=...)``.

    Four hand-made rules are options of their own, so that each can be lifted [GOLD-NAS]. Without them, architectures
    are written shape by shape: ``normal:sep_conv_3x3~0+skip_connect~1|... reduce:...``, where ``|`` parts nodes, and
    ``operation~input`` are joined by ``+``.

    Args:
        channels: Width of a node in the first cells (C), at least 1; 16 in the search, 36 in the published child.
        cells: Number of cells, at least 3; 8 in the search, 20 in the published child.
        nodes: Nodes of a cell beside its inputs, at least 1.
        operations: A set: "published" (eight), "s1" to "s4" [RobustDARTS]; or a list of names that holds for all edges.
        bn_affine: Learnable scale and shift in the batch norms of operations and inputs; true in the published child.
        pool_bn: Batch norm behind pools; false in the published child.
        stem_multiplier: Width of the stem in C, at least 1.
        auxiliary_head: A second head behind the cell at 2/3 of the depth, for training alone; true in the published
            child.
        ops_per_edge: 1, or null for any: then each operation of an edge is a choice of its own, ``off`` or on.
        inputs_per_node: How many edges of a node are not ``none``, from 1 to `input_cells`; null for any from 1 on.
        input_cells: How many earlier cells a cell reads, at least 2; node i is the output of cell k - input_cells + i.
        shared_cells: Whether all normal cells share one architecture, and all reduction cells; else every cell has one
            of its own, with choices such as ``cell3_2_0``.

    Raises:
        InputError: a value is out of its range, an unknown operation, or S1 for cells of another shape.
    """

    name: ClassVar[str] = "darts"

    def __init__(
        self,
        channels: int = 16,
        cells: int = 8,
        nodes: int = 4,
        operations: Literal["published", "s1", "s2", "s3", "s4"] | list[str] = "published",
        bn_affine: bool = False,
        pool_bn: bool = True,
        stem_multiplier: int = 3,
        auxiliary_head: bool = False,
        ops_per_edge: int | None = 1,
        inputs_per_node: int | None = 2,
        input_cells: int = 2,
        shared_cells: bool = True,
    ) -> None:
        sizes = {"channels": (channels, 1), "cells": (cells, 3), "nodes": (nodes, 1)}
        sizes |= {"stem_multiplier": (stem_multiplier, 1), "input_cells": (input_cells, 2)}
        for key, (value, least) in sizes.items():
            if value < least:
                raise InputError(f"space.{key} is {value}: expected at least {least}")
        if ops_per_edge not in (1, None):
            raise InputError(f"space.ops_per_edge is {ops_per_edge}: expected 1, or null for any number")
        if inputs_per_node is not None and not 1 <= inputs_per_node <= input_cells:
            raise InputError(
                f"space.inputs_per_node is {inputs_per_node}: expected from 1 to the {input_cells} inputs of a cell, "
                "or null for any number"
            )
        self.channels, self.cells, self.nodes, self.stem_multiplier = channels, cells, nodes, stem_multiplier
        self.operations = operations if isinstance(operations, str) else tuple(operations)
        self.auxiliary_head = auxiliary_head
        self.bn_affine, self.pool_bn, self.norms = bn_affine, pool_bn, Norms(bn_affine, pool_bn)
        self.ops_per_edge, self.inputs_per_node = ops_per_edge, inputs_per_node
        self.input_cells, self.shared_cells = input_cells, shared_cells
        edges = sum(range(input_cells, input_cells + nodes))
        kinds = tuple("reduce" if k in (cells // 3, 2 * cells // 3) else "normal" for k in range(cells))
        of_edges = {kind: operations_of_edges(operations, kind, edges) for kind in ("normal", "reduce")}
        named = {"normal": "normal", "reduce": "reduce"}
        if not shared_cells:
            named = {f"cell{number}": kind for number, kind in enumerate(kinds, start=1)}
        self.shapes = {
            name: Shape(name, kind, of_edges[kind], input_cells, ops_per_edge is None, self.norms)
            for name, kind in named.items()
        }
        self.shape_of_cell = kinds if shared_cells else tuple(self.shapes)
        self.choices = tuple(link.choice for shape in self.shapes.values() for link in shape.links)
        sizes_of = [len(shape.links) for shape in self.shapes.values()]
        starts = [sum(sizes_of[:i]) for i in range(len(sizes_of))]
        self.rules = Rules(
            self.choices,
            [node for shape, start in zip(self.shapes.values(), starts, strict=True) for node in shape.places(start)],
            inputs_per_node,
        )

    @property
    def published_notation(self) -> bool:
        """Whether a genotype says all: nodes with equally many edges, an operation an edge, shared cells."""
        return self.ops_per_edge == 1 and self.inputs_per_node is not None and self.shared_cells

    def build(self, spec: ImageSpec, allowed: Allowed) -> Network:
        if spec.size < 4:
            raise InputError(f"images have {spec.size} pixels a side: darts halves them twice, expected at least 4")
        width = self.stem_multiplier * self.channels
        segments: dict[str, Segment] = {"stem": Stem(spec.channels, width, self.input_cells)}
        sources = [Source(width, 0)] * self.input_cells
        channels, halvings = self.channels, 0
        for number, name in enumerate(self.shape_of_cell, start=1):
            shape = self.shapes[name]
            if shape.halves:
                channels, halvings = 2 * channels, halvings + 1
            segments[f"cell{number}"] = Cell(shape, sources, channels, halvings, self.norms, allowed)
            sources = [*sources[1:], Source(self.nodes * channels, halvings)]
        segments["head"] = Head(sources[-1].channels, spec.classes)
        return Network(segments, allowed, self._auxiliary(spec) if self.auxiliary_head else None)

    def _auxiliary(self, spec: ImageSpec) -> tuple[Segment, str]:
        side = -(-spec.size // 4)
        if side < 2:
            raise InputError(
                f"space.auxiliary_head reads 2 pixels a side and images of {spec.size} pixels leave {side}: "
                "expected images of at least 5, or false"
            )
        head = AuxiliaryHead(4 * self.nodes * self.channels, side, spec.classes)
        return head, f"cell{2 * self.cells // 3 + 1}"

    # Which architectures there are.

    def legal(self, prefix: Sequence[int]) -> tuple[int, ...]:
        """All operations while a node has too few edges; ``none`` while enough can still be reached."""
        return tuple(self.odds(prefix))

    def odds(self, prefix: Sequence[int], allowed: Allowed | None = None) -> dict[int, int]:
        return self.rules.odds(prefix, allowed)

    @property
    def size(self) -> int:
        return self.rules.size

    # How they are written.

    def cells_of(self, architecture: Architecture) -> dict[str, list[list[Pair]]]:
        """For each shape of cell and node: its operations, each with the node that it reads."""
        cells, rest = {}, architecture
        for name, shape in self.shapes.items():
            cells[name] = shape.pairs(rest[: len(shape.links)])
            rest = rest[len(shape.links) :]
        return cells

    def format(self, architecture: Architecture) -> str:
        """The notation of the class; operations of a node are ordered by the node that they read."""
        cells = self.cells_of(architecture)
        return genotype_text(cells, self.input_cells) if self.published_notation else free_text(cells)

    def parse(self, text: str) -> Architecture:
        """The inverse of `format`; the operations of a node may stand in any order.

        Raises:
            InputError: `text` is no architecture of this space.
        """
        try:
            if self.published_notation:
                assert self.inputs_per_node is not None
                cells = read_genotype(text, self.input_cells, self.nodes, self.inputs_per_node)
            else:
                cells = read_free(text, tuple(self.shapes), self.nodes)
            options: Architecture = ()
            for name, shape in self.shapes.items():
                options += shape.options(cells[name])
            return self.check(options)
        except ValueError as error:  # InputError of `check` is one
            told = text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
            raise InputError(f"{told!r} is no architecture of {self.name}: {error}") from error

    def graph(self, architecture: Architecture) -> list[Edge]:
        """The shapes of cells side by side: inputs, nodes, and their concatenation."""
        edges = []
        for name, nodes in self.cells_of(architecture).items():
            title = f"{name} cells" if self.shared_cells else f"{name} ({self.shapes[name].kind})"
            inputs = [f"input {i} (cell k - {self.input_cells - i})" for i in range(self.input_cells)]
            inner = [f"node {number}" for number in range(self.input_cells, self.input_cells + len(nodes))]
            names = [f"{title}: {own}" for own in (*inputs, *inner)]
            for target, pairs in enumerate(nodes, start=self.input_cells):
                edges += [Edge(names[source], names[target], operation) for operation, source in pairs]
            edges += [Edge(node, f"{title}: output", "concatenate") for node in names[self.input_cells :]]
        return edges
