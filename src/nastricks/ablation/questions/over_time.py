"""`over_time`: how steady is the ranking over the last epochs and the last batches of a training?"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from nastricks.ablation.evidence import Evidence
from nastricks.ablation.questions.base import Answered, Interval, Question, over_seeds, rankings_of
from nastricks.ablation.questions.figures import over_steps
from nastricks.errors import InputError
from nastricks.ranking.metrics import kendall_tau, s_tau

FILE = "ranking_over_time.csv"
WINDOW = 8  # moments that a running mean, deviation or S-Tau takes
SERIES = {"epochs": "the whole training", "last epochs": "the last epochs", "last batches": "the last batches"}


@dataclass(frozen=True, kw_only=True)
class OverTime(Question):
    """GT-Tau at many moments of a training, GT-Tau-Mean-k and -Std-k over the last k, and S-Tau among them.

    Args:
        arm: An arm whose trainer has the callback `nastricks.ranking.over_time.RankingOverTime`.
        k: The moments at the end that count; None takes all that were scored one after another.
    """

    kind = "over_time"
    arm: str
    k: int | None = None

    def __post_init__(self) -> None:
        if self.k is not None and self.k < 2:
            raise InputError(f"question {self.name} has k {self.k}: expected at least 2 moments")

    def arms(self) -> list[str]:
        return [self.arm]

    def find(self, evidence: Evidence) -> Answered | None:
        logs = {
            seed: log
            for seed, frame in rankings_of(evidence, self.arm).items()
            if (log := judged_log(evidence.table_of(self.arm, seed, FILE), frame["truth"])) is not None
        }
        if not logs:
            return None
        rows, figures, said = [], {}, []
        for series, words in SERIES.items():
            own = [log[log["series"] == series] for log in logs.values()]
            own = [log for log in own if log["step"].nunique() > 1]
            if not own:
                continue
            figures[words] = over_steps(moments(own), evidence.scale("gt_tau"))
            if series == "epochs":
                continue
            taken = min(log["step"].nunique() for log in own)
            k = taken if self.k is None else min(self.k, taken)
            found = last_moments(own, k)
            rows += [
                {"over": f"{words} (k {k})", "what": what, "mean": i.mean, "low": i.low, "high": i.high, "n": i.n}
                for what, i in found.items()
            ]
            told = "; ".join(f"{what} {interval}" for what, interval in found.items())
            said.append(f"Over {words} (k {k}): {told}.")
        table = {"the last moments of a training, 95 % intervals over trainings": pd.DataFrame(rows)} if rows else {}
        return Answered(said or ["The moments that were scored are drawn below."], table, figures)


def judged_log(log: pd.DataFrame | None, truth: "pd.Series[float]") -> pd.DataFrame | None:
    """The log with a column of true accuracies, children of unknown truth left out; None where there is no log."""
    if log is None or log.empty:
        return None
    known = log[log["architecture"].isin(truth.index)].copy()
    known["truth"] = known["architecture"].map(truth.astype(float))
    return known


def last_moments(logs: Sequence[pd.DataFrame], k: int) -> dict[str, Interval]:
    """GT-Tau-Mean-k, GT-Tau-Std-k and S-Tau among the last k moments of each training, over trainings."""
    taus, agree = [], []
    for log in logs:
        scores = by_moment(log)
        truth = log.groupby("architecture")["truth"].first().loc[scores.index]
        last = [scores[step] for step in list(scores.columns)[-k:]]
        taus.append([kendall_tau(column, truth) for column in last])
        agree.append(s_tau(last))
    return {
        f"GT-Tau-Mean-{k}": over_seeds([float(np.mean(t)) for t in taus]),
        f"GT-Tau-Std-{k}": over_seeds([float(np.std(t)) for t in taus]),
        "S-Tau among these moments": over_seeds(agree),
    }


def by_moment(log: pd.DataFrame) -> pd.DataFrame:
    """Accuracies with a row a child and a column a step, in order."""
    return log.pivot_table(index="architecture", columns="step", values="accuracy", aggfunc="first").sort_index(axis=1)


def moments(logs: Sequence[pd.DataFrame]) -> dict[str, Any]:
    """What is drawn over the steps, a row a training: GT-Tau, tau with the last moment, and S-Tau among trainings.

    GT-Tau-Mean, GT-Tau-Std and S-Tau of the last `WINDOW` moments begin where there are so many.
    """
    grids = [by_moment(log) for log in logs]
    truths = [
        log.groupby("architecture")["truth"].first().loc[grid.index] for log, grid in zip(logs, grids, strict=True)
    ]
    steps = sorted(set.intersection(*(set(grid.columns) for grid in grids)))
    judged = [[kendall_tau(g[s], t) for s in steps] for g, t in zip(grids, truths, strict=True)]
    same = [[kendall_tau(g[s], g[steps[-1]]) for s in steps] for g in grids]
    children = sorted(set.intersection(*(set(grid.index) for grid in grids)))
    among = [s_tau([g.loc[children, s] for g in grids]) for s in steps] if len(grids) > 1 else None
    window = min(WINDOW, len(steps))
    epochs = dict(zip(logs[0]["step"].astype(int), logs[0]["epoch"].astype(float), strict=True))
    return {
        "step": [int(step) for step in steps],
        "epoch": [epochs[int(step)] for step in steps],
        "GT-Tau": judged,
        "tau with the last of these moments": same,
        "S-Tau among trainings": among,
        f"GT-Tau-Mean-{window}": [trailing(taus, window, lambda last: float(np.mean(last))) for taus in judged],
        f"GT-Tau-Std-{window}": [trailing(taus, window, lambda last: float(np.std(last))) for taus in judged],
        f"S-Tau of the last {window}": [trailing([grid[step] for step in steps], window, s_tau) for grid in grids],
    }


def trailing(values: Sequence[Any], window: int, measure: Callable[[Sequence[Any]], float]) -> list[float]:
    """A measure of the last `window` values at each place; NaN where there are fewer."""
    return [measure(values[end - window : end]) if end >= window else np.nan for end in range(1, len(values) + 1)]
