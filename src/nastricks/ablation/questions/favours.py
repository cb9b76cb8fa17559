"""`favours`: which children does the supernet rank too high? Its error in rank against what they are made of."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats
from scipy.stats import rankdata

from nastricks.ablation.evidence import Evidence
from nastricks.ablation.plot_style import number
from nastricks.ablation.questions.base import Answered, Interval, Question, over_seeds, rankings_of
from nastricks.ablation.questions.figures import dots
from nastricks.ablation.statistics import FEWEST_SEEDS, holm

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Favours(Question):
    """Correlation of the error in rank (rank by the truth minus rank by the supernet, 1 is best) with features.

    Features are parameters, FLOPs, how often each operation is taken, and each operation at each choice (a
    "connection"). Above zero: the supernet ranks children with more of it too high.

    A ranking that knows nothing errs too: it puts good children too low, and so whatever good children have. Two
    columns part this from a taste of the supernet's own: what such a ranking would give, and the correlation that
    remains among children of equal true rank (partial correlation).

    Args:
        arm: Whose supernets are asked.
    """

    kind = "favours"
    needs_options = True
    arm: str

    def arms(self) -> list[str]:
        return [self.arm]

    def find(self, evidence: Evidence) -> Answered | None:
        frames, options = rankings_of(evidence, self.arm), evidence.options
        if not frames or options is None:
            return None
        raw: dict[str, list[float]] = {}
        partial: dict[str, list[float]] = {}
        chance: dict[str, list[float]] = {}
        for frame in frames.values():
            known = frame.join(options, how="inner")
            truth = _ranks(known["truth"])
            error = truth - _ranks(known["accuracy"])
            for name, feature in features(known, list(options.columns)).items():
                raw.setdefault(name, []).append(correlation(error, feature))
                partial.setdefault(name, []).append(partial_correlation(error, feature, truth))
                chance.setdefault(name, []).append(correlation(truth, feature) / np.sqrt(2))
        measured = {name: over_seeds(values) for name, values in raw.items()}
        kept = {name: over_seeds(values) for name, values in partial.items()}
        table = pd.DataFrame(
            {
                "feature": list(measured),
                "correlation": [i.mean for i in measured.values()],
                "low": [i.low for i in measured.values()],
                "high": [i.high for i in measured.values()],
                "of a ranking that knows nothing": [float(np.nanmean(chance[name])) for name in measured],
                "at equal true rank": [i.mean for i in kept.values()],
                "its low": [i.low for i in kept.values()],
                "its high": [i.high for i in kept.values()],
                "p (Holm)": holm([_p(i) for i in kept.values()]),
                "n": [i.n for i in kept.values()],
            }
        )
        figures = {
            "at equal true rank": dots(
                _rows(kept), "correlation with the error (above 0: placed too high), true place held", {}
            ),
            "correlation": dots(_rows(measured), "correlation with the error (above 0: placed too high)", {}),
        }
        caption = f"{self.arm}: error in rank against each feature, 95 % intervals over supernets"
        sizes = "; ".join(
            f"{name} {measured[name].told(signed=True)}, a ranking that knows nothing "
            f"{number(np.nanmean(chance[name]), signed=True)}"
            for name in ("parameters", "FLOPs")
            if name in measured
        )
        said = [_said(table), f"All in all the error in rank correlates with {sizes}."] if sizes else [_said(table)]
        return Answered(said, {caption: table}, figures)


def features(known: pd.DataFrame, choices: list[str]) -> dict[str, Array]:
    """Name -> values (children,) of what children are made of; what is the same for all of them is left out."""
    found = {"parameters": known["params"], "FLOPs": known["flops"]}
    operations = sorted({option for choice in choices for option in known[choice].unique()})
    for operation in operations:
        found[f"{operation} anywhere"] = sum((known[choice] == operation).astype(float) for choice in choices)
    for choice in choices:
        for option in sorted(known[choice].unique()):
            found[f"{option} at {choice}"] = (known[choice] == option).astype(float)
    arrays = {name: np.asarray(values, dtype=np.float64) for name, values in found.items()}
    return {name: values for name, values in arrays.items() if np.isfinite(values).all() and np.ptp(values) > 0}


def correlation(x: Array, y: Array) -> float:
    """Pearson's, 0 where one of them is constant."""
    x, y = x - x.mean(), y - y.mean()
    size = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / size if size > 0 else 0.0


def partial_correlation(x: Array, y: Array, given: Array) -> float:
    """Pearson's between what is left of two variables once a third is regressed out of each."""
    xy, xz, yz = correlation(x, y), correlation(x, given), correlation(y, given)
    rest = (1 - xz**2) * (1 - yz**2)
    return (xy - xz * yz) / float(np.sqrt(rest)) if rest > 1e-12 else 0.0


def _ranks(values: Any) -> Array:
    """1 for the highest; equal values share the mean rank."""
    return np.asarray(rankdata(-np.asarray(values, dtype=np.float64)), dtype=np.float64)


def _rows(intervals: Mapping[str, Interval]) -> pd.DataFrame:
    rows = [{"arm": name, "mean": i.mean, "low": i.low, "high": i.high, "n": i.n} for name, i in intervals.items()]
    return pd.DataFrame(rows)


def _p(interval: Interval) -> float:
    """The two-sided p of the t-test that a 95 % interval belongs to; NaN without an interval."""
    if interval.n < 2 or not np.isfinite(interval.low):
        return float("nan")
    half = interval.high - interval.mean
    if half == 0:
        return 1.0 if interval.mean == 0 else 0.0
    t = interval.mean / half * stats.t.isf(0.025, interval.n - 1)
    return float(2 * stats.t.sf(abs(t), interval.n - 1))


def _said(table: pd.DataFrame) -> str:
    """What is favoured and what is put too low, at equal true rank, after Holm."""
    if table["n"].max() < FEWEST_SEEDS:
        return f"Too few seeds to tell, {FEWEST_SEEDS} are needed."
    sure = table[table["p (Holm)"] < 0.05]
    parts = []
    for word, rows in (
        ("ranks too high", sure[sure["at equal true rank"] > 0]),
        ("ranks too low", sure[sure["at equal true rank"] < 0]),
    ):
        rows = rows.reindex(rows["at equal true rank"].abs().sort_values(ascending=False).index)
        if len(rows):
            told = [
                f"{r['feature']} "
                + Interval(r["at equal true rank"], r["its low"], r["its high"], int(r["n"])).told(signed=True)
                for _, r in rows.iterrows()
            ]
            parts.append(f"{word} those with more of {', '.join(told)}")
    if not parts:
        return "No taste of the supernet's own is shown: at equal true rank no feature correlates with its error."
    return f"Among children of equal true rank the supernet {', and '.join(parts)}: correlations, p_holm < 0.05."
