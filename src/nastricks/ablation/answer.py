"""What an ablation says in words: plain sentences from the tables of `nastricks.ablation.statistics`."""

import re
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from nastricks.ablation.statistics import BASE, CLAIMS, FEWEST_SEEDS, Metrics, Row
from nastricks.errors import InputError


def _numbers(row: Row) -> str:
    """A row's difference, half-width, corrected p and cost, as far as it has them."""
    half, p, ratio = (row["ci_high"] - row["ci_low"]) / 2, row["p_holm"], row["seconds_ratio"]
    words = f"{row['difference']:+.3g}" if row["n"] else "no pair"
    words += f" ± {half:.2g}" if np.isfinite(half) else ""
    words += f", p_holm {f'{p:.3g}' if p >= 0.001 else '< 0.001'}" if np.isfinite(p) else ""
    return words + (f", {ratio:.2f} x the time" if np.isfinite(ratio) else "")


def _verdicts(rows: Sequence[Row]) -> str:
    """Which arms help and hurt, with their numbers, then the names of the others."""
    parts = [f"{row['arm']} {claim} ({_numbers(row)})" for claim in CLAIMS for row in rows if row["verdict"] == claim]
    for verdict in ("no evidence", "too few seeds"):
        names = [row["arm"] for row in rows if row["verdict"] == verdict]
        parts += [f"{verdict} for {', '.join(names)}"] if names else []
    return "; ".join(parts) or "no arm beside base"


def _dependence(row: Row, single: Sequence[Row], metric: str) -> str:
    """A claimed interaction as a sentence, with both simple effects where the tables hold them."""
    first, _, second = row["arm"].partition(" x ")
    sign = "more" if row["verdict"] == "helps" else "less"
    numbers = f"interaction {_numbers(row)}: together they do {sign} good than the sum of their effects"
    alone = next((other for other in single if other["arm"] == first), None)
    # An interaction's pairs are a subset of its first arm's: an equal n means the same seeds, so the two add up.
    if not second or alone is None or alone["n"] != row["n"]:
        return f"It depends: {row['arm']} ({numbers})."
    both = f"{alone['difference']:+.3g} without {second} but by {alone['difference'] + row['difference']:+.3g} with it"
    return f"It depends: {first} changes {metric} by {both} ({numbers})."


def _from_when(effects: pd.DataFrame, metrics: Metrics, judged_against_base: Sequence[str]) -> list[str]:
    """For the best of a search after growing numbers of evaluations, from which number on each arm helps.

    "From" means at that number and at every larger one, after Holm's correction at each.
    """
    stems: dict[str, list[int]] = {}
    for metric in metrics:
        if found := re.fullmatch(r"(best_true|best_reward)_at_(\d+)", metric):
            stems.setdefault(found[1], []).append(int(found[2]))
    lines = []
    for stem, numbers in stems.items():
        since: dict[str, int | None] = {}
        for arm in judged_against_base:
            since[arm] = None
            for number in sorted(numbers, reverse=True):
                at = effects[(effects["arm"] == arm) & (effects["metric"] == f"{stem}_at_{number}")]
                if list(at["verdict"]) != ["helps"]:
                    break
                since[arm] = number
        parts = [f"{arm} from {number}" for arm, number in since.items() if number is not None]
        never = [arm for arm, number in since.items() if number is None]
        parts += [f"up to {max(numbers)} not shown for {', '.join(never)}"] if never else []
        if parts:
            lines.append(f"Better than {BASE} by {stem}, from how many evaluations on: {'; '.join(parts)}.")
    return lines


def how_well_each_ranks(results: pd.DataFrame, metric: str, truth_arm: str) -> str:
    """How well the children of each arm rank those of `truth_arm`, and in how much time: a sentence, the best first.

    Mean and standard deviation over the finished trials of `results` (``results.csv``); seconds are a trial's.
    """
    done = results[(results["status"] == "done") & results[metric].notna()]
    by_arm = (
        done.groupby("arm")[[metric, "seconds"]].agg(["mean", "std"]).sort_values((metric, "mean"), ascending=False)
    )
    told = []
    for arm, row in by_arm.iterrows():
        spread = f" ± {row[metric, 'std']:.2f}" if pd.notna(row[metric, "std"]) else ""
        told.append(f"{arm} {row[metric, 'mean']:.2f}{spread} in {row['seconds', 'mean']:.0f} s")
    return f"{metric} with the other seeds of {truth_arm}, and the time for all children: {'; '.join(told)}."


