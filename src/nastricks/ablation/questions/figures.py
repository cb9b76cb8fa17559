"""The figures of an ablation's questions. Tables and intervals in, plotly figures out."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from nastricks.ablation.plot_style import (
    BLUE,
    DASHES,
    GREY,
    PALETTE,
    ROW,
    escaped,
    figure,
    number,
    rows_axis,
    translucent,
    unit,
    x_axis,
)

if TYPE_CHECKING:
    from nastricks.ablation.questions.base import Interval

DIVERGING = [[0.0, "#b2182b"], [0.25, "#ef8a62"], [0.5, "#f2f2f2"], [0.75, "#67a9cf"], [1.0, "#2166ac"]]
DASHED = "noise ceiling"


def dots(table: pd.DataFrame, metric: str, scale: Mapping[str, float]) -> go.Figure:
    """A row a name (the first column): the mean with its interval; `scale` are labelled upright lines."""
    names = [str(name) for name in table.iloc[:, 0]]
    mean, low, high = (table[column].to_numpy(dtype=float) for column in ("mean", "low", "high"))
    points = go.Scatter(
        x=_listed(mean),
        y=list(range(len(names))),
        mode="markers",
        marker={"size": 10, "color": BLUE},
        error_x={"array": _listed(high - mean), "arrayminus": _listed(mean - low), "color": BLUE},
        hovertext=[
            f"<b>{escaped(name)}</b><br>{number(m)} ({number(a)} to {number(b)})"
            for name, m, a, b in zip(names, mean, low, high, strict=True)
        ],
        hoverinfo="text",
    )
    shapes, notes = _upright(scale)
    seen = np.concatenate([mean, low, high, list(scale.values()), [] if scale else [0.0]])
    seen = seen[np.isfinite(seen)]
    pad = 0.06 * float(np.ptp(seen)) or 0.02
    if not scale:
        shapes.append(_line(x=0.0, dash="solid"))
    return figure(
        [points],
        90 + ROW * len(names) * 2 // 3 + 15 * len(scale),
        margin={"l": 8, "r": 12, "t": 12 + 15 * len(scale), "b": 48},
        xaxis=x_axis(f"{escaped(metric)}{unit(metric)}", range=[float(seen.min()) - pad, float(seen.max()) + pad]),
        yaxis=rows_axis(names),
        shapes=shapes,
        annotations=notes,
    )


def lines(
    drawn: Mapping[str, Mapping[str, "Interval"]],
    metric: str,
    x: str,
    scale: Mapping[str, float],
    published: Mapping[str, Mapping[str, float]],
) -> go.Figure:
    """A line a name over values in their order, with intervals; `published` points stand beside, without intervals."""
    traces: list[Any] = []
    order = list(dict.fromkeys(value for line in drawn.values() for value in line))
    for k, (name, line) in enumerate(drawn.items()):
        colour = PALETTE[k % len(PALETTE)]
        mean = np.array([i.mean for i in line.values()])
        high = np.array([i.high for i in line.values()])
        traces.append(
            go.Scatter(
                x=list(line),
                y=_listed(mean),
                error_y={"array": _listed(high - mean), "color": colour, "width": 5},
                mode="lines+markers",
                line={"color": colour, "width": 2},
                marker={"size": 9, "color": colour},
                hovertext=[f"{escaped(name)}, {escaped(v)}<br>{i}" for v, i in line.items()],
                hoverinfo="text",
                name=escaped(name),
            )
        )
    for k, (name, points) in enumerate(published.items()):
        colour = PALETTE[k % len(PALETTE)]
        traces.append(
            go.Scatter(
                x=list(points),
                y=list(points.values()),
                mode="lines+markers",
                line={"color": colour, "width": 1, "dash": "dot"},
                marker={"symbol": "x", "size": 9, "color": colour},
                name=escaped(name),
            )
        )
    axis = x_axis(escaped(x), type="category", categoryorder="array", categoryarray=order)
    return _over(traces, axis, metric, scale)


def over_steps(found: Mapping[str, Any], scale: Mapping[str, float]) -> go.Figure:
    """Lines over the batches of a training: the mean over trainings in its spread, each training as a thin line."""
    traces: list[Any] = []
    steps, epochs = found["step"], found["epoch"]
    text = [f"batch {step}, epoch {epoch:.1f}" for step, epoch in zip(steps, epochs, strict=True)]
    several = [(name, values) for name, values in found.items() if name not in ("step", "epoch") and values is not None]
    for k, (name, values) in enumerate(several):
        colour = PALETTE[k % len(PALETTE)]
        grid = np.atleast_2d(np.asarray(values, dtype=float))
        mean = grid.mean(axis=0)
        common: dict[str, Any] = {"legendgroup": name, "name": escaped(name)}
        if len(grid) > 1 and name == "GT-Tau":
            traces += [
                go.Scatter(
                    x=steps,
                    y=_listed(row),
                    mode="lines",
                    line={"color": translucent(colour, 0.35), "width": 1},
                    hoverinfo="skip",
                    showlegend=False,
                    **common,
                )
                for row in grid
            ]
        traces.append(
            go.Scatter(
                x=steps,
                y=_listed(mean),
                mode="lines",
                line={"color": colour, "width": 3, "dash": DASHES[k % len(DASHES)]},
                hovertext=[f"{escaped(name)}: {number(m)}<br>{t}" for m, t in zip(mean, text, strict=True)],
                hoverinfo="text",
                **common,
            )
        )
    return _over(traces, x_axis("batches since the start (count)"), "tau", scale)


def profile(ages: Mapping[int, "Interval"], x: str, metric: str) -> go.Figure:
    """A line over a count, the mean in its interval."""
    mean, low, high = (np.array([getattr(i, end) for i in ages.values()]) for end in ("mean", "low", "high"))
    low, high = np.where(np.isfinite(low), low, mean), np.where(np.isfinite(high), high, mean)
    time = list(ages)
    band = go.Scatter(
        x=[*time, *time[::-1]],
        y=_listed(np.concatenate([high, low[::-1]])),
        fill="toself",
        fillcolor=translucent(BLUE, 0.15),
        line={"width": 0},
        mode="lines",
        hoverinfo="skip",
        showlegend=False,
    )
    line = go.Scatter(x=time, y=_listed(mean), mode="lines+markers", line={"color": BLUE, "width": 2}, showlegend=False)
    return _over([band, line], x_axis(x), metric, {})


def matrix(
    grid: pd.DataFrame,
    what: str,
    across: str,
    down: str,
    most: float | None = None,
    text: bool = False,
    reverse: bool = False,
) -> go.Figure:
    """A table as a picture: blue is up, red is down, the middle is zero; `reverse` where lower is better.

    The colours reach to `most`, or to the 99th percentile of what is seen, so that a few cells do not bleach the rest.
    """
    values = grid.to_numpy(dtype=float)
    most = most or float(np.nanquantile(np.abs(values), 0.99)) or 1.0
    cell = f"{escaped(down)} %{{y}}<br>{escaped(across)} %{{x}}<br>{escaped(what)} %{{z:.4f}}"
    picture = go.Heatmap(
        z=_listed(np.round(values, 5)),
        x=[str(name) for name in grid.columns],
        y=[str(name) for name in grid.index],
        zmin=-most,
        zmax=most,
        colorscale=DIVERGING,
        reversescale=reverse,
        hovertemplate=f"{cell}<extra></extra>",
        texttemplate="%{z:.2f}" if text else None,
        colorbar={"title": {"text": escaped(what), "side": "right"}, "thickness": 14, "outlinewidth": 0},
        xgap=0 if len(grid) > 20 else 2,
        ygap=0 if len(grid) > 20 else 2,
    )
    axis = {"type": "category", "automargin": True, "showgrid": False, "ticks": ""}
    return figure(
        [picture],
        640 if len(grid) > 20 else 120 + 44 * len(grid),
        xaxis={**axis, "title": {"text": escaped(across), "standoff": 8}},
        yaxis={**axis, "title": {"text": escaped(down), "standoff": 6}, "autorange": "reversed"},
    )


def _over(traces: Sequence[Any], axis: dict[str, Any], metric: str, scale: Mapping[str, float]) -> go.Figure:
    scale = {name: value for name, value in scale.items() if name != "FLOPs"}  # a hair beside the parameters
    shapes = [_line(y=value, dash="dash" if name == DASHED else "dot") for name, value in scale.items()]
    notes = [  # beside the plot, where they hide no point
        {
            "name": "beside",
            "text": f"{escaped(name).replace(' ', '<br>')} {number(value)}",
            "x": 1,
            "xref": "paper",
            "xanchor": "left",
            "xshift": 4,
            "y": value,
            "yanchor": "middle",
            "align": "left",
            "showarrow": False,
            "font": {"size": 11},
        }
        for name, value in scale.items()
    ]
    return figure(
        traces,
        430,
        margin={"l": 8, "r": 12 if not scale else 104, "t": 12, "b": 48},
        xaxis=axis,
        yaxis={
            "title": {"text": f"{escaped(metric)}{unit(metric)}", "standoff": 6, "font": {"size": 13}},
            "automargin": True,
            "zeroline": False,
        },
        shapes=shapes,
        annotations=notes,
        showlegend=True,
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "xanchor": "left"},
    )


def _listed(values: Any) -> list[Any]:
    """Numbers as plain lists; what is unknown is None, which plotly leaves out."""
    array = np.asarray(values, dtype=float)
    return np.where(np.isfinite(array), array, None).tolist()  # type: ignore[call-overload]


def _upright(scale: Mapping[str, float]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Labelled upright lines; each label has a level of its own."""
    shapes = [_line(x=value, dash="dash" if name == DASHED else "dot") for name, value in scale.items()]
    middle = (min(scale.values()) + max(scale.values())) / 2 if scale else 0.0
    notes = [
        {
            "text": f"{escaped(name)} {number(value)}",
            "x": value,
            "xanchor": "left" if value < middle else "right",
            "y": 1,
            "yref": "paper",
            "yanchor": "bottom",
            "yshift": 15 * level,
            "showarrow": False,
            "font": {"size": 12},
        }
        for level, (name, value) in enumerate(sorted(scale.items(), key=lambda item: item[1]))
    ]
    return shapes, notes


def _line(*, dash: str, x: float | None = None, y: float | None = None) -> dict[str, Any]:
    """A grey line across the whole plot, upright at x or level at y."""
    across = {"x0": 0, "x1": 1, "xref": "paper", "y0": y, "y1": y}
    upright = {"x0": x, "x1": x, "y0": 0, "y1": 1, "yref": "paper"}
    look = {"color": GREY, "width": 2, "dash": dash}
    return {"type": "line", **(across if x is None else upright), "line": look, "layer": "below"}
