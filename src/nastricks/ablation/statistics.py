"""What an ablation shows: paired effects and interactions (`nastricks.ablation.answer` puts them into words).

Arms are paired by seed, so what a seed does to all arms alike cancels. Holm's correction runs over the arms and the
interactions of a metric together, since either may be claimed (`judge`); claims concern the first metric alone, so
metrics need no correction over one another.
Papers: Student 1908 (paired t), Holm 1979 (correction), Fisher 1935 (sign flips).
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from nastricks.errors import InputError, unknown

Array = NDArray[np.float64]
Row = Mapping[Any, Any]
Terms = Mapping[str, Sequence[str]]
Metrics = Mapping[str, str]  # metric -> the direction that is better, max or min; the first is the primary one

BASE = "base"
COLUMNS = "arm metric n mean difference ci_low ci_high p p_holm p_exact seconds_ratio seeds_needed verdict".split(" ")  # noqa: SIM905
CLAIMS = ("helps", "hurts")
FEWEST_SEEDS = 5
MOST_SEEDS_NEEDED = 1_000_000  # beyond this the effect is noise for any purpose: the cell stays empty
ENUMERATED_SEEDS = 16
ROUNDING = 1e-6  # relative; TorchMetrics computes in float32, so what agrees to this is the same number


def holm(p: ArrayLike) -> Array:
    """Holm's step-down adjustment of one family of p values, shape (k,); NaN stays NaN and does not count.

    Bounds the chance of any false claim under any dependence (arms share their base). SciPy offers only the false
    discovery rate (`scipy.stats.false_discovery_control`). Source: Holm 1979.
    """
    values = np.asarray(p, dtype=np.float64)
    adjusted = np.full(values.shape, np.nan)
    known = np.flatnonzero(np.isfinite(values))
    order = known[np.argsort(values[known], kind="stable")]
    steps = values[order] * (len(order) - np.arange(len(order)))
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted


@lru_cache(maxsize=8)
def _signs(n: int) -> Array:
    """Rows of n signs: up to 16 seeds all of them (one sign held, as the test is two-sided), beyond that 32,768."""
    if n <= ENUMERATED_SEEDS:
        return np.asarray(1.0 - 2.0 * ((np.arange(2 ** (n - 1))[:, None] >> np.arange(n)) & 1))
    # NumPy's own generator with a fixed seed: `nastricks.rng` would import torch, which reports must not pay for.
    draws = np.random.default_rng(0).integers(0, 2, size=(2 ** (ENUMERATED_SEEDS - 1), n))
    draws[0] = 0  # the sample as it is counts as one of its flips, so that p is never 0
    return np.asarray(1.0 - 2.0 * draws)


def sign_flip_p(differences: ArrayLike, tolerance: float = 0.0) -> float:
    """Two-sided sign-flip permutation p of paired differences, shape (n,); NaN without any.

    Exact up to 16 seeds, from 32,768 random flips (fixed seed) beyond. Never under 2 / 2^n: 0.0625 at five seeds.
    `tolerance` is the difference of means that counts as a tie.
    """
    d = np.asarray(differences, dtype=np.float64)
    if not len(d):
        return float("nan")
    means = np.abs(_signs(len(d)) @ d) / len(d)
    return float(np.mean(means >= abs(d.mean()) - tolerance - 1e-12 * np.abs(d).max()))


def seeds_needed(effect_size: ArrayLike) -> Array:
    """The fewest seeds for which a two-sided paired t-test at 5 % (uncorrected) reaches 80 % power.

    `effect_size` is mean / standard deviation of the paired differences, any shape. Infinite gives 2; zero, NaN and
    whatever needs more than a million seeds give NaN. The noncentral t is used. An effect size seen in few seeds is
    itself uncertain, and so is this number.
    """
    size = np.abs(np.asarray(effect_size, dtype=np.float64))
    # The normal approximation never asks for more than the t-test does, so the search only walks upwards from it.
    with np.errstate(divide="ignore", over="ignore"):
        start = np.floor(((stats.norm.isf(0.025) + stats.norm.isf(0.2)) / size) ** 2)
    searched = np.isfinite(start) & (start <= MOST_SEEDS_NEEDED)
    # Above an effect size of 100 two seeds are enough, and the noncentral t would overflow.
    n, size = np.maximum(start[searched], 2.0), np.minimum(size[searched], 100.0)
    while True:
        critical, shift = stats.t.isf(0.025, n - 1), size * np.sqrt(n)
        short = stats.nct.sf(critical, n - 1, shift) + stats.nct.cdf(-critical, n - 1, shift) < 0.8
        if not np.any(short):
            break
        n = n + short
    seeds = np.full(start.shape, np.nan)
    seeds[searched] = n
    return seeds


def _mean_over(values: Array, present: NDArray[np.bool_]) -> Array:
    """Row means of (rows, seeds) over `present`; NaN where nothing is."""
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(present, values, 0.0).sum(axis=1) / present.sum(axis=1))


def _paired_tests(difference: Array, tolerance: Array, confidence: float) -> dict[str, Any]:
    """Paired t and sign-flip tests of each row of (rows, seeds); NaN marks a missing pair; (rows,) each.

    Without any spread t is not defined. Then p is its limit (0, or 1 for no difference), while Holm gets the exact p,
    so that a constant difference needs as many seeds as its signs alone can prove.
    """
    present = np.isfinite(difference)
    n = present.sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = _mean_over(difference, present)
        free = np.where(n > 1, n - 1.0, np.nan)  # degrees of freedom
        sd = np.sqrt((np.where(present, difference - mean[:, None], 0.0) ** 2).sum(axis=1) / free)
        flat = sd <= tolerance
        sd = np.where(flat, 0.0, sd)
        mean = np.where(flat & (np.abs(mean) <= tolerance), 0.0, mean)
        error = sd / np.sqrt(n)
        p = np.where(flat, np.where(mean == 0, 1.0, 0.0), 2 * stats.t.sf(np.abs(mean / error), free))
        half = stats.t.isf((1 - confidence) / 2, free) * error
        # Nullable integers: a CSV then holds 34 or nothing, never 34.0.
        needed = pd.Series(seeds_needed(mean / sd)).astype("Int64")
    exact = np.array([sign_flip_p(d[known], t) for d, known, t in zip(difference, present, tolerance, strict=True)])
    tests = {"n": n, "difference": mean, "ci_low": mean - half, "ci_high": mean + half}
    return {**tests, "p": p, "p_holm": holm(np.where(flat, exact, p)), "p_exact": exact, "seeds_needed": needed}


class _Results:
    """The trials as one grid (arms, seeds) a column; NaN where a trial failed, is missing, or is not finite."""

    def __init__(self, results: pd.DataFrame) -> None:
        for column in ("arm", "seed", "status", "seconds"):
            if column not in results.columns:
                raise InputError(f"results lack the column {column!r}: expected arm, seed, status, seconds and metrics")
        for status in results["status"].unique():
            if status not in ("done", "failed"):
                raise unknown("status", str(status), ["done", "failed"])
        twice = results[results.duplicated(["arm", "seed"])]
        if len(twice):
            arm, seed = twice["arm"].iloc[0], twice["seed"].iloc[0]
            raise InputError(f"arm {arm!r} has seed {seed} more than once in the results: keep one row a trial")
        self.frame, self.done = results, results["status"].to_numpy() == "done"
        self.row, arms = pd.factorize(results["arm"])
        self.column, seeds = pd.factorize(results["seed"])
        self.arms, self.shape = [str(arm) for arm in arms], (len(arms), len(seeds))
        if BASE not in self.arms:
            raise InputError(f"the results hold no arm {BASE!r} but {', '.join(self.arms)}: run the unchanged recipe")

    def grid(self, column: str) -> Array:
        """One column as (arms, seeds)."""
        if column not in self.frame.columns:
            raise unknown("metric", column, [str(c) for c in self.frame.columns[5:]])
        try:
            values = pd.to_numeric(self.frame[column]).to_numpy(dtype=np.float64, na_value=np.nan)
        except (ValueError, TypeError) as error:
            raise InputError(f"column {column!r} of the results is not numeric ({error}): give numbers") from error
        grid = np.full(self.shape, np.nan)
        grid[self.row, self.column] = np.where(self.done & np.isfinite(values), values, np.nan)
        return grid

    def contrast(self, terms: Terms, weights: Array, metrics: Metrics, level: float) -> pd.DataFrame:
        """One row a name and metric for the weighted sum of the named arms; cost is the first of them over the last."""
        if not metrics or not 0 < level < 1:
            raise InputError(f"metrics {dict(metrics)}, confidence {level}: give at least one, and a number below 1")
        for arm in (arm for arms in terms.values() for arm in arms):
            if arm not in self.arms:
                raise unknown("arm", arm, self.arms)
        rows = [self.arms.index(arm) for arms in terms.values() for arm in arms]
        index = np.array(rows, dtype=int).reshape(len(terms), len(weights))
        seconds, frames = self.grid("seconds")[index], []
        for metric, direction in metrics.items():
            if direction not in ("max", "min"):
                raise InputError(f"metric {metric!r} has direction {direction!r}: write 'max' or 'min', the better one")
            cells = self.grid(metric)[index]  # (names, terms, seeds)
            difference = np.einsum("t,its->is", weights, cells)
            scale = np.abs(cells).max(axis=1)
            difference = np.where(np.abs(difference) <= ROUNDING * scale, 0.0 * difference, difference)
            present = np.isfinite(difference)
            tolerance = ROUNDING * np.where(present, scale, 0.0).max(axis=1, initial=0.0)
            tests = _paired_tests(difference, tolerance, level)
            timed = present & np.isfinite(seconds[:, 0]) & np.isfinite(seconds[:, -1])
            with np.errstate(divide="ignore", invalid="ignore"):
                ratio = _mean_over(seconds[:, 0], timed) / _mean_over(seconds[:, -1], timed)
            rest = {"seconds_ratio": ratio, "mean": _mean_over(cells[:, 0], present)}
            frame = pd.DataFrame({"arm": list(terms), "metric": metric, **tests, **rest}, columns=COLUMNS)
            frame["verdict"] = _judged(frame, direction, 1 - level)
            frames.append(frame)
        return pd.concat(frames, ignore_index=True)


def effects(
    results: pd.DataFrame, metrics: Metrics, confidence: float = 0.95, against: Mapping[str, str] | None = None
) -> pd.DataFrame:
    """Each arm against `base`, or against the arm that `against` names for it: a row an arm and metric, with `COLUMNS`.

    `results` has one row a trial: arm, seed, status (done or failed), seconds, peak_memory_mb, then metrics; `metrics`
    maps a metric to the direction that is better, max or min. Only seeds where both arms are done and finite count.

    `mean` is the arm's, `difference` is arm minus base in the metric's unit, with its paired t interval (uncorrected)
    and p; `p_holm` corrects p over the arms of one metric; `p_exact` flips signs. `seconds_ratio` is arm over base.
    `seeds_needed` is for 80 % power at 5 %, uncorrected, at the effect size seen. The verdict is `too few seeds` under
    five pairs, `helps` or `hurts` where p_holm < 1 - confidence, else `no evidence`. Differences that are all equal
    give p 0, but p_holm is then computed from p_exact; differences under 1e-6 of the metric are rounding, hence 0.

    Raises InputError for missing columns, unknown metrics or directions, no base, or a trial given twice.
    """
    table = _Results(results)
    references = {arm: (against or {}).get(arm, BASE) for arm in table.arms if arm != BASE}
    terms = {arm: (arm, reference) for arm, reference in references.items() if reference in table.arms}
    return table.contrast(terms, np.array([1.0, -1.0]), metrics, confidence)


def interactions(
    results: pd.DataFrame, metrics: Metrics, quadruples: Sequence[tuple[str, str, str, str]], confidence: float = 0.95
) -> pd.DataFrame:
    """Differences of differences: what a second trick does to the effect of a first; same columns as `effects`.

    A quadruple is (name, first, second, both), arms of `results`; a seed's value is (both - second) - (first - base).
    `arm` holds the name, `mean` the mean of `both`, `seconds_ratio` both over base. `helps` means that the two together
    are better than the sum of their effects, `hurts` that they are worse. Holm runs over the quadruples of a metric
    alone; `judge` corrects over effects and interactions together. Raises InputError as `effects` does, and for
    unknown arms.
    """
    terms = {name: (both, second, first, BASE) for name, first, second, both in quadruples}
    if len(terms) < len(quadruples):
        raise InputError(f"interactions {[q[0] for q in quadruples]} repeat a name: give each one its own")
    return _Results(results).contrast(terms, np.array([1.0, -1.0, -1.0, 1.0]), metrics, confidence)


def comparisons(
    results: pd.DataFrame, metrics: Metrics, pairs: Sequence[tuple[str, str]], confidence: float = 0.95
) -> pd.DataFrame:
    """The first arm of each pair against the second, as `effects`; `arm` says both, Holm runs over the pairs."""
    terms = {f"{one} against {other}": (one, other) for one, other in pairs}
    return _Results(results).contrast(terms, np.array([1.0, -1.0]), metrics, confidence)


def judge(
    results: pd.DataFrame,
    metrics: Metrics,
    quadruples: Sequence[tuple[str, str, str, str]] = (),
    confidence: float = 0.95,
    against: Mapping[str, str] | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """`effects` and `interactions` with Holm's correction over both together, one family a metric.

    Apart, each table keeps its own 5 %, and an ablation without any effect claims one in 8 % of cases.
    """
    tables = effects(results, metrics, confidence, against), interactions(results, metrics, quadruples, confidence)
    for metric, direction in metrics.items():
        rows = [table["metric"] == metric for table in tables]
        p = np.concatenate([_p_for_holm(table[own]) for table, own in zip(tables, rows, strict=True)])
        adjusted = np.split(holm(p), [int(rows[0].sum())])
        for table, own, values in zip(tables, rows, adjusted, strict=True):
            table.loc[own, "p_holm"] = values
            table.loc[own, "verdict"] = _judged(table[own], direction, 1 - confidence)
    return tables


def _p_for_holm(table: pd.DataFrame) -> Array:
    """The t test's p; the sign flips' where all differences are equal, since t then claims certainty."""
    p = table["p"].to_numpy(dtype=np.float64)
    return np.where(p == 0.0, table["p_exact"].to_numpy(dtype=np.float64), p)


def _judged(table: pd.DataFrame, direction: str, alpha: float) -> NDArray[Any]:
    better = (table["difference"] > 0) == (direction == "max")  # without a difference nothing is claimed
    verdict = np.where(table["p_holm"] < alpha, np.where(better, *CLAIMS), "no evidence")
    return np.where(table["n"] < FEWEST_SEEDS, "too few seeds", verdict)
