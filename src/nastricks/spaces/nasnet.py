"""The cell space of NASNet: "Learning Transferable Architectures for Scalable Image Recognition" (1707.07012).

Section 3: a controller decides, block by block, which two hidden states to read, what to do with each, and how to
combine them; one such cell keeps the resolution, another halves it, and the network stacks them.
"""

from typing import ClassVar, Literal

from nastricks.data.batch import ImageSpec
from nastricks.errors import InputError
from nastricks.spaces.base import Edge, Space
from nastricks.spaces.choices import Allowed, Architecture, Choice, Option
from nastricks.spaces.nasnet_cells import DECISIONS, INPUTS, Cell, Chain, Head, Source, Stem
from nastricks.spaces.nasnet_operations import OPERATIONS, has_weights
from nastricks.spaces.network import Network, Segment

KINDS = ("normal", "reduce")
COMBINE = (Option("add", identity=True, learns=False), Option("concat"))


def _choices(kind: str, blocks: int, operations: tuple[str, ...]) -> tuple[Choice, ...]:
    """The decisions of one kind of cell, block by block, in the order of the paper's controller."""
    halves = kind == "reduce"
    nodes = [f"input{i}" for i in range(INPUTS)] + [f"block{b}" for b in range(blocks)]
    read = tuple(Option(node, identity=True, learns=False) for node in nodes)
    ops = tuple(
        Option(
            name,
            identity=name == "identity" and not halves,
            learns=has_weights(name, 2 if halves else 1),
            skip=name == "identity",
        )
        for name in operations
    )
    choices: list[Choice] = []
    for b in range(blocks):
        block = f"{kind}_block{b}"
        choices += [Choice(f"{block}_input{side}", read[: INPUTS + b], kind="inputs") for side in (1, 2)]
        choices += [Choice(f"{block}_op{side}", ops) for side in (1, 2)]
        choices.append(Choice(f"{block}_combine", COMBINE, dropped="input"))
    return tuple(choices)


def _symbols(choice: Choice) -> tuple[str, ...]:
    """How the options of a choice are written."""
    return ("a", "c") if choice.options == COMBINE else tuple(map(str, range(len(choice.options))))


