"""How cells are written: as the published genotype where it can say all, else as operations and inputs of each node."""

import ast
import re
from collections.abc import Mapping, Sequence

Pair = tuple[str, int]
"""An operation, and the node that it reads."""

Cells = Mapping[str, Sequence[Sequence[Pair]]]
"""What enters each node, for each shape of cell."""

KINDS = ("normal", "reduce")
EXAMPLE = (
    "Genotype(normal=[('sep_conv_3x3', 0), ('skip_connect', 1), ...], normal_concat=range(2, 6), "
    "reduce=[('max_pool_3x3', 0), ...], reduce_concat=range(2, 6))"
)
FREE_EXAMPLE = "normal:sep_conv_3x3~0+skip_connect~1|... reduce:..."
_ENTRY = re.compile(r"(\w+)~([0-9]{1,4})", re.ASCII)


def genotype_text(cells: Cells, inputs: int) -> str:
    """``Genotype(normal=[...], normal_concat=range(2, 6), reduce=[...], reduce_concat=range(2, 6))``, on one line."""
    parts = []
    for kind in KINDS:
        pairs = [pair for node in cells[kind] for pair in node]
        parts.append(f"{kind}={pairs}, {kind}_concat=range({inputs}, {inputs + len(cells[kind])})")
    return f"Genotype({', '.join(parts)})"


def read_genotype(text: str, inputs: int, nodes: int, edges: int) -> dict[str, list[list[Pair]]]:
    """The inverse, for cells of `nodes` nodes with `edges` edges each; lists for ranges and any spacing will do.

    Nothing is evaluated: the text is taken apart, and its lists read as literals.

    Raises:
        ValueError: what is wrong, and what was expected.
    """
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ValueError(f"expected {EXAMPLE}") from None
    keys = [f"{kind}{part}" for kind in KINDS for part in ("", "_concat")]
    if not isinstance(tree, ast.Call) or not isinstance(tree.func, ast.Name) or tree.func.id != "Genotype":
        raise ValueError(f"expected {EXAMPLE}")
    given = {keyword.arg: keyword.value for keyword in tree.keywords if keyword.arg is not None}
    if tree.args or sorted(given) != sorted(keys) or len(given) != len(tree.keywords):
        raise ValueError(f"expected the fields {', '.join(keys)}")
    cells = {}
    for kind in KINDS:
        concat = _numbers(given[f"{kind}_concat"])
        if concat != list(range(inputs, inputs + nodes)):
            raise ValueError(f"{kind}_concat is not range({inputs}, {inputs + nodes}), the nodes of a cell")
        pairs = _pairs(given[kind])
        if pairs is None:
            raise ValueError(f"{kind} is no list of pairs such as ('sep_conv_3x3', 0)")
        if len(pairs) != nodes * edges:
            raise ValueError(
                f"{kind} has {len(pairs)} pairs: expected {nodes * edges}, {edges} for each of {nodes} nodes"
            )
        cells[kind] = [pairs[start : start + edges] for start in range(0, len(pairs), edges)]
    return cells


def _numbers(tree: ast.expr) -> list[int] | None:
    """``range(2, 6)`` or ``[2, 3, 4, 5]``."""
    if isinstance(tree, ast.Call):
        ends = [_literal(argument) for argument in tree.args]
        named = isinstance(tree.func, ast.Name) and tree.func.id == "range" and not tree.keywords
        if named and len(ends) == 2 and all(type(end) is int and 0 <= end < 1000 for end in ends):
            return list(range(ends[0], ends[1]))  # type: ignore[call-overload]
        return None
    value = _literal(tree)
    return list(value) if isinstance(value, list | tuple) else None


def _pairs(tree: ast.expr) -> list[Pair] | None:
    value = _literal(tree)
    if not isinstance(value, list | tuple):
        return None
    for pair in value:
        if not isinstance(pair, list | tuple) or len(pair) != 2 or type(pair[0]) is not str or type(pair[1]) is not int:
            return None
    return [(operation, source) for operation, source in value]


def _literal(tree: ast.expr) -> object:
    try:
        return ast.literal_eval(tree)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return None


def free_text(cells: Cells) -> str:
    """``normal:sep_conv_3x3~0+skip_connect~1|max_pool_3x3~0|... reduce:...``.

    A word a shape of cell; in it, after the colon, the nodes joined by ``|``; in a node, ``operation~input`` joined by
    ``+``.
    """
    words = []
    for shape, nodes in cells.items():
        entries = ["+".join(f"{operation}~{source}" for operation, source in node) for node in nodes]
        words.append(f"{shape}:{'|'.join(entries)}")
    return " ".join(words)


def read_free(text: str, shapes: Sequence[str], nodes: int) -> dict[str, list[list[Pair]]]:
    """The inverse.

    Raises:
        ValueError: what is wrong, and what was expected.
    """
    words = [word.partition(":") for word in text.split()]
    if [shape for shape, _, _ in words] != list(shapes):
        raise ValueError(f"expected {FREE_EXAMPLE} for {', '.join(shapes)}")
    cells: dict[str, list[list[Pair]]] = {}
    for shape, _, told in words:
        listed = told.split("|")
        if len(listed) != nodes:
            raise ValueError(f"{shape} has {len(listed)} nodes: expected {nodes}, joined by |")
        cells[shape] = []
        for node in listed:
            entries = [_ENTRY.fullmatch(entry) for entry in node.split("+")]
            if not all(entries):
                raise ValueError(f"{node!r} is no node of {shape}: expected operation~input joined by +")
            cells[shape].append([(entry[1], int(entry[2])) for entry in entries if entry is not None])
    return cells