def answer(
    effects: pd.DataFrame,
    interactions: pd.DataFrame | None,
    metrics: Metrics,
    scale: Mapping[str, float] | None = None,
    against: Mapping[str, str] | None = None,
) -> list[str]:
    """The answer in plain sentences, the headline first: what helps, what depends on what, what stays uncertain.

    Both tables are those of `nastricks.ablation.statistics`, fresh or read back from CSV. Claims are their verdicts on
    the first metric alone. `scale` names what the first metric is to be read beside: the base's mean, trivial rankings,
    the most that can be reached. `against` names the arm that an arm is judged against, where that is not base.
    InputError without a metric.
    """
    if not metrics:
        raise InputError("metrics are empty, but an answer is about one: name a metric and its direction")
    metric, direction = next(iter(metrics.items()))
    tables = (effects, effects[:0] if interactions is None else interactions)
    rows, crossed = (table[table["metric"] == metric].to_dict("records") for table in tables)
    others = {arm: reference for arm, reference in (against or {}).items() if reference != BASE}
    own = [row for row in rows if row["arm"] not in others]
    single, combined = ([row for row in own if ("+" in row["arm"]) is plus] for plus in (False, True))
    counts = sorted({int(row["n"]) for row in rows}) or [0]
    seeds = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    better = f"{'higher' if direction == 'max' else 'lower'} is better"
    lines = [f"{metric} ({better}, {seeds} paired seeds): {_verdicts(single or combined)}."]
    if single and combined:
        lines.append(f"Combinations against base, each with the effects of its parts in it: {_verdicts(combined)}.")
    for reference in dict.fromkeys(others.values()):
        told = [row for row in rows if others.get(row["arm"]) == reference]
        lines += [f"Against {reference}: {_verdicts(told)}."] if told else []
    lines += _from_when(effects, metrics, [row["arm"] for row in own])
    lines += [_dependence(row, single, metric) for row in crossed if row["verdict"] in CLAIMS]
    if crossed and not any(row["verdict"] in CLAIMS for row in crossed):
        judged = f"{sum(row['n'] >= FEWEST_SEEDS for row in crossed)} of {len(crossed)}"
        lines.append(f"No trick is shown to depend on another ({judged} pairs had seeds enough to tell).")
    if unclear := [row for row in rows if row["verdict"] == "no evidence"]:
        measured = "; ".join(f"{row['arm']} {_numbers(row)}" for row in unclear)
        lines.append(f"No evidence is not proof of no effect; measured: {measured}.")
    if near := [row["arm"] for row in unclear if row["ci_low"] > 0 or row["ci_high"] < 0]:
        lines.append(f"No claim, although the uncorrected interval leaves out 0: {', '.join(near)}.")
    unsure = [r for r in rows + crossed if r["verdict"] not in CLAIMS and pd.notna(r["seeds_needed"])]
    if needs := [f"{row['arm']} about {int(row['seeds_needed'])}" for row in unsure if row["seeds_needed"] > row["n"]]:
        why = "seeds needed if the difference seen is real (80 % power at 5 %, uncorrected)"
        lines.append(f"Too uncertain; {why}: {', '.join(needs)}.")
    if rows and counts[0] < FEWEST_SEEDS:
        lines.append(f"Few seeds: nothing is judged under {FEWEST_SEEDS} paired seeds.")
    elif any(row["n"] == FEWEST_SEEDS and row["verdict"] in CLAIMS for row in rows + crossed):
        lines.append("Few seeds: at five the exact sign-flip p cannot go below 0.0625, so claims rest on the t-test.")
    if scale:
        lines.append(f"For scale, {metric}: {', '.join(f'{name} {value:.3g}' for name, value in scale.items())}.")
    return lines
