"""The operations that papers let an edge of a DARTS cell choose from.

S1 to S4 are the reduced spaces of "Understanding and Robustifying Differentiable Architecture Search" (Zela et al.
2020, 1909.09656, section 4), in which DARTS fails; the lists are those of the released code (``src/spaces.py``). S1 has
two operations an edge that a search had left, S2 and S3 hold few strong ones, S4 a harmful one.
"""

from collections.abc import Mapping, Sequence

from nastricks.errors import InputError, unknown
from nastricks.spaces.darts_operations import NOISE, NONE, OPERATIONS, PUBLISHED, SKIP

SEP3, DIL3, DIL5 = "sep_conv_3x3", "dil_conv_3x3", "dil_conv_5x5"
MAX, AVG = "max_pool_3x3", "avg_pool_3x3"

S1: Mapping[str, tuple[tuple[str, str], ...]] = {
    "normal": (
        (SKIP, DIL3), (SKIP, DIL5),
        (SKIP, DIL5), (SKIP, SEP3), (SKIP, DIL3),
        (MAX, SKIP), (SKIP, SEP3), (SKIP, SEP3), (SKIP, DIL3),
        (SKIP, SEP3), (MAX, SKIP), (SKIP, DIL3), (DIL3, DIL5), (DIL3, DIL5),
    ),
    "reduce": (
        (MAX, AVG), (MAX, DIL3),
        (MAX, AVG), (MAX, AVG), (SKIP, DIL5),
        (MAX, AVG), (MAX, SEP3), (SKIP, DIL3), (SKIP, DIL5),
        (MAX, AVG), (MAX, AVG), (SKIP, DIL5), (SKIP, DIL5), (SKIP, DIL5),
    ),
}  # fmt: skip
"""By kind of cell, the pair of each edge: by target node, then by source node."""

SAME_ON_ALL_EDGES: Mapping[str, tuple[str, ...]] = {
    "published": PUBLISHED,
    "s2": (SKIP, SEP3),
    "s3": (NONE, SKIP, SEP3),
    "s4": (NOISE, SEP3),
}


def operations_of_edges(operations: str | Sequence[str], kind: str, edges: int) -> list[tuple[str, ...]]:
    """The operations of each edge of a kind of cell, for the name of a set or for a list that holds for all edges.

    Raises:
        InputError: an unknown set or operation, one twice, or none that connects; S1 for cells of another shape.
    """
    if isinstance(operations, str):
        if operations == "s1":
            if edges != len(S1[kind]):
                raise InputError(
                    f"space.operations s1 names the operations of {len(S1[kind])} edges and the cells have {edges}: "
                    "set space.nodes 4 and space.input_cells 2"
                )
            return list(S1[kind])
        if operations not in SAME_ON_ALL_EDGES:
            raise unknown("set of operations", operations, ("s1", *SAME_ON_ALL_EDGES))
        return [SAME_ON_ALL_EDGES[operations]] * edges
    for name in operations:
        if name not in OPERATIONS:
            raise unknown("operation", name, OPERATIONS)
    if len(set(operations)) < len(operations) or not set(operations) - {NONE}:
        raise InputError(
            f"space.operations is {list(operations)}: expected operations other than none, each once, such as "
            "[skip_connect, sep_conv_3x3]"
        )
    return [tuple(operations)] * edges
