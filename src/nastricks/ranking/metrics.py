"""How well a ranking of architectures agrees with ground truth: the maths, then one TorchMetrics class for each.

Everywhere `scores` (N,) says higher is better, and `truth` (N,) holds the accuracies of the children trained alone.

* Ties are never broken by row order. Every value is the exact expectation over breaking the ties of `scores` at
  random, so nothing is drawn. Constant scores therefore give what chance gives, and a τ of 0.
* A score of NaN or −inf is a child that diverged: all of these rank last, tied.
* A truth that is not finite is refused.

Sources: Zhang et al. 2020 (arXiv 2001.01431) for GT-Tau, S-Tau and TnR; Kendall 1945 for the variants of τ.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.stats import kendalltau, rankdata
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from nastricks.errors import InputError, unknown

Array = NDArray[np.float64]
Values = ArrayLike | Tensor
Variant = Literal["random_ties", "b"]


def _column(values: Values, nan: float = np.nan) -> Array:
    if isinstance(values, Tensor):
        values = values.detach().cpu().double().numpy()
    return np.nan_to_num(np.asarray(values, dtype=np.float64), nan=nan, posinf=np.inf, neginf=-np.inf)


def _checked(scores: Values, truth: Values) -> tuple[Array, Array]:
    s, t = _column(scores, nan=-np.inf), _column(truth)
    if s.ndim != 1 or s.shape != t.shape:
        raise InputError(f"scores {s.shape} and truth {t.shape} differ in shape: give one of each an architecture")
    if len(s) < 2:
        raise InputError(f"a ranking of {len(s)} architectures has no order: give at least two")
    if not np.isfinite(t).all():
        raise InputError(f"a true accuracy is {t[~np.isfinite(t)][0]}: leave that architecture out, or train it again")
    return s, t


def _check_count(name: str, value: int) -> None:
    if value < 1:
        raise InputError(f"{name} is {value}: give a whole number of at least 1")


def _tau(x: Array, y: Array, variant: Variant = "random_ties") -> float:
    if variant not in get_args(Variant):
        raise unknown("variant of Kendall's tau", variant, get_args(Variant))
    # Dense ranks: scipy then never sees an infinity. scipy sorts, O(N log N); torchmetrics' kendall_rank_corrcoef
    # compares all pairs row by row in Python, which takes seconds on a table of thousands of architectures.
    x, y = rankdata(x, method="dense"), rankdata(y, method="dense")
    if x.max() == 1 or y.max() == 1:
        return 0.0
    tau_b = float(kendalltau(x, y).statistic)
    if variant == "b":
        return tau_b
    pairs = math.comb(len(x), 2)
    untied = [pairs - sum(math.comb(int(c), 2) for c in np.unique(r, return_counts=True)[1]) for r in (x, y)]
    # A tied pair is concordant or discordant with equal chance once its tie is broken at random, so it adds 0 on
    # average: the expectation is (C − D) / pairs, tau-a. Tau-b is (C − D) / √(untied · untied), C − D a whole number.
    return round(tau_b * math.sqrt(untied[0] * untied[1])) / pairs


def kendall_tau(scores: Values, truth: Values, variant: Variant = "random_ties") -> float:
    """Kendall's τ in [−1, 1] between `scores` (N,) and `truth` (N,).

    "random_ties" is the exact mean of τ over random tie-breaks on both sides, (C − D) / (N(N−1)/2), the fair
    comparison with a ranking without ties. "b" is Kendall's tau-b, which divides by the untied pairs only.
    Constant scores leave τ undefined; they say nothing, as chance does, and get 0. Raises InputError.
    """
    return _tau(*_checked(scores, truth), variant)


def s_tau(instances: Sequence[Values]) -> float:
    """S-Tau in [−1, 1] of two or more instances (runs), each of scores (N,): the mean τ over all pairs of them.

    2/(M(M−1)) Σ_{i<j} τ(R_i, R_j) for M instances, arXiv 2001.01431. Raises InputError.
    """
    columns = [_column(values, nan=-np.inf) for values in instances]
    if len(columns) < 2:
        raise InputError(f"S-Tau compares runs with each other and got {len(columns)}: give at least two")
    if len({c.shape for c in columns}) > 1 or columns[0].ndim != 1 or len(columns[0]) < 2:
        shapes = [c.shape for c in columns]
        raise InputError(f"S-Tau got scores of shapes {shapes}: each run must score the same two or more architectures")
    return float(np.mean([_tau(a, b) for i, a in enumerate(columns) for b in columns[i + 1 :]]))


def top_count(size: int, fraction: float) -> int:
    """How many of `size` architectures are the top `fraction` in (0, 1]: the nearest whole number, a half rounds up,
    at least 1. The top 5 % and 10 % of 64 are 3 and 6. Raises InputError."""
    if not 0 < fraction <= 1:
        raise InputError(f"a top fraction of {fraction} is not in (0, 1]: 0.05 is the top 5 %")
    # The tiny addend keeps products such as 0.05 · 30 from falling under their half.
    return max(1, math.floor(fraction * size + 0.5 + 1e-9))


def _top(values: Array, count: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_], int]:
    """Who is surely among the `count` highest, who ties for the last places, and how many of those get one (≥ 1)."""
    boundary = np.partition(values, len(values) - count)[len(values) - count]
    sure = values > boundary
    return sure, values == boundary, count - int(sure.sum())


def _membership(values: Array, count: int) -> Array:
    sure, tied, places = _top(values, count)
    return sure + tied * (places / tied.sum())


def _expected_best(scores: Array, worth: Array, count: int) -> float:
    """The mean over random tie-breaks of the highest `worth` among the `count` best scores."""
    sure, tied, places = _top(scores, count)
    candidates = np.sort(worth[tied])[::-1]
    size = len(candidates)
    # The chance that the i-th best candidate is the best of a random subset of `places`,
    # C(size−1−i, places−1) / C(size, places), as a running product: the binomials themselves overflow.
    i = np.arange(size - places)
    chance = places / size * np.concatenate([[1.0], np.cumprod((size - places - i) / (size - 1 - i))])
    return float(chance @ np.maximum(candidates[: len(chance)], worth[sure].max(initial=-np.inf)))


def precision_at_top(scores: Values, truth: Values, fraction: float) -> float:
    """P@k %, in [0, 1]: which part of the predicted top `fraction` lies in the true top `fraction`.

    Both tops hold `top_count` architectures; ties at either edge count by their chance to be inside.
    """
    s, t = _checked(scores, truth)
    count = top_count(len(s), fraction)
    return float(_membership(s, count) @ _membership(t, count)) / count


def top_decile_tau(scores: Values, truth: Values) -> float:
    """τ within the true top 10 %: `top_count` architectures, at least two, and all that tie with the last of them."""
    s, t = _checked(scores, truth)
    count = max(2, top_count(len(t), 0.1))
    inside = t >= np.partition(t, len(t) - count)[len(t) - count]
    return _tau(s[inside], t[inside])


def best_in_top(scores: Values, truth: Values, n: int = 10) -> float:
    """The best true accuracy among the predicted top `n` (all of them where there are fewer), in truth's unit."""
    _check_count("n", n)
    s, t = _checked(scores, truth)
    return _expected_best(s, t, min(n, len(s)))


