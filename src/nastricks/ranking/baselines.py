"""What a ranking is judged beside: trivial rankings (parameters, FLOPs, chance), and the ceiling that noise sets."""

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import uniform_filter1d

from nastricks.errors import InputError
from nastricks.ranking.metrics import Values, kendall_tau, ranking_metrics
from nastricks.rng import generator

PERMUTATIONS = 200
SIMULATIONS = 200
NO_CEILING = "the table has one replica, which does not show how far a second training would differ"


def baselines(params: Values, flops: Values, truth: Values, seed: int) -> dict[str, dict[str, float]]:
    """`ranking_metrics` of three rankings that know nothing of training: "params", "flops" and "chance".

    `params` and `flops` (N,) rank the larger child higher, ties broken at random in expectation; `truth` (N,).
    "chance" is the mean over 200 permutations of the architectures, keyed by `seed`. Raises InputError as
    `ranking_metrics` does.
    """
    by_params = ranking_metrics(params, truth)  # refuses a truth that cannot be used
    values = truth.detach().cpu().double().numpy() if isinstance(truth, torch.Tensor) else truth
    chance = dict(_chance(np.asarray(values, dtype=np.float64).tobytes(), seed))
    return {"params": by_params, "flops": ranking_metrics(flops, truth), "chance": chance}


@lru_cache(maxsize=8)  # an ablation judges every trial against the same table, and this takes most of a second
def _chance(truth: bytes, seed: int) -> dict[str, float]:
    accuracies = np.frombuffer(truth, dtype=np.float64)
    shuffled = [
        ranking_metrics(torch.randperm(len(accuracies), generator=generator("chance", seed, i)), accuracies)
        for i in range(PERMUTATIONS)
    ]
    return {name: float(np.mean([one[name] for one in shuffled])) for name in shuffled[0]}


def _noise_variance(replicas: NDArray[np.float64], means: NDArray[np.float64]) -> NDArray[np.float64]:
    """The variance (N,) of one replica about its architecture's expected accuracy.

    Averaged over the eighth of the architectures nearest in rank: poor architectures often spread more, so one
    pooled figure puts the ceiling up to 0.03 too low there, and an architecture's own two or three replicas are too few
    and put it up to 0.05 too high. The mean over all architectures stays the unbiased one.
    """
    order = np.argsort(means, kind="stable")
    own = replicas.var(axis=1, ddof=1)
    smooth = np.empty_like(own)
    # "reflect" keeps the window full at both ends.
    smooth[order] = uniform_filter1d(own[order], size=min(len(own), max(5, len(own) // 8)), mode="reflect")
    total = smooth.mean()
    return smooth * (own.mean() / total) if total > 0 else smooth


def noise_ceiling(replicas: ArrayLike) -> float | None:
    """The Kendall τ that a perfect ranking (by expected accuracy) would reach against the mean of `replicas` (N, R).

    The observed means already hold the noise, so they spread wider than the expected accuracies do. They are first
    shrunk towards their grand mean until their variance is var(means) − mean(s²)/R, the unbiased estimate of the true
    one; noise of variance s²/R is then added to these stand-ins for the truth in 200 keyed simulations, and τ is
    averaged. In simulations with 64 architectures the bias is under 0.005 for normal and uniform truths. A truth that
    crowds at the top or in clusters is spread out too evenly, which puts the ceiling up to 0.03 too high (0.06 for
    two tight clusters and two replicas). The ceiling is 0 where the means vary no more than the noise alone would
    make them, and None for one replica (`NO_CEILING` says why). Raises InputError for fewer than two architectures or
    values that are not finite.
    """
    table = np.asarray(replicas, dtype=np.float64)
    if table.ndim != 2 or table.shape[0] < 2 or table.shape[1] < 1:
        raise InputError(f"replicas of shape {table.shape} have no ceiling: give (architectures ≥ 2, replicas ≥ 1)")
    if not np.isfinite(table).all():
        raise InputError("the replicas hold NaN or infinity: leave out or train again the architectures concerned")
    if table.shape[1] == 1:
        return None
    return _ceiling(np.ascontiguousarray(table).tobytes(), table.shape[0])


@lru_cache(maxsize=8)  # as for chance
def _ceiling(replicas: bytes, size: int) -> float:
    table = np.frombuffer(replicas, dtype=np.float64).reshape(size, -1)
    count = table.shape[1]
    means = table.mean(axis=1)
    noise = _noise_variance(table, means) / count
    observed = means.var(ddof=1)
    expected = observed - noise.mean()
    if expected <= 0:
        return 0.0
    truth = means.mean() + np.sqrt(expected / observed) * (means - means.mean())
    draws = torch.randn(SIMULATIONS, size, generator=generator("noise_ceiling", size, count), dtype=torch.float64)
    return float(np.mean([kendall_tau(truth, truth + np.sqrt(noise) * draw) for draw in draws.numpy()]))
