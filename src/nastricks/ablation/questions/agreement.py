"""`agreement`: does the ranking of one arm predict that of another? A matrix of Kendall's tau."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from nastricks.ablation.evidence import Evidence
from nastricks.ablation.questions.base import Answered, Interval, Question, jackknife, rankings_of
from nastricks.ablation.questions.figures import matrix
from nastricks.errors import InputError
from nastricks.ranking.metrics import kendall_tau

TRUTH = "truth"


@dataclass(frozen=True, kw_only=True)
class Agreement(Question):
    """Tau between the rankings of every two arms, trainings of different seeds, and of each with the truth.

    The diagonal is S-Tau: how well two trainings of one arm agree.

    Args:
        rankings: Label -> arm, in the order in which they are drawn, such as growing budgets.
        predicts: (short, long), labels: how well the first predicts the second is the answer; None takes the ends.
    """

    kind = "agreement"
    rankings: Mapping[str, str]
    predicts: tuple[str, str] | None = None

    def __post_init__(self) -> None:
        if len(self.rankings) < 2:
            raise InputError(f"question {self.name} names {len(self.rankings)} rankings: expected at least two arms")
        for label in self.predicts or ():
            if label not in self.rankings:
                raise InputError(
                    f"question {self.name} predicts {label!r}: expected one of {', '.join(map(str, self.rankings))}"
                )

    def arms(self) -> list[str]:
        return list(self.rankings.values())

    def find(self, evidence: Evidence) -> Answered | None:
        taus = Taus(evidence, self.rankings)
        labels = list(taus.labels)
        if len(labels) < 2 or len(taus.seeds) < 2:
            return None
        cells = {(a, b): taus.between(a, b) for i, a in enumerate(labels) for b in labels[i:]}
        cells |= {(a, TRUTH): taus.between(a, TRUTH) for a in labels}
        names = [*labels, TRUTH]
        grid = pd.DataFrame(np.nan, index=labels, columns=names)
        for (a, b), interval in cells.items():
            grid.loc[a, b] = interval.mean
            if b in grid.index:
                grid.loc[b, a] = interval.mean
        told = [name for name in (self.predicts or ()) if name in labels]
        short, long = (told[0], told[1]) if len(told) == 2 else (labels[0], labels[-1])
        said = [
            f"A ranking after {short} predicts one after {long} at a tau of {taus.between(short, long)}; two trainings "
            f"of {long} agree at {taus.between(long, long)}, two of {short} at {taus.between(short, short)}.",
            f"With the truth agree: {'; '.join(f'{a}: {cells[a, TRUTH]}' for a in labels)}.",
        ]
        listed = pd.DataFrame(
            [
                {"one": a, "other": b, "tau": i.mean, "low": i.low, "high": i.high, "n": i.n}
                for (a, b), i in cells.items()
            ]
        )
        figures = {"tau between rankings": matrix(grid, "tau", "training of", "against", most=1.0, text=True)}
        tables = {"tau between trainings of different seeds, 95 % intervals (jackknife over seeds)": listed}
        return Answered(said, tables, figures)


class Taus:
    """Tau between trainings; each pair of them is computed once.

    Args:
        evidence: The ablation.
        rankings: Label -> arm; those without a finished trial are left out.
    """

    def __init__(self, evidence: Evidence, rankings: Mapping[str, str]) -> None:
        found = {str(label): rankings_of(evidence, arm) for label, arm in rankings.items()}
        self._frames = {label: frames for label, frames in found.items() if frames}
        self.labels = list(self._frames)
        self.seeds = sorted(set.intersection(*map(set, self._frames.values()))) if self._frames else []
        self._known: dict[tuple[str, int, str, int], float] = {}

    def between(self, one: str, other: str) -> Interval:
        """The mean over pairs of different seeds, or over all seeds where the other is the truth."""

        def mean(seeds: Sequence[int]) -> float:
            if other == TRUTH:
                return float(np.mean([self._tau(one, s, TRUTH, s) for s in seeds]))
            return float(np.mean([self._tau(one, a, other, b) for a in seeds for b in seeds if a != b]))

        if len(self.seeds) < 2:
            return Interval(float("nan"), float("nan"), float("nan"), len(self.seeds))
        return jackknife(self.seeds, mean)

    def _tau(self, one: str, a: int, other: str, b: int) -> float:
        key = (one, a, other, b)
        if key not in self._known:
            left = self._frames[one][a]
            right = left["truth"] if other == TRUTH else self._frames[other][b]["accuracy"]
            common = left.index.intersection(right.index)
            tau = kendall_tau(left.loc[common, "accuracy"].astype(float), right.loc[common].astype(float))
            self._known[key] = self._known[other, b, one, a] = tau
        return self._known[key]
