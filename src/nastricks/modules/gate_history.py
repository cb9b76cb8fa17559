"""How strong each option was at the end of each epoch: `gates.csv`, and the same as heat maps in `gates.svg`."""

import csv
import io
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from nastricks.spaces import Choice, Space

Strengths = Mapping[str, Mapping[int, float]]
"""How strong each option that is still allowed is, for each choice."""


class GateHistory:
    """The strengths of a run, epoch by epoch.

    Args:
        space: The space whose choices are gated.
    """

    def __init__(self, space: Space) -> None:
        self.space = space
        self.epochs: list[int] = []
        self._rows: list[list[float | None]] = []  # one number an option of the space, None where it is not allowed

    def record(self, epoch: int, strengths: Strengths) -> None:
        """Note the strengths at the end of an epoch, counted from 0."""
        self.epochs.append(epoch)
        self._rows.append(
            [strengths[choice.name].get(i) for choice in self.space.choices for i in range(len(choice.options))]
        )

    def of(self, choice: Choice) -> list[list[float | None]]:
        """The strengths of a choice: a row an option, in it a number an epoch, None where it was not allowed."""
        start = 0
        for other in self.space.choices:
            if other.name == choice.name:
                break
            start += len(other.options)
        return [[row[start + index] for row in self._rows] for index in range(len(choice.options))]

    def highest(self) -> float:
        """The largest strength of all."""
        return max((value for row in self._rows for value in row if value is not None), default=0.0)

    def csv(self) -> str:
        """A line an epoch, choice and allowed option: ``epoch,choice,option,strength``."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["epoch", "choice", "option", "strength"])
        named = [(choice.name, option.name) for choice in self.space.choices for option in choice.options]
        for epoch, row in zip(self.epochs, self._rows, strict=True):
            for (choice, option), value in zip(named, row, strict=True):
                if value is not None:
                    writer.writerow([epoch, choice, option, f"{value:.6g}"])
        return text.getvalue()

    def state(self) -> dict[str, Any]:
        return {"epochs": list(self.epochs), "rows": [list(row) for row in self._rows]}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.epochs, self._rows = list(state["epochs"]), [list(row) for row in state["rows"]]


# The picture. A panel is a choice: a row an option, a column an epoch, the last strength in figures beside it.

NAME, MAP, FIGURE, ROW, HEAD, FOOT = 104, 150, 40, 15, 22, 22
PANEL, ABREAST, MARGIN, TITLE = NAME + MAP + FIGURE + 14, 5, 20, 66
SHADES = 24  # of which the first is white
INK, PALE, DARK = "#222", (255, 255, 255), (8, 48, 107)


def draw_gates(history: GateHistory, title: str) -> str:
    """The text of an SVG file: a panel a choice, those of one node in a row; the largest strength is the darkest."""
    rows = _rows_of_panels(history.space.choices)
    highest = history.highest() or 1.0
    width = 2 * MARGIN + PANEL * max(len(row) for _, row in rows)
    parts, y, last = [], TITLE, ""
    for heading, row in rows:
        if heading != last:
            parts.append(f'<text x="{MARGIN}" y="{y + 16}" font-size="15" font-weight="600">{escape(heading)}</text>')
            y, last = y + 26, heading
        for place, choice in enumerate(row):
            parts += _panel(history, choice, MARGIN + place * PANEL, y, highest)
        y += HEAD + FOOT + ROW * max(len(choice.options) for choice in row)
    width = max(width, 480)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {y + 10}" width="{width}" height="{y + 10}" '
            f'font-family="system-ui, sans-serif" font-size="11" fill="{INK}" role="img">',
            f"<title>{escape(title)}</title>",
            '<rect width="100%" height="100%" fill="white"/>',
            f'<text x="{MARGIN}" y="28" font-size="17" font-weight="600">{escape(title)}</text>',
            *_legend(highest),
            *parts,
            "</svg>\n",
        ]
    )


def _rows_of_panels(choices: Sequence[Choice]) -> list[tuple[str, list[Choice]]]:
    """Choices in the order of the space, a row a node; those without a node side by side, as many as fit."""
    rows: list[tuple[str, list[Choice]]] = []
    for choice in choices:
        heading = "" if choice.cell is None else f"{choice.cell} cell"
        fits = rows and rows[-1][0] == heading and rows[-1][1][0].node == choice.node and len(rows[-1][1]) < ABREAST
        if fits:
            rows[-1][1].append(choice)
        else:
            rows.append((heading, [choice]))
    return rows


def _legend(highest: float) -> list[str]:
    steps = [f'<rect x="{MARGIN + 4 * s}" y="40" width="4" height="12" fill="{_shade(s)}"/>' for s in range(SHADES)]
    end = MARGIN + 4 * SHADES
    return [
        *steps,
        f'<rect x="{MARGIN}" y="40" width="{4 * SHADES}" height="12" fill="none" stroke="#999"/>',
        f'<text x="{end + 8}" y="50">strength from 0 to {highest:.3g}, the largest; hatched: not allowed</text>',
        '<defs><pattern id="gone" width="4" height="4" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
        '<rect width="4" height="4" fill="#eee"/><rect width="1.3" height="4" fill="#aaa"/></pattern></defs>',
    ]


def _panel(history: GateHistory, choice: Choice, x: int, y: int, highest: float) -> list[str]:
    rows = history.of(choice)
    last = [row[-1] for row in rows]
    most = max((value for value in last if value is not None), default=None)
    left, top, height = x + NAME, y + HEAD, ROW * len(rows)
    parts = [f'<text x="{left}" y="{y + 15}" font-weight="600">{escape(choice.name)}</text>']
    for place, (option, value) in enumerate(zip(choice.options, last, strict=True)):
        bold = ' font-weight="700"' if value is not None and value == most else ""
        base = top + ROW * place + 11
        parts.append(f'<text x="{left - 6}" y="{base}" text-anchor="end"{bold}>{escape(option.name)}</text>')
        told = "–" if value is None else f"{value:.2f}"
        parts.append(f'<text x="{left + MAP + 6}" y="{base}"{bold}>{told}</text>')
    parts += _cells(rows, left, top, highest)
    parts.append(f'<rect x="{left}" y="{top}" width="{MAP}" height="{height}" fill="none" stroke="#999"/>')
    foot = top + height + 12
    parts.append(f'<text x="{left}" y="{foot}" fill="#666">epoch {history.epochs[0]}</text>')
    if len(history.epochs) > 1:
        parts.append(f'<text x="{left + MAP}" y="{foot}" text-anchor="end" fill="#666">{history.epochs[-1]}</text>')
    return parts


def _cells(rows: Sequence[Sequence[float | None]], left: int, top: int, highest: float) -> list[str]:
    """A path a shade, through runs of epochs with the same one: a tenth of the size of a rectangle a cell."""
    width = MAP / len(rows[0])
    paths: dict[int | None, list[str]] = {}
    for number, row in enumerate(rows):
        shades = [None if value is None else round(value / highest * (SHADES - 1)) for value in row]
        start = 0
        for end in range(1, len(shades) + 1):
            if end == len(shades) or shades[end] != shades[start]:
                if shades[start] != 0:
                    box = f"M{left + start * width:.5g} {top + ROW * number}h{(end - start) * width:.4g}v{ROW}H"
                    paths.setdefault(shades[start], []).append(f"{box}{left + start * width:.5g}z")
                start = end
    return [
        f'<path shape-rendering="crispEdges" fill="{_fill(shade)}" d="{"".join(path)}"/>'
        for shade, path in paths.items()
    ]


def _fill(shade: int | None) -> str:
    return "url(#gone)" if shade is None else _shade(shade)


def _shade(step: int) -> str:
    """White to dark blue."""
    part = step / (SHADES - 1)
    return "#" + "".join(f"{round(a + (b - a) * part):02x}" for a, b in zip(PALE, DARK, strict=True))
