"""Small charts as SVG, drawn by hand: two axes with round ticks, and lines and dots in the data's own numbers.

A few kilobytes a picture, no script, and no library to import. Colours are Okabe and Ito's, which the colour-blind can
tell apart.
"""

import math
from collections.abc import Sequence
from html import escape
from itertools import pairwise

BLUE, ORANGE, GREEN, PINK, GREY = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8a8a8a"
PALETTE = (BLUE, ORANGE, GREEN, PINK, "#b07800", "#7a5195")
INK, PALE = "#222", "#ddd"
LEFT, RIGHT, TOP, BOTTOM = 78, 24, 64, 56
TICKS = 5  # about so many an axis

Point = tuple[float, float]


def ticks(low: float, high: float, count: int = TICKS) -> list[float]:
    """Round numbers, about `count` of them, from `low` to `high`; one where both are equal."""
    if not high > low:
        return [low]
    raw = (high - low) / count
    power = 10 ** math.floor(math.log10(raw))
    step = next(power * part for part in (1, 2, 2.5, 5, 10) if power * part >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]


def short(value: float) -> str:
    """A number with its thousands as k, M, G or T: 1.25M."""
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


class Chart:
    """A chart of given ranges; what is drawn first lies below.

    Args:
        title: Above it.
        labels: What the axes show, with units: (x, y).
        xs: All numbers that the horizontal axis has to hold.
        ys: All that the vertical one has to hold.
        width: In pixels.
        height: In pixels.
    """

    def __init__(
        self,
        title: str,
        labels: tuple[str, str],
        xs: Sequence[float],
        ys: Sequence[float],
        width: int = 760,
        height: int = 480,
    ) -> None:
        self.title, self.labels, self.width, self.height = title, labels, width, height
        self._x, self._y = _padded(xs), _padded(ys)
        self._parts: list[str] = []
        self._legend: list[tuple[str, str, str]] = []

    def x(self, value: float) -> float:
        """The pixel of a number on the horizontal axis."""
        low, high = self._x
        return LEFT + (value - low) / (high - low) * (self.width - LEFT - RIGHT)

    def y(self, value: float) -> float:
        """The pixel of a number on the vertical axis."""
        low, high = self._y
        return self.height - BOTTOM - (value - low) / (high - low) * (self.height - TOP - BOTTOM)

    def line(
        self, points: Sequence[Point], colour: str, *, dashed: bool = False, steps: bool = False, width: float = 2
    ) -> None:
        """A line through points; `steps` goes right before it goes up or down."""
        drawn = [self._at(points[0])] if points else []
        for before, point in pairwise(points):
            drawn += [self._at((point[0], before[1]))] if steps else []
            drawn.append(self._at(point))
        dash = ' stroke-dasharray="6 4"' if dashed else ""
        self._parts.append(
            f'<polyline fill="none" stroke="{colour}" stroke-width="{width:g}"{dash} points="{" ".join(drawn)}"/>'
        )

    def dot(
        self, point: Point, colour: str, *, radius: float = 4, hollow: bool = False, opacity: float = 1, told: str = ""
    ) -> None:
        """A dot; `told` shows where the mouse rests on it."""
        x, y = self._at(point).split(",")
        ink = f'fill="white" stroke="{colour}" stroke-width="1.5"' if hollow else f'fill="{colour}"'
        name = f"<title>{escape(told)}</title>" if told else ""
        self._parts.append(f'<circle cx="{x}" cy="{y}" r="{radius:g}" {ink} opacity="{opacity:g}">{name}</circle>')

    def text(self, point: Point, words: str, colour: str = INK, *, anchor: str = "start", dy: float = -8) -> None:
        """Words beside a point."""
        x, y = self._at(point).split(",")
        dx = {"start": 6, "middle": 0, "end": -6}[anchor]
        self._parts.append(
            f'<text x="{float(x) + dx:.1f}" y="{float(y) + dy:.1f}" fill="{colour}" text-anchor="{anchor}">'
            f"{escape(words)}</text>"
        )

    def vertical(self, value: float, words: str) -> None:
        """A dashed line from top to bottom, with words at its top."""
        x, low, high = self.x(value), self._y[0], self._y[1]
        self.line([(value, low), (value, high)], GREY, dashed=True, width=1.5)
        inside = x < self.width * 0.7
        anchor, dx = ("start", 6) if inside else ("end", -6)
        self._parts.append(
            f'<text x="{x + dx:.1f}" y="{TOP + 14}" fill="#555" text-anchor="{anchor}">{escape(words)}</text>'
        )

    def legend(self, words: str, colour: str, kind: str = "dot") -> None:
        """An entry of the legend, a `dot`, a `ring` or a `line`."""
        self._legend.append((words, colour, kind))

    def svg(self) -> str:
        """The text of the file."""
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" width="{self.width}" '
            f'height="{self.height}" font-family="system-ui, sans-serif" font-size="12" fill="{INK}" role="img">'
        )
        title = f'<text x="{LEFT}" y="24" font-size="16" font-weight="600">{escape(self.title)}</text>'
        page = '<rect width="100%" height="100%" fill="white"/>'
        parts = [f"<title>{escape(self.title)}</title>", page, title, *self._axes(), *self._parts, *self._key()]
        return "\n".join([head, *parts, "</svg>\n"])

    def _axes(self) -> list[str]:
        left, right, top, bottom = LEFT, self.width - RIGHT, TOP, self.height - BOTTOM
        parts = []
        for value in ticks(*self._y):
            y = self.y(value)
            parts.append(f'<line x1="{left}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}" stroke="{PALE}"/>')
            parts.append(f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{short(value)}</text>')
        for value in ticks(*self._x):
            x = self.x(value)
            parts.append(f'<line x1="{x:.1f}" y1="{bottom}" x2="{x:.1f}" y2="{bottom + 5}" stroke="#777"/>')
            parts.append(f'<text x="{x:.1f}" y="{bottom + 19}" text-anchor="middle">{short(value)}</text>')
        parts.append(f'<line x1="{left}" y1="{bottom}" x2="{right}" y2="{bottom}" stroke="#777"/>')
        middle, centre = (left + right) / 2, (top + bottom) / 2
        parts.append(
            f'<text x="{middle:g}" y="{self.height - 14}" text-anchor="middle">{escape(self.labels[0])}</text>'
        )
        parts.append(
            f'<text x="20" y="{centre:g}" text-anchor="middle" transform="rotate(-90 20 {centre:g})">'
            f"{escape(self.labels[1])}</text>"
        )
        return parts

    def _key(self) -> list[str]:
        parts, x = [], float(LEFT)
        for words, colour, kind in self._legend:
            if kind == "line":
                parts.append(f'<line x1="{x:g}" y1="44" x2="{x + 16:g}" y2="44" stroke="{colour}" stroke-width="2"/>')
            else:
                ink = f'fill="white" stroke="{colour}" stroke-width="1.5"' if kind == "ring" else f'fill="{colour}"'
                parts.append(f'<circle cx="{x + 8:g}" cy="44" r="4" {ink}/>')
            parts.append(f'<text x="{x + 22:g}" y="48">{escape(words)}</text>')
            x += 34 + 6.6 * len(words)
        return parts

    def _at(self, point: Point) -> str:
        return f"{self.x(point[0]):.1f},{self.y(point[1]):.1f}"


def _padded(values: Sequence[float]) -> tuple[float, float]:
    """The range of the values with some room at both ends."""
    finite = [value for value in values if math.isfinite(value)] or [0.0]
    low, high = min(finite), max(finite)
    room = 0.05 * (high - low) or 0.05 * abs(high) or 0.5
    return low - room, high + room
