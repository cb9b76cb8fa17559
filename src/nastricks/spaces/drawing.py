"""Draws an architecture as an SVG: a short row of decisions as boxes and arrows, anything else as a wiring diagram.

In a wiring diagram a node is a box that lists what enters it, a line a decision. Every node that is read has a lane of
its own beside the boxes, from which lines lead to its readers further down. Words stand in boxes, so however dense the
graph is, none covers another. Parts that are not connected, such as two kinds of cells, stand side by side.
"""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from nastricks.spaces.base import Edge

BOX_HEIGHT, GAP = 40, 190
MARGIN, PANEL_GAP, WIDEST = 24, 48, 1400
HEADER, LINE, BETWEEN, LANE = 30, 24, 16, 15
LETTER = 8.2  # generous mean width of a letter, in pixels
TITLE_LINES = 8
ROW_NODES = 6  # a longer row is a wiring diagram
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b07800", "#2b8cbe", "#7a5195", "#666666")


@dataclass(frozen=True)
class Panel:
    """One connected part, drawn from its own corner (0, 0)."""

    width: int
    height: int
    parts: tuple[str, ...]


def draw(edges: Sequence[Edge], title: str) -> str:
    """The text of an SVG file.

    Nodes of a connected part whose names begin with the same words and a colon, such as ``normal: node 2``, are drawn
    without them, under a heading.
    """
    labels = list(dict.fromkeys(edge.label for edge in edges))
    colour = {label: COLOURS[i % len(COLOURS)] for i, label in enumerate(labels)}
    panels = []
    for part in _components(edges):
        row = _as_row(part)
        panels.append(_wiring(part, colour) if row is None else _row(row, colour))
    places, width, height = _flow(panels)
    lines = textwrap.wrap(title, max(30, int(width / 9.8)), max_lines=TITLE_LINES, placeholder=" ...") or [""]
    top = MARGIN + 21 * len(lines) + 12
    width, height = width + 2 * MARGIN, height + top + MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="system-ui, sans-serif" font-size="14" role="img">',
        f"<title>{escape(title)}</title>",
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for number, line in enumerate(lines):
        y = MARGIN + 10 + 21 * number
        parts.append(f'<text x="{MARGIN}" y="{y}" font-size="15" font-weight="600" fill="#222">{escape(line)}</text>')
    for panel, (x, y) in zip(panels, places, strict=True):
        parts += [f'<g transform="translate({MARGIN + x} {top + y})">', *panel.parts, "</g>"]
    return "\n".join([*parts, "</svg>\n"])


def _components(edges: Sequence[Edge]) -> list[list[Edge]]:
    """The edges of each connected part, parts in the order of their first edge."""
    part_of = {node: node for edge in edges for node in edge[:2]}

    def root(node: str) -> str:
        while part_of[node] != node:
            node = part_of[node]
        return node

    for edge in edges:
        part_of[root(edge.target)] = root(edge.source)
    parts: dict[str, list[Edge]] = {}
    for edge in edges:
        parts.setdefault(root(edge.source), []).append(edge)
    return list(parts.values())


def _flow(panels: Sequence[Panel]) -> tuple[list[tuple[int, int]], int, int]:
    """Corners of the panels from left to right, a new line where the next would be too far right; width and height."""
    places: list[tuple[int, int]] = []
    x = y = below = widest = 0
    for panel in panels:
        if x > 0 and x + panel.width > WIDEST:
            x, y = 0, below + PANEL_GAP
        places.append((x, y))
        x += panel.width + PANEL_GAP
        below, widest = max(below, y + panel.height), max(widest, x - PANEL_GAP)
    return places, widest, below


# A row.


def _as_row(edges: Sequence[Edge]) -> list[Edge] | None:
    """The edges one behind the other, those between the same two nodes joined; None where this is no short row."""
    labels: dict[tuple[str, str], list[str]] = {}
    for edge in edges:
        labels.setdefault((edge.source, edge.target), []).append(edge.label)
    joined = {source: Edge(source, target, " + ".join(told)) for (source, target), told in labels.items()}
    targets = [target for _, target in labels]
    starts = [source for source in joined if source not in targets]
    if len(joined) < len(labels) or len(set(targets)) < len(labels) or len(starts) != 1 or len(labels) >= ROW_NODES:
        return None
    row = [joined[starts[0]]]
    while (following := joined.get(row[-1].target)) is not None:
        row.append(following)
    return row


