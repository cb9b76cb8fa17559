"""The figures of what training gave: the ranking against the truth, and the learning curves."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from scipy import stats

from nastricks.ablation.plot_style import (
    BLUE,
    DASHES,
    PALETTE,
    VERMILLION,
    escaped,
    figure,
    number,
    translucent,
    unit,
    x_axis,
)


def rank_scatter(ranking: pd.DataFrame, score: str, title: str, what: str) -> go.Figure:
    """One point a child: `score` (column "accuracy" or "params" of `ranking`), labelled `what`, against the truth.

    The child that `score` puts first and the truly best child are marked.
    """
    ranking = ranking.dropna(subset=[score])
    text = [
        f"<b>{escaped(child)}</b><br>true accuracy {number(r['truth'])} (rank {r['true_rank']:.0f} of {len(ranking)})"
        f"<br>{score} {number(r[score])} (rank {r['score_rank']:.1f})"
        for child, r in ranking.assign(
            true_rank=ranking["truth"].rank(ascending=False), score_rank=ranking[score].rank(ascending=False)
        ).iterrows()
    ]
    traces = [_points(ranking, score, text, "children", {"size": 8, "color": BLUE, "opacity": 0.75})]
    traces[0].showlegend = False
    for name, at, look in (
        ("truly best", int(ranking["truth"].to_numpy().argmax()), {"symbol": "star-open", "color": "#009e73"}),
        ("ranked first", int(ranking[score].to_numpy().argmax()), {"symbol": "square-open", "color": VERMILLION}),
    ):
        pick = ranking.iloc[[at]]
        traces.append(_points(pick, score, [text[at]], name, {"size": 17, "line": {"width": 3}, **look}))
    low, high = float(ranking["truth"].min()), float(ranking["truth"].max())
    pad = 0.06 * (high - low) or 0.01
    return figure(
        traces,
        400,
        title={"text": escaped(title), "font": {"size": 14}, "x": 0.5, "y": 0.985, "yanchor": "top"},
        margin={"l": 8, "r": 12, "t": 56, "b": 48},
        xaxis=x_axis(what),
        yaxis={
            "title": {"text": "true accuracy (fraction)", "standoff": 6, "font": {"size": 13}},
            "range": [low - pad, high + pad],
            "automargin": True,
        },
        showlegend=True,
        legend={
            "orientation": "h",
            "y": 1.0,
            "yanchor": "bottom",
            "x": 0.5,
            "xanchor": "center",
            "itemsizing": "constant",
        },
    )


def _points(table: pd.DataFrame, score: str, text: list[str], name: str, marker: dict[str, Any]) -> Any:
    return go.Scatter(
        x=table[score].tolist(),
        y=table["truth"].tolist(),
        mode="markers",
        marker=marker,
        hovertext=text,
        hoverinfo="text",
        name=name,
    )


def learning_curves(curves: Mapping[str, Sequence[pd.DataFrame]], column: str) -> go.Figure:
    """`column` over the epochs: a line an arm, the mean over its seeds, in the 95 % t interval of that mean.

    `curves` maps an arm to the logs of its seeds; a log has "epoch", or "step" where epochs are not logged: then a step
    is an evaluation of a search.
    """
    traces = []
    clock = "epoch" if all("epoch" in log for logs in curves.values() for log in logs) else "step"
    for k, (arm, logs) in enumerate(curves.items()):
        seeds = [
            log.dropna(subset=[column]).groupby(clock)[column].mean() for log in logs if {clock, column} <= set(log)
        ]
        if not seeds:
            continue
        stacked = pd.concat(seeds, axis=1).sort_index()
        mean, count = stacked.mean(axis=1), stacked.count(axis=1)
        spread = (stacked.std(axis=1) / np.sqrt(count) * stats.t.ppf(0.975, np.maximum(count - 1, 1))).fillna(0.0)
        colour = PALETTE[k % len(PALETTE)]
        time = stacked.index.tolist()
        band = [*(mean + spread), *(mean - spread)[::-1]]
        # One legend entry switches line and band together.
        common: dict[str, Any] = {"legendgroup": arm, "name": escaped(arm)}
        traces.append(
            go.Scatter(
                x=[*time, *time[::-1]],
                y=band,
                fill="toself",
                fillcolor=translucent(colour, 0.15),
                line={"width": 0},
                mode="lines",
                hoverinfo="skip",
                showlegend=False,
                **common,
            )
        )
        text = [
            f"{escaped(arm)}<br>{clock} {t}: {number(m)} ± {number(s)}"
            for t, m, s in zip(time, mean, spread, strict=True)
        ]
        line = {"color": colour, "width": 2, "dash": DASHES[k // len(PALETTE) % len(DASHES)]}
        traces.append(
            go.Scatter(x=time, y=mean.tolist(), mode="lines", line=line, hovertext=text, hoverinfo="text", **common)
        )
    return figure(
        traces,
        400 + 14 * len(curves),
        xaxis=x_axis("epoch (count)" if clock == "epoch" else "evaluations (count)"),
        yaxis={
            "title": {"text": f"{escaped(column)}{unit(column)}", "standoff": 6, "font": {"size": 13}},
            "automargin": True,
            "zeroline": False,
        },
        showlegend=True,
        legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0, "xanchor": "left"},
    )
