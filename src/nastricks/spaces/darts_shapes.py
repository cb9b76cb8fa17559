"""The shape of a DARTS cell: which choices it has on which edges, and what an architecture makes of them."""

from collections.abc import Sequence
from typing import NamedTuple

from nastricks.spaces.choices import Architecture, Choice, Option
from nastricks.spaces.darts_notation import Pair
from nastricks.spaces.darts_operations import NONE, Norms, option
from nastricks.spaces.darts_rules import Node

OFF = "off"


class Link(NamedTuple):
    """Where a choice of a cell stands: on the edge from node `source` to node `target`; a cell's inputs come first."""

    choice: Choice
    source: int
    target: int


class Shape:
    """What cells that share an architecture have in common.

    Args:
        name: How the shape is called in the names of choices.
        kind: "normal" or "reduce".
        operations: Those of each edge, by target node, then by source node.
        inputs: How many earlier cells the cell reads.
        free: Whether each operation of an edge is a choice of its own, off or on.
        norms: The batch norms of the cell.
    """

    def __init__(
        self, name: str, kind: str, operations: Sequence[Sequence[str]], inputs: int, free: bool, norms: Norms
    ) -> None:
        self.name, self.kind, self.inputs, self.free, self.norms = name, kind, inputs, free, norms
        self.halves = kind == "reduce"
        links: list[Link] = []
        waiting, target = list(operations), inputs
        while waiting:
            for source in range(target):
                links += self._links(waiting.pop(0), source, target)
            target += 1
        self.links = tuple(links)
        self.nodes = target - inputs

    def stride(self, source: int) -> int:
        """Of the edges from a node: 2 in a reduction cell from its inputs."""
        return 2 if self.halves and source < self.inputs else 1

    def _links(self, operations: Sequence[str], source: int, target: int) -> list[Link]:
        made = {name: option(name, self.stride(source), self.norms) for name in operations if name != NONE}
        edge, node = f"{self.name}_{target}_{source}", f"{self.name}_node{target}"

        def link(name: str, options: tuple[Option, ...]) -> Link:
            return Link(Choice(name, options, dropped="zero", node=node, cell=self.kind), source, target)

        if not self.free:
            # Where the search does not know `none`, an architecture still leaves edges out.
            none = Option(NONE, learns=False, absent=True, mixed=NONE in operations)
            return [link(edge, (none, *made.values()))]
        off = Option(OFF, learns=False, absent=True)
        return [link(f"{edge}_{name}", (off, on)) for name, on in made.items()]

    def places(self, start: int) -> list[Node]:
        """The nodes with the places of their edges' choices, when the first choice has the place `start`."""
        nodes: dict[int, dict[int, list[int]]] = {}
        for place, link in enumerate(self.links, start=start):
            nodes.setdefault(link.target, {}).setdefault(link.source, []).append(place)
        return [tuple(tuple(edge) for edge in node.values()) for node in nodes.values()]

    def pairs(self, options: Architecture) -> list[list[Pair]]:
        """What enters each node, by the node that it comes from."""
        nodes: list[list[Pair]] = [[] for _ in range(self.nodes)]
        for link, index in zip(self.links, options, strict=True):
            if not link.choice.options[index].absent:
                nodes[link.target - self.inputs].append((link.choice.options[index].name, link.source))
        return nodes

    def options(self, nodes: Sequence[Sequence[Pair]]) -> Architecture:
        """The inverse of `pairs`, in any order within a node.

        Raises:
            ValueError: an edge or an operation that is not there, or more on an edge than fits.
        """
        wanted: dict[str, int] = {}
        for target, pairs in enumerate(nodes, start=self.inputs):
            for operation, source in pairs:
                edge = f"node {target} of {self.name} cells from node {source}"
                if not 0 <= source < target:
                    raise ValueError(f"there is no edge into {edge}: expected a node from 0 to {target - 1}")
                own = [link.choice for link in self.links if (link.source, link.target) == (source, target)]
                found = {o.name: (c, i) for c in own for i, o in enumerate(c.options) if not o.absent}
                if operation not in found:
                    raise ValueError(f"{operation!r} is no operation of {edge}: expected {', '.join(found)}")
                choice, index = found[operation]
                if choice.name in wanted:
                    what = "the same operation" if self.free else "two operations"
                    raise ValueError(f"{what} on the edge into {edge}: expected one")
                wanted[choice.name] = index
        return tuple(wanted.get(link.choice.name, 0) for link in self.links)
