"""NASNet's cells as a chain of segments, which hand on the loose ends of the last two (Zoph et al. 2018, section 3)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from operator import add

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nastricks.spaces.choices import Allowed, Choice
from nastricks.spaces.nasnet_operations import operation, pointwise
from nastricks.spaces.network import Gate, GatedOps, Gates, Placed, Segment, per_sample
from nastricks.spaces.primitives import conv_bn

INPUTS = 2  # nodes 0 and 1 of a cell are the outputs of the cells k - 2 and k - 1
ADD, CONCAT = 0, 1
DECISIONS = 5  # a block: two inputs, two operations, how to combine

Ends = dict[str, Tensor]
"""The loose ends of a cell, or the stem's output, by name: what would be concatenated."""


@dataclass(frozen=True)
class Chain:
    """What the cells have in common: the kind of each, "normal" or "reduce", and the choices of the two kinds."""

    kinds: tuple[str, ...]
    choices: Mapping[str, tuple[Choice, ...]]
    affine: bool

    def named_nodes(self, kind: str, options: Mapping[str, Sequence[int]]) -> set[int]:
        """The nodes that an input choice of `kind` names among `options`: 0 and 1, then the blocks from 2."""
        return {node for choice in self.choices[kind] if choice.kind == "inputs" for node in options[choice.name]}

    def reaches_head(self, place: int, options: Mapping[str, Sequence[int]]) -> bool:
        """Whether the head depends on the cell at `place`, when input choices have these options.

        It depends on the last cell, and on what such a cell reads. A cell changes nothing if the next reads only
        k - 2 and the one after it only k - 1.
        """
        kinds = self.kinds[place:]
        named = {kind: self.named_nodes(kind, options) for kind in set(kinds)}
        live = [False] * (len(kinds) - 1) + [True]
        for reader in reversed(range(len(kinds))):
            for node in range(INPUTS):
                source = reader - INPUTS + node
                if live[reader] and source >= 0 and node in named[kinds[reader]]:
                    live[source] = True
        return live[0]


@dataclass(frozen=True)
class Source:
    """What a cell input comes from: the names of its loose ends, their width, and how often it was halved."""

    ends: tuple[str, ...]
    channels: int
    halvings: int


def weighted_sum(gate: Gate, outputs: Sequence[Tensor]) -> Tensor:
    """The outputs (N, C, H, W) of a gate's active options, weighted and added up."""
    if not outputs:
        raise ValueError("a gate without active options has no output")
    if gate.weights is None:
        return reduce(add, outputs)
    return reduce(add, [y * per_sample(w) for y, w in zip(outputs, gate.weights, strict=True)])


class Align(nn.Module):
    """ReLU, 1x1 convolution, batch norm over concatenated loose ends, at stride 2 a factorized reduction.

    One convolution an end, added up: that is the convolution over the concatenation, cut along its input channels.
    """

    def __init__(self, source: Source, channels: int, stride: int, affine: bool) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({end: pointwise(source.channels, channels, stride) for end in source.ends})
        self.norm = nn.BatchNorm2d(channels, affine=affine)

    def forward(self, ends: Ends) -> Tensor:
        """Some of the ends, each (N, source channels, H, W) -> (N, channels, ceil(H / stride), ceil(W / stride))."""
        return self.norm(reduce(add, [self.parts[name](F.relu(x)) for name, x in ends.items()]))


class Side(nn.Module):
    """One side of a block: an operation on a node. Nodes that are read at the same stride share its weights."""

    def __init__(self, inputs: Choice, ops: Choice, channels: int, halves: bool, allowed: Allowed, affine: bool):
        super().__init__()
        self.inputs_name, self.ops_name, self.halves = inputs.name, ops.name, halves
        self.sets = nn.ModuleDict()
        for stride in sorted({self._stride(node) for node in allowed[inputs.name]}):
            make = partial(self._make, ops, stride, affine)
            self.sets[f"stride{stride}"] = GatedOps(ops, allowed[ops.name], make, channels, stride)

    @staticmethod
    def _make(ops: Choice, stride: int, affine: bool, index: int, channels: int) -> nn.Module:
        return operation(ops.options[index].name, channels, stride, affine)

    def _stride(self, node: int) -> int:
        return 2 if self.halves and node < INPUTS else 1

    def forward(self, nodes: Mapping[int, Tensor], gates: Gates) -> Tensor:
        """Nodes (N, C, H, W) -> the sum over active nodes of weight times gated operations."""
        gate = gates[self.inputs_name]
        if gate.bypass is not None:
            raise ValueError(f"{self.inputs_name} chooses what is read: it has no input of its own to bypass")
        outputs = [self.sets[f"stride{self._stride(i)}"](nodes[i], gates[self.ops_name]) for i in gate.active]
        return weighted_sum(gate, outputs)