class NASNet(Space):
    """Stem, then `cells` normal cells and a reduction cell in turn, `cells` normal cells, classifier.

    All normal cells share one architecture, all reduction cells another. A cell reads the outputs of the cells k - 2
    (node `input0`) and k - 1 (`input1`), the first cell the stem's twice, each brought to C channels by ReLU, 1x1
    convolution and batch norm. Each of its B blocks applies an operation to each of two earlier nodes and combines the
    results. Blocks that no later block reads are its loose ends: concatenated, they are the cell's output. C doubles
    at each reduction cell, whose operations have stride 2 on the cell's inputs and stride 1 on blocks.

    Where the paper leaves room, or a supernet needs more:

    - Concatenating the sides of a block doubles its channels; a 1x1 convolution and batch norm bring them back to C.
    - The identity at stride 2 is a factorized reduction, and so is the alignment of an input twice as large.
    - Operations belong to one side of one block; nodes that are read at the same stride share their weights.
    - What reads a concatenation of loose ends holds one convolution (in the head, one linear) an end, and adds up.
      A child holds those of its own loose ends alone, under the supernet's names. With several options active, a
      block is loose if no active input option of a later block names it.
    - A cell that the head does not depend on, and a cell input that no block reads, are neither run nor built.

    A block is written as its two inputs, its two operations, and `a` (add) or `c` (concat), joined by dots; options
    are counted from 0 in the order of `choices`. Dashes join blocks, an underscore joins the normal and the reduction
    cell: ``0.1.1.0.a-1.2.2.2.c_0.0.1.1.a-2.0.0.0.a``. Safe in file names, CSV and YAML.

    A dropped operation adds nothing to its block. Inputs and `add` pass on what they are given, so they count as
    identities, which are not dropped; a dropped `concat` becomes the sum of the sides.

    Args:
        blocks: Blocks of a cell (B), at least 1; 5 in the paper.
        operations: "small" (identity, separable 3x3, max pool 3x3), or "published", the paper's 13.
        channels: Width of a block before the first reduction cell (C), at least 2.
        cells: Normal cells in a row (N), at least 1.
        reductions: Reduction cells, at least 1; images need 2 ** reductions pixels a side.
        stem_channels: Width of the stem, at least 1.
        bn_affine: Learnable scale and shift in the cells' batch norms.
    """

    name: ClassVar[str] = "nasnet"

    def __init__(
        self,
        blocks: int = 4,
        operations: Literal["small", "published"] = "small",
        channels: int = 16,
        cells: int = 1,
        reductions: int = 2,
        stem_channels: int = 48,
        bn_affine: bool = True,
    ) -> None:
        sizes = {"blocks": (blocks, 1), "channels": (channels, 2), "cells": (cells, 1)}
        sizes |= {"reductions": (reductions, 1), "stem_channels": (stem_channels, 1)}
        for key, (value, least) in sizes.items():
            if value < least:
                raise InputError(f"space.{key} is {value}: expected at least {least}")
        if operations not in OPERATIONS:
            raise InputError(f"space.operations is {operations!r}: expected {' or '.join(OPERATIONS)}")
        self.blocks, self.channels, self.reductions, self.stem_channels = blocks, channels, reductions, stem_channels
        made = {kind: _choices(kind, blocks, OPERATIONS[operations]) for kind in KINDS}
        self.choices = made["normal"] + made["reduce"]
        normal = ("normal",) * cells
        self.chain = Chain(normal + reductions * ("reduce", *normal), made, bn_affine)

    def build(self, spec: ImageSpec, allowed: Allowed) -> Network:
        if spec.size < 2**self.reductions:
            raise InputError(
                f"space.reductions is {self.reductions} and images have {spec.size} pixels a side: "
                f"expected at most {spec.size.bit_length() - 1} reductions"
            )
        ends = {kind: self._possible_ends(kind, allowed) for kind in KINDS}
        segments: dict[str, Segment] = {"stem": Stem(spec.channels, self.stem_channels)}
        before = last = Source(("stem",), self.stem_channels, 0)
        channels, halvings = self.channels, 0
        for place, kind in enumerate(self.chain.kinds):
            channels *= 2 if kind == "reduce" else 1
            halvings += 1 if kind == "reduce" else 0
            segments[f"cell{place + 1}"] = Cell(self.chain, place, (before, last), channels, allowed)
            before, last = last, Source(ends[kind], channels, halvings)
        segments["head"] = Head(last, spec.classes)
        return Network(segments, allowed)

    def _possible_ends(self, kind: str, allowed: Allowed) -> tuple[str, ...]:
        """The blocks that are loose in some of the allowed architectures: those that no input choice must name."""
        only = {name: options for name, options in allowed.items() if len(options) == 1}
        inputs = [c for c in self.chain.choices[kind] if c.kind == "inputs"]
        must = {node for choice in inputs for node in only.get(choice.name, ())}
        return tuple(f"block{b}" for b in range(self.blocks) if INPUTS + b not in must)

    def canonical(self, architecture: Architecture) -> Architecture:
        """The sides of each block sorted: swapping them gives the same network, for concat up to the order of the
        convolution's input channels. A different order of the blocks is not recognised as the same network.
        """
        sorted_sides: Architecture = ()
        for start in range(0, len(architecture), DECISIONS):
            in1, in2, op1, op2, combine = architecture[start : start + DECISIONS]
            (in1, op1), (in2, op2) = sorted([(in1, op1), (in2, op2)])
            sorted_sides += (in1, in2, op1, op2, combine)
        return sorted_sides

    def format(self, architecture: Architecture) -> str:
        """The notation of the class, such as ``0.1.1.0.a-1.2.2.2.c_0.0.1.1.a-2.0.0.0.a`` for two blocks."""
        words = [_symbols(choice)[index] for choice, index in zip(self.choices, architecture, strict=True)]
        blocks = [".".join(words[start : start + DECISIONS]) for start in range(0, len(words), DECISIONS)]
        return "_".join(["-".join(blocks[: self.blocks]), "-".join(blocks[self.blocks :])])

    def parse(self, text: str) -> Architecture:
        words = text.replace("_", ".").replace("-", ".").split(".")
        if len(words) == len(self.choices):
            pairs = list(zip(words, map(_symbols, self.choices), strict=True))
            if all(word in symbols for word, symbols in pairs):
                architecture = tuple(symbols.index(word) for word, symbols in pairs)
                if self.format(architecture) == text:  # the joints are where they should be
                    return architecture
        raise InputError(
            f"{text!r} is no architecture of {self.name}: expected {self.blocks} blocks for each of two cells, such as "
            f"{self.format(next(self.architectures()))!r}"
        )

    def graph(self, architecture: Architecture) -> list[Edge]:
        """The two cells; a block is named with its way to combine, and loose ends meet in the output."""
        half = len(architecture) // 2
        return [
            *self._cell_graph("normal", architecture[:half]),
            *self._cell_graph("reduce", architecture[half:]),
        ]

    def _cell_graph(self, kind: str, architecture: Architecture) -> list[Edge]:
        words = [c.options[i].name for c, i in zip(self.chain.choices[kind], architecture, strict=True)]
        nodes, edges = {f"input{i}": f"{kind} input{i}" for i in range(INPUTS)}, []
        for b in range(self.blocks):
            in1, in2, op1, op2, combine = words[DECISIONS * b : DECISIONS * (b + 1)]
            block = nodes[f"block{b}"] = f"{kind} {b} {combine}"
            edges += [Edge(nodes[in1], block, op1), Edge(nodes[in2], block, op2)]
        read = {edge.source for edge in edges}
        loose = [node for name, node in nodes.items() if name.startswith("block") and node not in read]
        return edges + [Edge(node, f"{kind} output", "concatenate") for node in loose]
