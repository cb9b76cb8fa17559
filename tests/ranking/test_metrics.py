"""Ranking metrics, noise ceiling and baselines: hand-made cases, definitions by brute force, invariances."""

import os
from itertools import combinations, pairwise, permutations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import kendalltau

from nastricks.errors import InputError
from nastricks.ranking import metrics as m
from nastricks.ranking.baselines import baselines, noise_ceiling
from nastricks.rng import generator


def draw(*key: object, size: tuple[int, ...] = (40,)) -> np.ndarray:
    return torch.randn(*size, generator=generator("test_metrics", *key), dtype=torch.float64).numpy()


def tied(*key: object, size: int = 40, levels: int = 5) -> np.ndarray:
    return torch.randint(levels, (size,), generator=generator("test_metrics", *key)).double().numpy()


def tie_breaks(scores: np.ndarray) -> list[np.ndarray]:
    """Every way of breaking the ties of a few scores, each as likely as the others."""
    orders = [p for p in permutations(range(len(scores))) if all(scores[a] <= scores[b] for a, b in pairwise(p))]
    return [np.argsort(np.array(p)).astype(float) for p in orders]


MEASURES = {
    "gt_tau": m.kendall_tau,
    "tau_b": lambda s, t: m.kendall_tau(s, t, "b"),
    "p_at_30": lambda s, t: m.precision_at_top(s, t, 0.3),
    "top_decile_tau": m.top_decile_tau,
    "best_in_top": lambda s, t: m.best_in_top(s, t, 3),
    "t3_rank": lambda s, t: m.top_n_rank(s, t, 3),
}


def test_hand_made_ranking() -> None:
    truth = np.arange(20) / 20
    scores = np.arange(20.0)
    scores[[19, 0]] = scores[[0, 19]]  # the best architecture is scored worst, and the other way round
    assert m.kendall_tau(scores, truth) == pytest.approx(1 - 2 * 37 / 190)  # 2 · 18 + 1 pairs are turned round
    assert m.precision_at_top(scores, truth, 0.05) == 0
    assert m.precision_at_top(scores, truth, 0.10) == 0.5
    assert m.top_decile_tau(scores, truth) == -1
    assert m.best_in_top(scores, truth, 10) == pytest.approx(0.9)
    assert m.top_n_rank(scores, truth, 10) == 2


def test_a_perfect_ranking_reaches_the_best_value_of_each() -> None:
    truth = draw("perfect", size=(64,))
    got = m.ranking_metrics(truth, truth)
    assert got == {
        "gt_tau": 1,
        "p_at_5": 1,
        "p_at_10": 1,
        "top_decile_tau": 1,
        "best_in_top_10": truth.max(),
        "t10_rank": 1,
    }


def test_tau_agrees_with_scipy() -> None:
    scores, truth = draw("s"), draw("t")
    assert m.kendall_tau(scores, truth) == pytest.approx(kendalltau(scores, truth).statistic)
    scores = tied("s")
    assert m.kendall_tau(scores, truth, "b") == pytest.approx(kendalltau(scores, truth).statistic)


@pytest.mark.parametrize("truth_ties", [False, True])
def test_tau_with_random_ties_is_concordant_minus_discordant_over_all_pairs(truth_ties: bool) -> None:
    scores, truth = tied("pairs"), tied("pairs_truth") if truth_ties else draw("pairs")
    signs = [np.sign(scores[i] - scores[j]) * np.sign(truth[i] - truth[j]) for i, j in combinations(range(40), 2)]
    assert m.kendall_tau(scores, truth) == pytest.approx(np.mean(signs))


@pytest.mark.parametrize("name", [name for name in MEASURES if name != "tau_b"])
@pytest.mark.parametrize("scores", [[0, 1, 1, 1, 2, 2, 3], [1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1]])
def test_ties_count_by_the_exact_mean_over_tie_breaks(name: str, scores: list[int]) -> None:
    truth = np.array([0.3, 0.9, 0.1, 0.5, 0.7, 0.2, 0.6])[: len(scores)]
    broken = [MEASURES[name](s, truth) for s in tie_breaks(np.array(scores))]
    assert len(broken) > 1
    assert MEASURES[name](scores, truth) == pytest.approx(np.mean(broken))


@pytest.mark.parametrize("name", list(MEASURES))
def test_row_order_and_monotone_transforms_change_nothing(name: str) -> None:
    scores, truth = tied("invariance", levels=7), draw("invariance").round(1)
    value = MEASURES[name](scores, truth)
    order = torch.randperm(40, generator=generator("order")).numpy()
    assert MEASURES[name](scores[order], truth[order]) == pytest.approx(value)
    assert MEASURES[name](np.exp(scores) - 3, truth) == pytest.approx(value)