class Block(Placed):
    """Two sides, added, or concatenated and brought back to C channels by a 1x1 convolution and batch norm."""

    def __init__(self, choices: Sequence[Choice], channels: int, halves: bool, allowed: Allowed, affine: bool) -> None:
        super().__init__()
        input1, input2, op1, op2, combine = choices
        self.side1 = Side(input1, op1, channels, halves, allowed, affine)
        self.side2 = Side(input2, op2, channels, halves, allowed, affine)
        self.choice_name = combine.name
        concatenates = CONCAT in allowed[combine.name]
        self.concat = conv_bn(2 * channels, channels, 1, affine=affine) if concatenates else None

    def forward(self, nodes: Mapping[int, Tensor], gates: Gates) -> Tensor:
        """Nodes (N, C, H, W) -> (N, C, H', W')."""
        gate = gates[self.choice_name].at(self.place)
        left, right = self.side1(nodes, gates), self.side2(nodes, gates)
        outputs = [left + right if index == ADD else self._concatenated(left, right) for index in gate.active]
        if gate.bypass is None:
            return weighted_sum(gate, outputs)
        own = (left + right) * per_sample(gate.bypass)
        return weighted_sum(gate, outputs) + own if outputs else own

    def _concatenated(self, left: Tensor, right: Tensor) -> Tensor:
        assert self.concat is not None
        return self.concat(torch.cat([left, right], dim=1))


class Stem(Segment):
    """3x3 convolution and batch norm; its output stands for both cells before the first."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.layers = conv_bn(inputs, outputs, 3)

    def forward(self, state: Tensor, gates: Gates) -> tuple[Ends, Ends]:
        ends = {"stem": self.layers(state)}
        return ends, ends


class Cell(Segment):
    """One cell: the loose ends of the two cells before it -> those of the one before it, and its own.

    A cell that the head does not depend on neither runs nor is built, and hands on no ends. That follows from the
    input choices of the cells behind it, so it names those among its choices.
    """

    def __init__(self, chain: Chain, place: int, sources: tuple[Source, Source], channels: int, allowed: Allowed):
        super().__init__()
        self.chain, self.place, self.kind = chain, place, chain.kinds[place]
        own = chain.choices[self.kind]
        behind = sorted(set(chain.kinds[place + 1 :]) - {self.kind})
        self.choices = tuple(c.name for c in own) + tuple(
            c.name for kind in behind for c in chain.choices[kind] if c.kind == "inputs"
        )
        self.align, self.blocks = nn.ModuleDict(), nn.ModuleDict()
        if not chain.reaches_head(place, allowed):
            return
        strides = (1 if sources[0].halvings == sources[1].halvings else 2, 1)
        for node in sorted(chain.named_nodes(self.kind, allowed) & set(range(INPUTS))):
            self.align[f"input{node}"] = Align(sources[node], channels, strides[node], chain.affine)
        for b in range(len(own) // DECISIONS):
            five = own[DECISIONS * b : DECISIONS * (b + 1)]
            self.blocks[f"block{b}"] = Block(five, channels, self.kind == "reduce", allowed, chain.affine)

    def forward(self, state: tuple[Ends, Ends], gates: Gates) -> tuple[Ends, Ends]:
        active = {name: gates[name].active for name in self.choices}
        if not self.chain.reaches_head(self.place, active):
            return state[1], {}
        read = self.chain.named_nodes(self.kind, active)
        nodes = {node: self.align[f"input{node}"](state[node]) for node in range(INPUTS) if node in read}
        for node, block in enumerate(self.blocks.values(), start=INPUTS):
            nodes[node] = block(nodes, gates)
        ends = {f"block{n - INPUTS}": y for n, y in nodes.items() if n >= INPUTS and n not in read}
        return state[1], ends


class Head(Segment):
    """ReLU, global average, linear over concatenated loose ends: one linear an end, added up, with one bias."""

    def __init__(self, source: Source, classes: int) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({end: nn.Linear(source.channels, classes, bias=False) for end in source.ends})
        self.bias = nn.Parameter(torch.zeros(classes))

    def forward(self, state: tuple[Ends, Ends], gates: Gates) -> Tensor:
        parts = [self.parts[name](F.relu(x).mean(dim=(2, 3))) for name, x in state[1].items()]
        return reduce(add, parts) + self.bias
