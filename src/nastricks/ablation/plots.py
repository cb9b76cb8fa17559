"""The figures of a report that have one row an arm: effects, trials, cost. Tables in, plotly figures out."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from nastricks.ablation.plot_style import (
    BLUE,
    GREY,
    PALETTE,
    ROW,
    better,
    escaped,
    figure,
    mark,
    number,
    p_value,
    ratio,
    rows_axis,
    seeds_needed,
    unit,
    x_axis,
)


def forest(rows: pd.DataFrame, metric: str, direction: str, against: str = "base") -> go.Figure:
    """One row an arm: the mean paired difference with its interval, best on top, the zero line between good and bad.

    `rows` are those of one metric with the columns of effects.csv.
    """
    rows = rows.sort_values("difference", ascending=direction == "min", na_position="last").reset_index(drop=True)
    traces, notes = [], []
    for i, (_, row) in enumerate(rows.iterrows()):
        look = mark(row["verdict"])
        known = pd.notna(row["ci_low"]) and pd.notna(row["ci_high"])
        hover = "<br>".join(
            [
                f"<b>{escaped(row['arm'])}</b> {look.sign} {escaped(row['verdict'])}",
                f"{escaped(metric)} {number(row['mean'])}, difference {number(row['difference'], signed=True)}",
                f"interval {number(row['ci_low'], signed=True)} to {number(row['ci_high'], signed=True)}",
                f"n {row['n']:.0f}, p {p_value(row['p'])}",
                f"p (Holm) {p_value(row['p_holm'])}, p (sign flips) {p_value(row['p_exact'])}",
                f"time {ratio(row['seconds_ratio'])}, seeds needed {seeds_needed(row['seeds_needed'])}",
            ]
        )
        bars = (row["ci_high"] - row["difference"], row["difference"] - row["ci_low"]) if known else (0.0, 0.0)
        traces.append(
            go.Scatter(
                x=[row["difference"]],
                y=[i],
                mode="markers",
                marker={
                    "symbol": look.symbol,
                    "size": 13,
                    "color": look.colour,
                    "line": {"width": 2, "color": look.colour},
                },
                error_x={"array": [bars[0]], "arrayminus": [bars[1]], "thickness": 3, "width": 6, "color": look.colour},
                hovertext=[hover],
                hoverinfo="text",
                name=escaped(row["arm"]),
            )
        )
        notes.append(
            {
                "text": f"<b>{number(row['difference'], signed=True)}</b> {look.sign} {escaped(row['verdict'])}",
                "x": 1,
                "xref": "x domain",
                "name": "value",
                "xanchor": "right",
                "y": i - 0.34,
                "yref": "y",
                "showarrow": False,
                "font": {"size": 12},
            }
        )
    zero = {"type": "line", "x0": 0, "x1": 0, "y0": 0, "y1": 1, "yref": "paper", "line": {"color": GREY, "width": 2}}
    title = f"difference of {escaped(metric)} from {against}<br>{unit(metric).strip()} {better(direction)}"
    # Invisible points keep zero and a margin around the intervals in view.
    seen = rows[["ci_low", "ci_high", "difference"]].to_numpy(dtype=float).ravel()
    ends = np.append(seen[np.isfinite(seen)], 0.0)
    pad = 0.06 * float(np.ptp(ends)) or 0.01
    span = [float(ends.min()) - pad, float(ends.max()) + pad]
    return figure(
        traces,
        90 + ROW * len(rows),
        xaxis=x_axis(title, range=span),
        yaxis=rows_axis(rows["arm"].tolist()),
        shapes=[zero],
        annotations=notes,
    )


def each_seed(
    done: pd.DataFrame, arms: Sequence[str], metric: str, direction: str, marks: Mapping[str, float]
) -> go.Figure:
    """`metric` of every trial, a row an arm: a point a seed, a line through each seed's points, a bar at the mean.

    `marks` are labelled lines (baselines, the noise ceiling).
    """
    row_of = {arm: i for i, arm in enumerate(arms)}
    known = done[done["arm"].isin(row_of) & done[metric].notna()]
    traces = []
    for k, (seed, points) in enumerate(known.groupby("seed", sort=True)):
        points = points.assign(row=points["arm"].map(row_of)).sort_values("row")
        traces.append(
            go.Scatter(
                x=points[metric].tolist(),
                y=points["row"].tolist(),
                mode="lines+markers",
                line={"width": 1, "color": "rgba(138,138,138,0.4)"},
                marker={"size": 8, "opacity": 0.85, "color": PALETTE[k % len(PALETTE)]},
                hovertext=[
                    f"{escaped(a)}<br>seed {seed}: {number(v)}"
                    for a, v in zip(points["arm"], points[metric], strict=True)
                ],
                hoverinfo="text",
                name=f"seed {seed}",
            )
        )
    means = known.groupby("arm")[metric].agg(["mean", "std", "count"])
    traces.append(
        go.Scatter(
            x=means["mean"].tolist(),
            y=[row_of[str(arm)] for arm in means.index],
            mode="markers",
            marker={"symbol": "line-ns-open", "size": 18, "line": {"width": 4, "color": GREY}, "color": GREY},
            hovertext=[
                f"{escaped(arm)}<br>mean {number(r['mean'])}, spread {number(r['std'])} (n {r['count']:.0f})"
                for arm, r in means.iterrows()
            ],
            hoverinfo="text",
            name="mean",
        )
    )
    shapes, notes = [], []
    values = [*known[metric].tolist(), *marks.values()]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    for level, (name, value) in enumerate(sorted(marks.items(), key=lambda item: item[1])):
        line = {"color": GREY, "width": 2, "dash": "dash" if name == "noise ceiling" else "dot"}
        shapes.append(
            {
                "type": "line",
                "x0": value,
                "x1": value,
                "y0": 0,
                "y1": 1,
                "yref": "paper",
                "line": line,
                "layer": "below",
            }
        )
        # Each label has a level of its own: parameters and FLOPs are often a hair apart.
        place = "left" if value < (low + high) / 2 else "right"
        text = f"{escaped(name)} {number(value)}"
        notes.append(
            {
                "text": text,
                "x": value,
                "xanchor": place,
                "y": 1,
                "yref": "paper",
                "yanchor": "bottom",
                "yshift": 15 * level,
                "showarrow": False,
                "font": {"size": 12},
            }
        )
    pad = 0.05 * (high - low) or 0.05
    return figure(
        traces,
        90 + ROW * len(arms) + 15 * len(marks),
        margin={"l": 8, "r": 12, "t": 12 + 15 * len(marks), "b": 48},
        xaxis=x_axis(f"{escaped(metric)}{unit(metric)}<br>{better(direction)}", range=[low - pad, high + pad]),
        yaxis=rows_axis(arms),
        shapes=shapes,
        annotations=notes,
    )


def cost_bars(cost: pd.DataFrame, column: str, title: str) -> go.Figure:
    """One bar an arm with its ratio to base; `cost` has `column` and `column` + "_ratio", its index the arms."""
    text = [f"{number(v)} ({ratio(r)})" for v, r in zip(cost[column], cost[f"{column}_ratio"], strict=True)]
    bars = go.Bar(
        x=cost[column].tolist(),
        y=list(range(len(cost))),
        orientation="h",
        width=0.26,
        marker={"color": [GREY if arm == "base" else BLUE for arm in cost.index]},
        hovertext=[f"{escaped(arm)}<br>{t}" for arm, t in zip(cost.index, text, strict=True)],
        hoverinfo="text",
    )
    notes = [
        {
            "text": t,
            "x": 1,
            "xref": "x domain",
            "name": "value",
            "xanchor": "right",
            "y": i - 0.36,
            "showarrow": False,
            "font": {"size": 12},
        }
        for i, t in enumerate(text)
    ]
    arms = [str(arm) for arm in cost.index]
    return figure(
        [bars], 80 + ROW * len(cost), xaxis=x_axis(title, rangemode="tozero"), yaxis=rows_axis(arms), annotations=notes
    )
