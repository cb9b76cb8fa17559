"""Which combinations of edges a node may have, and how many there are.

A node sees its edges one by one, and an edge is one choice (one operation an edge) or several (each operation on or
off). An edge is present where any of its choices takes an option that is not absent.
"""

from collections.abc import Sequence
from functools import lru_cache
from math import prod
from typing import NamedTuple

from nastricks.spaces.choices import Allowed, Choice


class Count(NamedTuple):
    """How many options of a choice are no connection, and how many are one."""

    absent: int
    present: int


Edge = tuple[int, ...]
"""The places of an edge's choices among all choices of the space."""

Node = tuple[Edge, ...]


class Rules:
    """How many edges must be present in a node.

    Args:
        choices: Those of the space, in order; each belongs to one edge of one node.
        nodes: The nodes, in order.
        inputs: The edges that a node has; None: at least one.
    """

    def __init__(self, choices: Sequence[Choice], nodes: Sequence[Node], inputs: int | None) -> None:
        self.choices, self.inputs = tuple(choices), inputs
        self.nodes = tuple(nodes)
        self._node_of = [node for node in nodes for edge in node for _ in edge]
        self._absent = [tuple(option.absent for option in choice.options) for choice in choices]
        self._options = [tuple(range(len(choice.options))) for choice in choices]

    @property
    def size(self) -> int:
        """How many architectures there are."""
        return prod(ways([self._counts(edge, None) for edge in node], 0, self.inputs) for node in self.nodes)

    def odds(self, prefix: Sequence[int], allowed: Allowed | None) -> dict[int, int]:
        """In how many ways the node of the next choice can be completed, for each option that leaves a way."""
        place = len(prefix)
        node = self._node_of[place]
        number = next(i for i, edge in enumerate(node) if place <= edge[-1])
        so_far = sum(self._present(edge, prefix) for edge in node[:number])
        rest = [self._counts([p for p in edge if p >= place], allowed) for edge in node[number:]]
        found = continuations(rest, so_far, self.inputs, begun=self._present(node[number], prefix))
        options = self._options[place] if allowed is None else allowed[self.choices[place].name]
        each = {index: found.absent if self._absent[place][index] else found.present for index in options}
        return {index: ways for index, ways in each.items() if ways}

    def _counts(self, edge: Sequence[int], allowed: Allowed | None) -> "EdgeCounts":
        options = [self._options[p] if allowed is None else allowed[self.choices[p].name] for p in edge]
        absent = [sum(self._absent[p][index] for index in those) for p, those in zip(edge, options, strict=True)]
        return tuple(Count(n, len(those) - n) for n, those in zip(absent, options, strict=True))

    def _present(self, edge: Edge, prefix: Sequence[int]) -> bool:
        return any(not self._absent[p][prefix[p]] for p in edge if p < len(prefix))


EdgeCounts = tuple[Count, ...]


def ways(edges: Sequence[EdgeCounts], so_far: int, inputs: int | None) -> int:
    """In how many ways the remaining edges of a node can be decided, when `so_far` of the others are present.

    `inputs` edges must be present in the end; None: at least one.
    """
    return _ways(tuple(edges), so_far if inputs is not None else min(so_far, 1), inputs)


@lru_cache(maxsize=65536)
def _ways(edges: tuple[EdgeCounts, ...], so_far: int, inputs: int | None) -> int:
    if inputs is not None and so_far > inputs:
        return 0
    if not edges:
        return int(so_far == inputs) if inputs is not None else int(so_far > 0)
    absent = prod(count.absent for count in edges[0])
    present = prod(count.absent + count.present for count in edges[0]) - absent
    return absent * ways(edges[1:], so_far, inputs) + present * ways(edges[1:], so_far + 1, inputs)


def continuations(edges: Sequence[EdgeCounts], so_far: int, inputs: int | None, *, begun: bool) -> Count:
    """In how many ways a node can be completed after its next choice: for an absent option of it, for a present one.

    `edges` are those that are not yet decided, the first of them from the next choice on; `begun` says whether one of
    its earlier choices made it present.
    """
    (_, *rest), *others = edges
    free = prod(count.absent + count.present for count in rest)
    present = free * ways(others, so_far + 1, inputs)
    if begun:
        return Count(present, present)
    absent = prod(count.absent for count in rest)
    left_out = absent * ways(others, so_far, inputs) + (free - absent) * ways(others, so_far + 1, inputs)
    return Count(left_out, present)