def test_the_top_is_rounded_to_the_nearest_and_holds_at_least_one() -> None:
    assert [m.top_count(n, 0.05) for n in (2, 20, 30, 64)] == [1, 1, 2, 3]
    assert [m.top_count(n, 0.10) for n in (4, 15, 64, 3969)] == [1, 2, 6, 397]


@pytest.mark.parametrize("variant", ["random_ties", "b"])
def test_constant_scores_count_as_chance(variant: m.Variant) -> None:
    truth = draw("constant", size=(64,))
    assert m.kendall_tau(np.ones(64), truth, variant) == 0
    got = m.ranking_metrics(np.ones(64), truth)
    assert got["p_at_10"] == pytest.approx(6 / 64)
    assert got["t10_rank"] == pytest.approx(65 / 11)  # the mean minimum of 10 ranks out of 64


def test_diverged_children_rank_last_together() -> None:
    truth = np.array([0.1, 0.2, 0.3, 0.4])
    assert m.kendall_tau([np.nan, 1, 2, 3], truth) == 1
    assert m.kendall_tau([1, 2, 3, np.nan], truth) == m.kendall_tau([1, 2, 3, 0], truth) == 0
    assert m.kendall_tau([np.nan, -np.inf, 2, 3], truth) == pytest.approx(5 / 6)
    losses = m.ranking_metrics_by_accuracy_and_loss([1, 2, 3, 4], [np.nan, np.inf, 2, 1], truth)
    assert losses["gt_tau"] == 1
    assert losses["gt_tau_by_loss"] == pytest.approx(5 / 6)


@pytest.mark.parametrize(
    "call",
    [
        lambda: m.ranking_metrics([1, 2], [0.5, np.nan]),
        lambda: m.ranking_metrics([1, 2, 3], [0.5, 0.6]),
        lambda: m.ranking_metrics([1], [0.5]),
        lambda: m.kendall_tau([1, 2], [1, 2], "c"),  # type: ignore[arg-type]
        lambda: m.precision_at_top([1, 2], [1, 2], 5),
        lambda: m.best_in_top([1, 2], [1, 2], 0),
        lambda: m.s_tau([[1, 2]]),
        lambda: m.s_tau([[1, 2], [1, 2, 3]]),
        lambda: m.GTTau("c"),  # type: ignore[arg-type]
        lambda: m.GTTauMeanK(k=0),
        lambda: m.TopNRank(0),
        lambda: m.BestInTop(0),
        lambda: m.PrecisionAtTop(0.0),
    ],
)
def test_bad_input_is_refused(call: object) -> None:
    with pytest.raises(InputError):
        call()  # type: ignore[operator]


def test_s_tau_is_the_mean_over_pairs_of_instances() -> None:
    runs = [draw("run", i) for i in range(4)]
    pairs = [kendalltau(a, b).statistic for a, b in combinations(runs, 2)]
    metric = m.STau()
    for run in runs:
        metric.update(torch.from_numpy(run))
    assert m.s_tau(runs) == pytest.approx(np.mean(pairs))
    assert metric.compute().item() == pytest.approx(np.mean(pairs))


@pytest.mark.parametrize(
    ("metric", "function"),
    [
        (m.GTTau(), m.kendall_tau),
        (m.GTTau("b"), MEASURES["tau_b"]),
        (m.TopDecileTau(), m.top_decile_tau),
        (m.PrecisionAtTop(0.3), MEASURES["p_at_30"]),
        (m.BestInTop(3), MEASURES["best_in_top"]),
        (m.TopNRank(3), MEASURES["t3_rank"]),
    ],
)
def test_classes_equal_their_functions_over_several_updates(metric: m.RankingMetric, function: object) -> None:
    scores, truth = torch.from_numpy(tied("classes")), torch.from_numpy(draw("classes"))
    for part in (slice(0, 15), slice(15, 40)):
        metric.update(scores[part], truth[part])
    assert metric.compute().item() == pytest.approx(function(scores, truth))  # type: ignore[operator]
    metric.reset()
    assert metric(scores, truth).item() == pytest.approx(function(scores, truth))  # type: ignore[operator]


