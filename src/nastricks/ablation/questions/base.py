"""What an ablation is asked beyond "which arm helps": questions, each answered in words, tables and pictures."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from nastricks.ablation.evidence import Evidence
from nastricks.ablation.plot_style import number
from nastricks.ablation.statistics import FEWEST_SEEDS

CONFIDENCE = 0.95
OUTCOMES = ("higher", "lower", "unclear")


class Interval(NamedTuple):
    """A mean with its 95 % interval over `n` trials; the ends are NaN where n is below 2."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def outcome(self) -> str:
        """On which side of zero the whole interval lies: higher, lower, or unclear."""
        return "higher" if self.low > 0 else "lower" if self.high < 0 else "unclear"

    def __str__(self) -> str:
        return self.told()

    def told(self, signed: bool = False, digits: int = 3) -> str:
        """Mean, interval and n in words, to so many decimals."""
        if self.n == 0:
            return "unknown"
        ends = f"{number(self.low, signed, digits)} to {number(self.high, signed, digits)}, n {self.n}"
        return f"{number(self.mean, signed, digits)} ({ends if np.isfinite(self.low) else f'n {self.n}'})"


def over_seeds(values: Iterable[float]) -> Interval:
    """Mean and t interval of one value a trial; values that are not finite do not count."""
    known = np.array([value for value in values if np.isfinite(value)], dtype=np.float64)
    return _interval(float(known.mean()) if len(known) else float("nan"), known, len(known))


def jackknife(trials: Sequence[Any], statistic: Callable[[Sequence[Any]], float]) -> Interval:
    """A statistic of several trials at once [S-Tau] with an interval from leaving out one at a time.

    The interval is that of Tukey's pseudo-values, with n - 1 degrees of freedom; it needs three trials for a statistic
    of pairs. Source: Tukey 1958.
    """
    n = len(trials)
    whole = statistic(trials) if n else float("nan")
    if n < 3:
        return Interval(whole, float("nan"), float("nan"), n)
    without = np.array([statistic([*trials[:i], *trials[i + 1 :]]) for i in range(n)])
    return _interval(whole, n * whole - (n - 1) * without, n)


def _interval(mean: float, values: np.ndarray[Any, np.dtype[np.float64]], n: int) -> Interval:
    if n < 2:
        return Interval(mean, float("nan"), float("nan"), n)
    half = float(stats.t.isf((1 - CONFIDENCE) / 2, n - 1) * values.std(ddof=1) / np.sqrt(n))
    return Interval(mean, mean - half, mean + half, n)


@dataclass(frozen=True)
class Answered:
    """What was found: `lines` in words, the first one the answer; tables by caption; figures by what they show.

    `decides` is the interval that the answer rests on, above or below zero, where there is one.
    """

    lines: Sequence[str]
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    figures: Mapping[str, Any] = field(default_factory=dict)
    decides: Interval | None = None


@dataclass(frozen=True, kw_only=True)
class Question(ABC):
    """A question of an ablation.

    Args:
        name: Its key.
        asks: The question in words.
        metric: What it is about, one of the ablation's metrics.
        answers: What to say where the deciding interval lies above zero (`higher`), below (`lower`), or holds it
            (`unclear`).
        note: What a reader must know of the protocol.
        published: Arm -> the published figure of `metric`, to stand beside the measured one; of kinds that show it
            (`shows_published`).
        source: Where the published figures are from.
    """

    name: str
    asks: str
    metric: str
    answers: Mapping[str, str] = field(default_factory=dict)
    note: str = ""
    published: Mapping[str, float] = field(default_factory=dict)
    source: str = ""

    kind: ClassVar[str]
    needs_options: ClassVar[bool] = False
    shows_published: ClassVar[bool] = False

    @abstractmethod
    def arms(self) -> list[str]:
        """The arms that it names, `published` apart."""

    @abstractmethod
    def find(self, evidence: Evidence) -> Answered | None:
        """What the finished trials say; None where they say nothing yet."""

    def answer(self, evidence: Evidence) -> Answered:
        """What was found, its headline in words, and what every answer is read beside."""
        found = self.find(evidence)
        if found is None:
            return Answered(["No trial that answers this is done yet."])
        lines = list(found.lines) or ["Nothing is judged; what was measured stands below."]
        if found.decides is not None and self.answers:
            few = found.decides.n < FEWEST_SEEDS
            said = f"Too few seeds to tell, {FEWEST_SEEDS} are needed" if few else self.answers[found.decides.outcome]
            lines.insert(0, f"{said}: {found.decides.told(signed=True)}.")
        if beside := self.beside(evidence):
            lines.append(beside)
        return Answered(lines, found.tables, found.figures, found.decides)

    def beside(self, evidence: Evidence) -> str:
        """The parameter count, chance and the noise ceiling, for the metric and for GT-Tau."""
        parts = []
        for metric in dict.fromkeys([self.metric, "gt_tau"]):
            scale = evidence.scale(metric)
            if scale:
                parts.append(f"{metric}: {', '.join(f'{name} {number(value)}' for name, value in scale.items())}")
        return f"For scale, {'; '.join(parts)}." if parts else ""


def values_of(evidence: Evidence, arm: str, metric: str) -> "pd.Series[float]":
    """The finite values of a metric, by seed."""
    done = evidence.done
    if metric not in done:
        return pd.Series(dtype=float)
    rows = done[done["arm"] == arm].set_index("seed")[metric].astype(float)
    return rows[np.isfinite(rows)]


def rankings_of(evidence: Evidence, arm: str) -> dict[int, pd.DataFrame]:
    """Seed -> the trial's ranking.csv by architecture, children of unknown truth left out."""
    found = {}
    for trial in evidence.trials:
        if trial.arm == arm and trial.ranking is not None and trial.error is None:
            frame = trial.ranking.set_index("architecture").sort_index()
            if "truth" in frame:
                found[trial.seed] = frame[np.isfinite(frame["truth"].astype(float))]
    return {seed: frame for seed, frame in found.items() if len(frame) > 1}


def rows_of(intervals: Mapping[str, Interval], what: str = "arm") -> pd.DataFrame:
    """Named intervals as a table."""
    rows = [{what: name, "mean": i.mean, "low": i.low, "high": i.high, "n": i.n} for name, i in intervals.items()]
    return pd.DataFrame(rows, columns=[what, "mean", "low", "high", "n"])
