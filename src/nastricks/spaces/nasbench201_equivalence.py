"""Which cells of NAS-Bench-201 are the same network when trained alone, as far as algebra proves it.

A node is written as a sum of terms in the cell's input, and two cells are the same where their outputs are the same
sums up to the names of the convolutions. The algebra knows that

- a sum has no order, `none` adds nothing, a skip passes its sum on, and what no path takes to the output is no term;
- average pooling is linear: the pool of a sum is the sum of the pools, and the pool of nothing is nothing;
- a convolution of nothing is its batch norm's shift, a learnt constant, whatever the kernel; without affine it is
  nothing. Pooling leaves a constant as it is, since padding is not counted.

Every convolution has weights of its own, so a sum with one convolution taken twice (two skips from its node) is not
the sum of two convolutions. The published count of 6,466 (Dong and Yang 2020) writes both alike, and it keeps sums
apart that differ in terms that are nothing or in the order of sums within sums. This algebra leaves 5,234 networks, and
5,044 without affine.
"""

import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from nastricks.spaces.choices import Architecture

OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
NODES = 4
EDGES = tuple((source, target) for target in range(1, NODES) for source in range(target))
"""(source, target) of each edge, in the order of the published notation."""

Term = tuple[Any, ...]
"""(INPUT,), (POOL, term), or (a convolution or CONSTANT, its name, the sum it reads)."""

Sum = tuple[Term, ...]

INPUT, POOL, CONSTANT = "input", "pool", "constant"
NONE, SKIP, AVERAGE = (OPERATIONS.index(name) for name in ("none", "skip_connect", "avg_pool_3x3"))


def representative(architecture: Architecture, affine: bool) -> Architecture:
    """The first architecture, in lexicographic order, that is the same network."""
    return _representatives(affine)[architecture]


@functools.cache
def _representatives(affine: bool) -> dict[Architecture, Architecture]:
    first: dict[Sum, Architecture] = {}
    everything = itertools.product(range(len(OPERATIONS)), repeat=len(EDGES))
    return {a: first.setdefault(cell_sum(a, affine), a) for a in everything}


def cell_sum(architecture: Architecture, affine: bool) -> Sum:
    """The cell's output as a sum; equal for cells that are the same network.

    Convolutions are named by their edge first. Only those with the same kernel that read the same can be exchanged, so
    the smallest sum over all ways to number these is the same whatever the edges were.
    """
    nodes = _nodes(architecture, [0] * len(EDGES), affine)
    alike: dict[Term, list[int]] = {}
    for edge, (source, _) in enumerate(EDGES):
        if architecture[edge] not in (NONE, SKIP, AVERAGE):
            alike.setdefault(_convolution(architecture[edge], 0, nodes[source]), []).append(edge)
    return min(_nodes(architecture, names, affine)[-1] for names in _namings(list(alike.values())))


def _namings(groups: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """A name for each edge: all ways to number the edges within the groups."""
    for orders in itertools.product(*(itertools.permutations(range(len(group))) for group in groups)):
        names = [0] * len(EDGES)
        for group, order in zip(groups, orders, strict=True):
            for edge, number in zip(group, order, strict=True):
                names[edge] = number
        yield names


def _nodes(architecture: Architecture, names: Sequence[int], affine: bool) -> list[Sum]:
    """The sum that each node is."""
    nodes: list[Sum] = [((INPUT,),)]
    terms: list[Term] = []
    for edge, (source, target) in enumerate(EDGES):
        operation, read = architecture[edge], nodes[source]
        if operation == SKIP:
            terms += read
        elif operation == AVERAGE:
            terms += [term if term[0] == CONSTANT else (POOL, term) for term in read]
        elif operation != NONE and (read or affine):
            terms.append(_convolution(operation, names[edge], read))
        if source == target - 1:
            nodes.append(tuple(sorted(terms)))
            terms = []
    return nodes


def _convolution(operation: int, name: int, read: Sum) -> Term:
    return (OPERATIONS[operation] if read else CONSTANT, name, read)