def top_n_rank(scores: Values, truth: Values, n: int = 10) -> float:
    """TnR (arXiv 2001.01431): the best true rank among the predicted top `n`; 1 is best, equal truths share a rank.

    A whole number unless scores tie: then the mean over random tie-breaks.
    """
    _check_count("n", n)
    s, t = _checked(scores, truth)
    return -_expected_best(s, -rankdata(-t, method="min").astype(np.float64), min(n, len(s)))


def ranking_metrics(scores: Values, truth: Values) -> dict[str, float]:
    """All measures of one ranking: gt_tau, p_at_5, p_at_10, top_decile_tau, best_in_top_10 and t10_rank.

    `scores` (N,) higher is better, `truth` (N,) accuracies, N ≥ 2; τ with random tie-breaks. Raises InputError for
    a truth that is not finite and for shapes that differ.
    """
    return {
        "gt_tau": kendall_tau(scores, truth),
        "p_at_5": precision_at_top(scores, truth, 0.05),
        "p_at_10": precision_at_top(scores, truth, 0.10),
        "top_decile_tau": top_decile_tau(scores, truth),
        "best_in_top_10": best_in_top(scores, truth, 10),
        "t10_rank": top_n_rank(scores, truth, 10),
    }


def ranking_metrics_by_accuracy_and_loss(accuracy: Values, loss: Values, truth: Values) -> dict[str, float]:
    """`ranking_metrics` of the accuracies (N,), and the same keys with the suffix ``_by_loss`` for scores = −loss (N,).

    A loss of NaN or +inf ranks last.
    """
    by_loss = ranking_metrics(-_column(loss), truth)
    return ranking_metrics(accuracy, truth) | {f"{name}_by_loss": value for name, value in by_loss.items()}


