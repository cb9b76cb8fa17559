"""What can be decided: choices, their options, and architectures, which are one option for every choice."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Architecture = tuple[int, ...]
"""The index of one option for every choice, in the order of `Space.choices`."""

Allowed = Mapping[str, Sequence[int]]
"""The options that remain of each choice."""


@dataclass(frozen=True)
class Option:
    """One option of a choice.

    `identity` passes its input through unchanged; `learns` says that it has weights; `skip` says that it is a skip
    connection, also where it changes the shape (a skip at stride 2 has weights); `absent` is no connection at all:
    it adds nothing, and costs nothing [the `none` of DARTS]. `mixed` says that a relaxation mixes it with the others;
    where it is false only an architecture can take it [`none` of an edge that the search lets choose among operations
    alone, as in the spaces S1, S2 and S4 of RobustDARTS].
    """

    name: str
    identity: bool = False
    learns: bool = True
    skip: bool = False
    absent: bool = False
    mixed: bool = True


@dataclass(frozen=True)
class Choice:
    """One named decision of a space.

    `kind`: options stand side by side (`parallel`), a smaller one lives inside a larger (`nested`), or they say which
    edges a node takes (`inputs`). `dropped` is what stands in for a path that a trick drops for a sample: nothing
    (`zero`), where other paths are added to it; the choice's own input (`input`), where the path is the only way;
    where that has another shape, paths are not dropped (`never`).
    `dimension`: what a nested choice sizes (``resolution``, ``width``, ``depth``, ``kernel``, ``expansion``), by which
    shrinking goes [once-for-all]; its options stand from small to large.
    `node`: where outputs of several choices are added up, the node that this one is an edge into [best edges of a node,
    edge normalisation]; `cell`: the kind of cell that it belongs to, such as ``normal``.
    """

    name: str
    options: tuple[Option, ...]
    kind: Literal["parallel", "nested", "inputs"] = "parallel"
    dropped: Literal["zero", "input", "never"] = "zero"
    node: str | None = None
    cell: str | None = None
    dimension: str | None = None
