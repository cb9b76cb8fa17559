"""`stability`: how much do rankings of one arm agree among themselves, and with the truth?"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from nastricks.ablation.evidence import BASELINES, Evidence
from nastricks.ablation.questions.base import Answered, Interval, Question, jackknife, over_seeds, rankings_of, rows_of
from nastricks.ablation.questions.figures import dots
from nastricks.errors import InputError, unknown
from nastricks.ranking.metrics import kendall_tau, s_tau

COLUMNS = ("S-Tau", "low", "high", "n", "least", "most", "GT-Tau", "its spread")


@dataclass(frozen=True, kw_only=True)
class Stability(Question):
    """S-Tau among the instances (seeds) of each arm (arXiv 2001.01431), beside their GT-Tau.

    Args:
        sources: What differs between an arm's instances -> the arm. The first is what the others are compared with.
        published_rows: Name -> column of the table -> published figure: rows below the measured ones.
    """

    kind = "stability"
    sources: Mapping[str, str]
    published_rows: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.sources:
            raise InputError(f"question {self.name} names no sources: say what differs, and the arm in which it does")
        for name, row in self.published_rows.items():
            for column in row:
                if column not in COLUMNS:
                    raise unknown(f"column in published_rows {name!r} of question {self.name}:", str(column), COLUMNS)

    def arms(self) -> list[str]:
        return list(self.sources.values())

    def find(self, evidence: Evidence) -> Answered | None:
        scores = {what: scores_of(evidence, arm) for what, arm in self.sources.items()}
        scores = {what: own for what, own in scores.items() if len(own) > 1}
        if not scores:
            return None
        agree = {what: jackknife(list(own.values()), s_tau) for what, own in scores.items()}
        judged = {what: taus_of(evidence, arm) for what, arm in self.sources.items() if what in scores}
        table = rows_of(agree, "what differs").rename(columns={"mean": "S-Tau"})
        table["least"] = [_extreme(own, min) for own in scores.values()]
        table["most"] = [_extreme(own, max) for own in scores.values()]
        table["GT-Tau"] = [over_seeds(own).mean for own in judged.values()]
        table["its spread"] = [float(np.std(own, ddof=1)) if len(own) > 1 else np.nan for own in judged.values()]
        table = pd.DataFrame([*table.to_dict("records"), *self._others(evidence)], columns=table.columns)
        told = "; ".join(f"{what} {interval}" for what, interval in agree.items())
        said = [f"S-Tau among instances: {told}."]
        first = next(iter(scores))
        differences = {what: _difference(scores[what], scores[first]) for what in scores if what != first}
        if differences:
            told = "; ".join(f"{what} {interval.told(signed=True)}" for what, interval in differences.items())
            said.append(f"S-Tau compared with {first}: {told}. Above zero: that source alone moves the ranking less.")
        spread = "; ".join(
            f"{what} {over_seeds(own)}, spread {np.std(own, ddof=1):.3f}"
            for what, own in judged.items()
            if len(own) > 1
        )
        said.append(f"GT-Tau: {spread}.")
        shown = {f"S-Tau: {what}": interval for what, interval in agree.items()}
        shown |= {f"GT-Tau: {what}": over_seeds(own) for what, own in judged.items()}
        figures = {"S-Tau and GT-Tau": dots(rows_of(shown), "tau", evidence.scale("gt_tau"))}
        return Answered(said, {"agreement among the instances of an arm, 95 % intervals (jackknife)": table}, figures)

    def _others(self, evidence: Evidence) -> list[dict[str, Any]]:
        """Rows below the arms': the parameter count, and what was published."""
        counted = evidence.scale("gt_tau").get(BASELINES["params"])
        rows: list[dict[str, Any]] = [{"what differs": "parameter count", "GT-Tau": counted}] if counted else []
        return rows + [{"what differs": f"published: {name}", **row} for name, row in self.published_rows.items()]


def scores_of(evidence: Evidence, arm: str) -> dict[int, "pd.Series[float]"]:
    """Seed -> the accuracies of the children that all instances of the arm scored, in one order."""
    own = {seed: frame["accuracy"].astype(float) for seed, frame in rankings_of(evidence, arm).items()}
    if not own:
        return {}
    common = sorted(set.intersection(*(set(scores.index) for scores in own.values())))
    return {seed: scores.loc[common] for seed, scores in own.items()}


def taus_of(evidence: Evidence, arm: str) -> list[float]:
    """GT-Tau of each instance."""
    return [
        kendall_tau(f["accuracy"].astype(float), f["truth"].astype(float)) for f in rankings_of(evidence, arm).values()
    ]


def _extreme(scores: Mapping[int, "pd.Series[float]"], which: Callable[[Iterable[float]], float]) -> float:
    own = list(scores.values())
    return which(kendall_tau(a, b) for i, a in enumerate(own) for b in own[i + 1 :])


def _difference(one: Mapping[int, "pd.Series[float]"], other: Mapping[int, "pd.Series[float]"]) -> Interval:
    """S-Tau of one arm minus that of another, seeds left out of both at once."""
    seeds = sorted(set(one) & set(other))

    def gap(chosen: Sequence[int]) -> float:
        return s_tau([one[s] for s in chosen]) - s_tau([other[s] for s in chosen])

    if len(seeds) < 2:
        return Interval(float("nan"), float("nan"), float("nan"), len(seeds))
    return jackknife(seeds, gap)