class RankingMetric(Metric):
    """Collects scores (N,) and truth (N,) over `update`s, each of some architectures, and measures all at the end."""

    full_state_update = False
    higher_is_better = True
    scores: list[Tensor]
    truth: list[Tensor]

    def __init__(self, measure: Callable[[Tensor, Tensor], float], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.measure = measure
        self.add_state("scores", default=[], dist_reduce_fx="cat")
        self.add_state("truth", default=[], dist_reduce_fx="cat")

    def update(self, scores: Tensor, truth: Tensor) -> None:
        self.scores.append(scores.detach())
        self.truth.append(truth.detach())

    def compute(self) -> Tensor:
        return torch.tensor(self.measure(dim_zero_cat(self.scores), dim_zero_cat(self.truth)), device=self.device)


class GTTau(RankingMetric):
    """GT-Tau: `kendall_tau` as a metric; `variant` "random_ties" or "b"."""

    def __init__(self, variant: Variant = "random_ties", **kwargs: Any) -> None:
        kendall_tau([0, 1], [0, 1], variant)  # refuses an unknown variant here, not after a training
        super().__init__(partial(kendall_tau, variant=variant), **kwargs)


class TopDecileTau(RankingMetric):
    """`top_decile_tau` as a metric."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(top_decile_tau, **kwargs)


class PrecisionAtTop(RankingMetric):
    """P@k %: `precision_at_top` as a metric; `fraction` in (0, 1]."""

    def __init__(self, fraction: float, **kwargs: Any) -> None:
        top_count(1, fraction)
        super().__init__(partial(precision_at_top, fraction=fraction), **kwargs)


class BestInTop(RankingMetric):
    """`best_in_top` as a metric; `n` ≥ 1."""

    def __init__(self, n: int = 10, **kwargs: Any) -> None:
        _check_count("n", n)
        super().__init__(partial(best_in_top, n=n), **kwargs)


class TopNRank(RankingMetric):
    """TnR: `top_n_rank` as a metric; `n` ≥ 1; lower is better."""

    higher_is_better = False

    def __init__(self, n: int = 10, **kwargs: Any) -> None:
        _check_count("n", n)
        super().__init__(partial(top_n_rank, n=n), **kwargs)


class STau(Metric):
    """`s_tau` as a metric: each `update` brings one instance's scores (N,), architectures in the same order."""

    full_state_update = False
    higher_is_better = True
    instances: list[Tensor]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("instances", default=[], dist_reduce_fx="cat")

    def update(self, scores: Tensor) -> None:
        self.instances.append(scores.detach()[None])

    def compute(self) -> Tensor:
        # A list of (1, N) on one process, one tensor (M, N) once processes have been gathered.
        return torch.tensor(s_tau([one.flatten() for one in self.instances]), device=self.device)


class GTTauMeanK(Metric):
    """GT-Tau-Mean-k (arXiv 2001.01431): the mean GT-Tau of the last `k` ≥ 1 updates, each a whole ranking (N,)."""

    full_state_update = False
    higher_is_better = True
    taus: list[Tensor]

    def __init__(self, k: int = 128, **kwargs: Any) -> None:
        _check_count("k", k)
        super().__init__(**kwargs)
        self.k = k
        self.add_state("taus", default=[], dist_reduce_fx="cat")

    def update(self, scores: Tensor, truth: Tensor) -> None:
        tau = torch.tensor([kendall_tau(scores, truth)], device=self.device)
        self.taus = [*self.taus, tau][-self.k :]

    def compute(self) -> Tensor:
        return dim_zero_cat(self.taus)[-self.k :].mean()


class GTTauStdK(GTTauMeanK):
    """GT-Tau-Std-k: the standard deviation (divided by the count, so 0 for one update) beside `GTTauMeanK`."""

    higher_is_better = False

    def compute(self) -> Tensor:
        return dim_zero_cat(self.taus)[-self.k :].std(correction=0)
