"""How an ablation's report looks: numbers as text, the marks of verdicts, and the frame that all its figures share.

Colours are Okabe and Ito's, which the colour-blind can tell apart; a verdict is never said by colour alone. Backgrounds
are transparent and greys are of middle lightness, so that one figure serves a light page and a dark one.
"""

import html
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go

GREY = "#8a8a8a"
BLUE = "#2f86c1"
VERMILLION = "#d55e00"
PALETTE = (BLUE, "#e69f00", "#009e73", "#cc79a7", VERMILLION, "#56b4e9", GREY, "#a58b00", "#7a5fb5", "#b2182b")
DASHES = ("solid", "dash", "dot")
ROW = 46  # pixels a row: room for a label of two lines, and for a number above the interval


class Mark(NamedTuple):
    """How a verdict looks: the sign in text, the same sign as a plotly symbol, the colour."""

    sign: str
    symbol: str
    colour: str


VERDICTS: Mapping[str, Mark] = {
    "helps": Mark("▲", "triangle-up", BLUE),
    "hurts": Mark("▼", "triangle-down", VERMILLION),
    "no evidence": Mark("●", "circle", GREY),
    "too few seeds": Mark("○", "circle-open", GREY),
}


def mark(verdict: str) -> Mark:
    """The look of `verdict`; a word not known here looks like "too few seeds" and is still printed."""
    return VERDICTS.get(verdict, VERDICTS["too few seeds"])


def number(value: Any, signed: bool = False, digits: int = 3) -> str:
    """`value` to `digits` decimals, one more where these show nothing, three digits from 10 on; a dash for none."""
    if value is None or pd.isna(value):
        return "–"
    value = float(value)
    size = abs(value)
    digits = digits if size < 10 else 2 if size < 100 else 1 if size < 1000 else 0
    if round(value, digits) == 0:
        digits += 1
    if round(value, digits) == 0:
        return f"{0:.3f}"  # a sign would claim a direction that the digits do not show
    return f"{value:{'+' if signed else ''},.{digits}f}".replace("-", "−")


def ratio(value: Any) -> str:
    """A cost as "× 1.90"; a dash where there is none."""
    return "–" if value is None or pd.isna(value) else f"× {float(value):.2f}"


def p_value(value: Any) -> str:
    """A p value to three decimals, never as zero."""
    return "–" if value is None or pd.isna(value) else "< 0.001" if float(value) < 0.001 else f"{float(value):.3f}"


def unit(metric: str) -> str:
    """The unit of a metric or of a logged curve, for an axis title; empty where the name does not tell."""
    name = metric.lower()
    for part, words in {
        "tau": "Kendall τ, −1 to 1",
        "acc": "fraction of images",
        "best": "accuracy or objective, 0 to 1",
        "reward": "accuracy or objective, 0 to 1",
        "entropy": "nats a token",
        "repeats": "share of the draws",
        "p_at": "fraction",
        "loss": "as logged",
        "rank": "1 is best",
        "learning_rate": "a step",
    }.items():
        if part in name:
            return f" ({words})"
    return ""


def better(direction: str) -> str:
    """Where better lies on a horizontal axis."""
    return "← lower is better" if direction == "min" else "higher is better →"


def escaped(text: object) -> str:
    """`text` for a plotly label: plotly reads a little HTML there, but a name is text, whatever it holds."""
    return html.escape(str(text), quote=False)


def two_lines(arm: str) -> str:
    """`arm` broken at its plus: this halves the width that names take from the plot on a phone."""
    return escaped(arm).replace("+", "<br>+ ").replace(" x ", "<br>× ")


def translucent(colour: str, opacity: float) -> str:
    """A colour ``#rrggbb`` that lets through what lies below; `opacity` in [0, 1]."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"


def figure(traces: Sequence[Any], height: int, **layout: Any) -> go.Figure:
    """A figure of `height` pixels, as wide as the page lets it be; `layout` wins over the common one."""
    base: dict[str, Any] = {
        "template": "none",
        "height": height,
        "margin": {"l": 8, "r": 12, "t": 12, "b": 48},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "hovermode": "closest",
        "showlegend": False,
    }
    return go.Figure(data=list(traces), layout={**base, **layout})


def rows_axis(names: Sequence[str]) -> dict[str, Any]:
    """A vertical axis with one name a row, the first on top."""
    return {
        "tickvals": list(range(len(names))),
        "ticktext": [two_lines(name) for name in names],
        "range": [len(names) - 0.45, -0.7],
        "automargin": True,
        "ticks": "",
        "zeroline": False,
        "showgrid": True,
    }


def x_axis(title: str, **more: Any) -> dict[str, Any]:
    """A horizontal axis with its title close by."""
    return {
        "title": {"text": title, "standoff": 8, "font": {"size": 13}},
        "automargin": True,
        "zeroline": False,
        **more,
    }


def seeds_needed(value: Any) -> str:
    """The number of seeds for 80 % power; a dash where no number would do (no difference was seen)."""
    return "–" if value is None or not np.isfinite(float(value)) else f"{float(value):,.0f}"
