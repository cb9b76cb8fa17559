"""Draws an architecture as an SVG: boxes from left to right, an arrow a decision."""

from collections.abc import Sequence
from html import escape

from nastricks.spaces.base import Edge

BOX_WIDTH, BOX_HEIGHT, GAP, ROW = 124, 40, 190, 96
MARGIN, TITLE = 24, 44
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a5195", "#666666")


def draw(edges: Sequence[Edge], title: str) -> str:
    """The text of an SVG file. Nodes stand in the column of their longest path from a source.

    Arrows between the same two nodes are drawn as one, with all their labels.
    """
    edges = _joined(edges)
    columns = _columns(edges)
    width = 2 * MARGIN + (max(columns.values()) + 1) * BOX_WIDTH + max(columns.values()) * GAP
    rows = _rows(edges, columns)
    height = TITLE + 2 * MARGIN + BOX_HEIGHT + max(rows.values()) * ROW + 40
    place = {n: (MARGIN + columns[n] * (BOX_WIDTH + GAP), TITLE + MARGIN + rows[n] * ROW) for n in columns}
    labels = list(dict.fromkeys(edge.label for edge in edges))
    colour = {label: COLOURS[i % len(COLOURS)] for i, label in enumerate(labels)}
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="system-ui, sans-serif" font-size="14" role="img">',
        f"<title>{escape(title)}</title>",
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="{MARGIN}" y="{MARGIN + 8}" font-size="17" font-weight="600" fill="#222">{escape(title)}</text>',
    ]
    parts += [_arrow(edge, place, columns, colour[edge.label], i) for i, edge in enumerate(edges)]
    parts += [_box(node, *where) for node, where in place.items()]
    return "\n".join([*parts, "</svg>\n"])


def _joined(edges: Sequence[Edge]) -> list[Edge]:
    labels: dict[tuple[str, str], list[str]] = {}
    for edge in edges:
        labels.setdefault((edge.source, edge.target), []).append(edge.label)
    return [Edge(source, target, " + ".join(told)) for (source, target), told in labels.items()]


def _columns(edges: Sequence[Edge]) -> dict[str, int]:
    """Longest path from a source, a node."""
    nodes = list(dict.fromkeys(n for e in edges for n in (e.source, e.target)))
    columns = dict.fromkeys(nodes, 0)
    for _ in nodes:
        for edge in edges:
            columns[edge.target] = max(columns[edge.target], columns[edge.source] + 1)
    return columns


def _rows(edges: Sequence[Edge], columns: dict[str, int]) -> dict[str, int]:
    """One row, but every second node that an arrow would jump over moves down; no two nodes share a place."""
    rows = dict.fromkeys(columns, 0)
    taken: set[tuple[int, int]] = set()
    lower = 1
    for node, column in columns.items():
        if any(columns[e.source] < column < columns[e.target] and node not in e[:2] for e in edges):
            rows[node] = lower
            lower = 1 - lower
        while (column, rows[node]) in taken:
            rows[node] += 1
        taken.add((column, rows[node]))
    return rows


def _arrow(edge: Edge, place: dict[str, tuple[int, int]], columns: dict[str, int], colour: str, number: int) -> str:
    x1, y1 = place[edge.source][0] + BOX_WIDTH, place[edge.source][1] + BOX_HEIGHT // 2
    x2, y2 = place[edge.target][0], place[edge.target][1] + BOX_HEIGHT // 2
    bend = (x2 - x1) // 2
    marker = (
        f'<marker id="tip{number}" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" '
        f'orient="auto"><path d="M0 0 L10 5 L0 10 z" fill="{colour}"/></marker>'
    )
    path = f"M{x1} {y1} C{x1 + bend} {y1} {x2 - bend} {y2} {x2} {y2}"
    words = edge.label.replace("_", " ")
    # Before the next column, and nearer to the source: arrows that cross do so half-way.
    part = 0.4 * min(1.0, GAP / (x2 - x1))
    x, y = x1 + part * (x2 - x1), y1 + (3 * part**2 - 2 * part**3) * (y2 - y1)
    return (
        f'<defs>{marker}</defs><path d="{path}" fill="none" stroke="{colour}" stroke-width="2.5" '
        f'marker-end="url(#tip{number})"/>'
        f'<text x="{x:.0f}" y="{y - 9:.0f}" text-anchor="middle" fill="{colour}" '
        f'stroke="white" stroke-width="4" paint-order="stroke">{escape(words)}</text>'
    )


def _box(node: str, x: int, y: int) -> str:
    return (
        f'<rect x="{x}" y="{y}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="8" fill="#f4f4f4" stroke="#444"/>'
        f'<text x="{x + BOX_WIDTH // 2}" y="{y + BOX_HEIGHT // 2 + 5}" text-anchor="middle" fill="#222">'
        f"{escape(node)}</text>"
    )