def test_mean_k_and_std_k_look_at_the_last_k_updates() -> None:
    truth = draw("k")
    mean, std = m.GTTauMeanK(k=3), m.GTTauStdK(k=3)
    taus = []
    for i in range(5):
        scores = draw("k", i)
        taus.append(kendalltau(scores, truth).statistic)
        for metric in (mean, std):
            metric(torch.from_numpy(scores), torch.from_numpy(truth))
    assert mean.compute().item() == pytest.approx(np.mean(taus[-3:]))
    assert std.compute().item() == pytest.approx(np.std(taus[-3:]))


# The crowded case is the documented limit of the estimator, not within 0.02.
@pytest.mark.parametrize(
    ("spread", "bias"), [("equal", 0.02), ("wider for poor architectures", 0.02), ("truth crowded at the top", 0.045)]
)
@pytest.mark.parametrize("count", [2, 5, 10])
def test_noise_ceiling_is_unbiased_where_the_truth_is_known(
    count: int, spread: str, bias: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nastricks.ranking.baselines.SIMULATIONS", 30)
    estimated, known = [], []
    for i in range(12):
        truth = 0.8 + 0.04 * draw("ceiling", i, size=(64,))
        if spread == "truth crowded at the top":
            truth = 0.92 - 10 * (truth - 0.85) ** 2
        sd = 0.02 if spread != "wider for poor architectures" else 0.03 * (truth.max() - truth) / np.ptp(truth) + 0.005
        noise = draw("noise", count, i, size=(count, 64))
        estimated.append(noise_ceiling((truth + sd * noise).T))
        fresh = draw("fresh", count, i, size=(20, 64)) * sd / np.sqrt(count)
        known.append(np.mean([m.kendall_tau(truth, truth + f) for f in fresh]))
    assert np.mean(estimated) == pytest.approx(np.mean(known), abs=bias)


def test_noise_ceiling_at_its_ends() -> None:
    assert noise_ceiling(draw("one", size=(20, 1))) is None
    assert noise_ceiling(np.repeat(np.arange(20.0)[:, None], 3, axis=1)) == 1
    assert noise_ceiling(np.zeros((20, 3))) == 0
    pure_noise = [noise_ceiling(draw("pure", i, size=(64, 5))) for i in range(10)]
    assert np.mean(pure_noise) < 0.35  # the mean of five would reach 0.6 if its spread were taken for truth
    for bad in (draw("flat"), np.full((5, 3), np.nan), np.zeros((1, 3))):
        with pytest.raises(InputError):
            noise_ceiling(bad)


def test_baselines_hold_the_metrics_of_a_ranking() -> None:
    truth, params, flops = draw("b", size=(64,)), tied("b", size=64), draw("f", size=(64,))
    got = baselines(params, flops, truth, seed=0)
    assert list(got) == ["params", "flops", "chance"]
    assert got["params"] == m.ranking_metrics(params, truth)
    assert got["flops"] == m.ranking_metrics(flops, truth)
    exact = m.ranking_metrics(np.zeros(64), truth)  # no opinion at all: what chance gives
    for name, tolerance in {"gt_tau": 0.03, "p_at_10": 0.04, "best_in_top_10": 0.15, "t10_rank": 1.5}.items():
        assert got["chance"][name] == pytest.approx(exact[name], abs=tolerance)
    assert got["chance"] == baselines(params, flops, truth, seed=0)["chance"]
    assert got["chance"] != baselines(params, flops, truth, seed=1)["chance"]


@pytest.mark.skipif("NASTRICKS_DATA" not in os.environ, reason="NASTRICKS_DATA does not name the folder of shared data")
def test_published_figures_of_nas_bench_macro() -> None:
    frame = pd.read_csv(Path(os.environ["NASTRICKS_DATA"]) / "tables" / "nas_bench_macro.csv", dtype={"arch": str})
    # All 6,561 codes give the published 0.218 and 0.556; the 3,969 distinct networks give a little less.
    distinct = frame.drop_duplicates(["acc0", "acc1", "acc2", "params", "flops"])
    assert (len(frame), len(distinct)) == (6561, 3969)
    for rows, params, flops in ((frame, 0.218, 0.556), (distinct, 0.215, 0.546)):
        assert m.kendall_tau(rows["params"], rows["mean"]) == pytest.approx(params, abs=0.001)
        assert m.kendall_tau(rows["flops"], rows["mean"]) == pytest.approx(flops, abs=0.001)
    between = m.s_tau([distinct[name] for name in ("acc0", "acc1", "acc2")])
    assert between == pytest.approx(0.88, abs=0.005)
    ceiling = noise_ceiling(distinct[["acc0", "acc1", "acc2"]].to_numpy())
    assert ceiling is not None
    assert between < ceiling < 1  # the truth against a mean agrees better than one replica with another