def _row(edges: Sequence[Edge], colour: dict[str, str]) -> Panel:
    nodes = [edges[0].source, *(edge.target for edge in edges)]
    width = max(124, *(_wide(node) for node in nodes))
    gap = max(GAP, *(_wide(edge.label) + 20 for edge in edges))
    parts, middle = [], 20 + BOX_HEIGHT // 2
    for number, edge in enumerate(edges):
        x1 = number * (width + gap) + width
        ink = colour.get(edge.label, COLOURS[number % len(COLOURS)])
        parts.append(_line(x1, middle, x1 + gap, middle, ink, tip=True))
        parts.append(_text(x1 + gap // 2, middle - 9, _spaced(edge.label), ink, "middle"))
    for number, node in enumerate(nodes):
        x = number * (width + gap)
        parts.append(_box(x, 20, width, BOX_HEIGHT))
        parts.append(_text(x + width // 2, middle + 5, node, "#222", "middle"))
    return Panel(len(nodes) * width + len(edges) * gap, 20 + BOX_HEIGHT, tuple(parts))


# A wiring diagram.


def _wiring(edges: Sequence[Edge], colour: dict[str, str]) -> Panel:
    nodes = _in_order(edges)
    headings = {node.partition(": ")[0] for node in nodes}
    heading = headings.pop() if len(headings) == 1 and all(": " in node for node in nodes) else ""
    short = {node: node.removeprefix(f"{heading}: ") if heading else node for node in nodes}
    entering = {node: [edge for edge in edges if edge.target == node] for node in nodes}
    top: dict[str, int] = {}
    leaving: dict[str, list[tuple[int, Edge]]] = {}
    y = 26 if heading else 0
    for node in nodes:
        top[node] = y
        for number, edge in enumerate(entering[node]):
            leaving.setdefault(edge.source, []).append((y + HEADER + LINE * number + 8, edge))
        y += HEADER + LINE * len(entering[node]) + BETWEEN
    lane = _lanes({n: (top[n] + HEADER // 2, leaving[n][-1][0]) for n in nodes if n in leaving})
    left = LANE * (max(lane.values()) + 1) + 18
    labels = max(_wide(_spaced(edge.label)) for edge in edges)
    sources = max(_wide(f"from {short[edge.source]}") for edge in edges)
    width = max(labels + sources + 28, *(_wide(name) + 24 for name in short.values()))
    parts = [_text(left, 14, heading, "#222", weight=600)] if heading else []
    for source, number in lane.items():
        x, begin, rows = LANE // 2 + LANE * number, top[source] + HEADER // 2, leaving[source]
        parts.append(_line(left, begin, x, begin, "#999"))
        parts.append(_line(x, begin, x, rows[-1][0], "#999"))
        for row, edge in rows:
            parts.append(_line(x, row, left, row, colour[edge.label], tip=True))
            parts.append(f'<circle cx="{x}" cy="{row}" r="3.5" fill="{colour[edge.label]}"/>')
    for node in nodes:
        parts.append(_box(left, top[node], width, HEADER + LINE * len(entering[node])))
        parts.append(_text(left + 12, top[node] + 20, short[node], "#222", weight=600))
        for number, edge in enumerate(entering[node]):
            row = top[node] + HEADER + LINE * number + 13
            parts.append(_text(left + 12, row, _spaced(edge.label), colour[edge.label]))
            parts.append(_text(left + width - 10, row, f"from {short[edge.source]}", "#777", "end"))
    return Panel(left + width, y - BETWEEN, tuple(parts))


def _lanes(extents: Mapping[str, tuple[int, int]]) -> dict[str, int]:
    """A lane for each node, given where its line begins and ends; a line may follow another that has ended."""
    ends: list[int] = []
    lanes: dict[str, int] = {}
    for node, (begin, end) in extents.items():
        number = next((i for i, last in enumerate(ends) if last < begin - HEADER), len(ends))
        ends[number:] = [end, *ends[number + 1 :]]
        lanes[node] = number
    return lanes


def _in_order(edges: Sequence[Edge]) -> list[str]:
    """What reads nothing, by name; then each node behind all that it reads, in the order in which they are named."""
    waiting = list(dict.fromkeys(node for edge in edges for node in edge[:2]))
    reads = {node: {edge.source for edge in edges if edge.target == node} for node in waiting}
    ordered = sorted(node for node in waiting if not reads[node])
    waiting = [node for node in waiting if reads[node]]
    while waiting:
        following = next((node for node in waiting if reads[node] <= set(ordered)), waiting[0])
        ordered.append(following)
        waiting.remove(following)
    return ordered


# Ink.


def _wide(text: str) -> int:
    return int(LETTER * len(text))


def _spaced(label: str) -> str:
    return label.replace("_", " ")


def _line(x1: int, y1: int, x2: int, y2: int, ink: str, tip: bool = False) -> str:
    head = f'<path d="M{x2 - 9} {y2 - 4.5} L{x2 - 1} {y2} L{x2 - 9} {y2 + 4.5} z" fill="{ink}"/>' if tip else ""
    end = x2 - 6 if tip else x2
    return f'<path d="M{x1} {y1} L{end} {y2}" fill="none" stroke="{ink}" stroke-width="2"/>{head}'


def _box(x: int, y: int, width: int, height: int) -> str:
    return f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="8" fill="#f6f6f6" stroke="#444"/>'


def _text(x: int, y: int, words: str, ink: str, anchor: str = "start", weight: int = 400) -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" fill="{ink}" font-weight="{weight}">{escape(words)}</text>'
