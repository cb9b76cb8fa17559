"""The statistics of an ablation: agreement with SciPy and with brute force, refusals, and the rate of false claims."""

import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from nastricks.ablation.answer import answer
from nastricks.ablation.statistics import (
    COLUMNS,
    effects,
    holm,
    interactions,
    judge,
    seeds_needed,
    sign_flip_p,
)
from nastricks.errors import InputError

TAU = {"gt_tau": "max"}
TRICKS = ("sam", "ghost_batch_norm", "drop_path", "mixup")
CROSSED = ["base", "bn_calibration", *TRICKS, *(f"{trick}+bn_calibration" for trick in TRICKS)]
QUADRUPLES = [(f"{trick} x bn_calibration", trick, "bn_calibration", f"{trick}+bn_calibration") for trick in TRICKS]


def table(values: dict[str, list[float]], seconds: dict[str, float] | None = None) -> pd.DataFrame:
    """Results with one done trial an arm and seed."""
    seeds = len(values["base"])
    arms = np.repeat(list(values), seeds)
    cost = np.repeat([(seconds or {}).get(arm, 2.0) for arm in values], seeds)
    columns = {"arm": arms, "seed": np.tile(np.arange(seeds), len(values)), "status": "done", "seconds": cost}
    return pd.DataFrame({**columns, "peak_memory_mb": 1.0, "gt_tau": np.ravel(list(values.values()))})


def noise(rng: np.random.Generator, arms: list[str], seeds: int) -> pd.DataFrame:
    """Results without any effect: what a seed does to all arms alike, and noise of each trial."""
    values = 0.5 + rng.normal(0, 0.1, seeds) + rng.normal(0, 0.05, (len(arms), seeds))
    return table({arm: list(row) for arm, row in zip(arms, values, strict=True)})


def claims(frame: pd.DataFrame) -> bool:
    return bool(frame["verdict"].isin(["helps", "hurts"]).any())


def test_holm_equals_values_worked_by_hand() -> None:
    # Sorted: 0.005*4, 0.01*3, max(0.03*2, before), max(0.04*1, before).
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.6, 0.5]), [1.0, 1.0])
    np.testing.assert_allclose(holm([np.nan, 0.02, 0.02]), [np.nan, 0.04, 0.04])
    assert holm([]).shape == (0,)


@pytest.mark.parametrize("n", [1, 2, 5, 9])
def test_sign_flips_equal_brute_force(n: int) -> None:
    d = np.random.default_rng(n).normal(0.4, 1, n)
    sums = [abs(np.dot(signs, d)) for signs in itertools.product([1, -1], repeat=n)]
    assert sign_flip_p(d) == pytest.approx(np.mean([total >= abs(d.sum()) - 1e-9 for total in sums]))


def test_sign_flips_have_their_floor_and_count_ties() -> None:
    assert sign_flip_p([0.1, 0.2, 0.3, 0.4, 0.5]) == 2 / 32
    assert sign_flip_p([0.0] * 6) == 1.0
    assert sign_flip_p([0.1 + 0.2, -0.3]) == 1.0  # 0.1 + 0.2 is not 0.3 in floating point
    assert np.isnan(sign_flip_p([]))


def test_sampled_sign_flips_are_near_scipy_and_repeat() -> None:
    d = np.random.default_rng(3).normal(0.45, 1, 17)  # one more than is counted exactly
    reference = stats.permutation_test((d,), np.mean, permutation_type="samples", n_resamples=np.inf).pvalue
    assert sign_flip_p(d) == pytest.approx(reference, abs=0.01)
    assert sign_flip_p(d) == sign_flip_p(d)
    assert 0 < sign_flip_p(np.full(20, 1.0)) < 1e-3


def test_effects_equal_scipys_paired_t_test() -> None:
    rng = np.random.default_rng(0)
    results = noise(rng, ["base", "sam", "mixup"], 7)
    found = effects(results, TAU)
    assert list(found.columns) == COLUMNS
    assert list(found["arm"]) == ["sam", "mixup"]
    wide = results.pivot(index="seed", columns="arm", values="gt_tau")
    for row in found.to_dict("records"):
        test = stats.ttest_rel(wide[row["arm"]], wide["base"])
        interval = test.confidence_interval(0.95)
        assert row["p"] == pytest.approx(test.pvalue)
        assert (row["ci_low"], row["ci_high"]) == pytest.approx((interval.low, interval.high))
        assert row["mean"] == pytest.approx(wide[row["arm"]].mean())
        assert row["difference"] == pytest.approx((wide[row["arm"]] - wide["base"]).mean())
        assert row["n"] == 7
    np.testing.assert_allclose(found["p_holm"], holm(found["p"]))


def test_rows_in_any_order_and_confidence() -> None:
    results = noise(np.random.default_rng(1), ["base", "sam"], 6)
    shuffled = pd.concat([results[results["arm"] == "base"], results[results["arm"] == "sam"][::-1]])
    pd.testing.assert_frame_equal(effects(results, TAU), effects(shuffled, TAU))
    wide, narrow = effects(results, TAU, 0.99), effects(results, TAU, 0.8)
    assert wide["ci_low"][0] < narrow["ci_low"][0] < narrow["ci_high"][0] < wide["ci_high"][0]


def test_a_real_effect_is_found_in_the_right_direction() -> None:
    rng = np.random.default_rng(2)
    results = noise(rng, ["base", "sam", "mixup", "cutout"], 8)
    results.loc[results["arm"] == "sam", "gt_tau"] += 0.3
    results.loc[results["arm"] == "mixup", "gt_tau"] -= 0.3
    found = effects(results, TAU).set_index("arm")["verdict"]
    assert dict(found) == {"sam": "helps", "mixup": "hurts", "cutout": "no evidence"}
    smaller_is_better = effects(results, {"gt_tau": "min"}).set_index("arm")["verdict"]
    assert dict(smaller_is_better) == {"sam": "hurts", "mixup": "helps", "cutout": "no evidence"}


def test_holm_runs_within_a_metric() -> None:
    results = noise(np.random.default_rng(4), ["base", "sam", "mixup"], 6)
    results["loss"] = results["gt_tau"].to_numpy()[::-1]
    both = effects(results, {"gt_tau": "max", "loss": "min"})
    assert list(both["metric"]) == ["gt_tau", "gt_tau", "loss", "loss"]
    pd.testing.assert_frame_equal(both[:2], effects(results, TAU))


def test_failed_missing_and_non_finite_trials_leave_their_pairs_out() -> None:
    results = noise(np.random.default_rng(5), ["base", "sam", "mixup"], 8)
    whole = effects(results, TAU).set_index("arm")
    broken = results.copy()
    broken.loc[(broken["arm"] == "base") & (broken["seed"] == 0), ["status", "seconds"]] = ["failed", np.nan]
    broken.loc[(broken["arm"] == "sam") & (broken["seed"] == 1), "gt_tau"] = np.nan
    broken.loc[(broken["arm"] == "sam") & (broken["seed"] == 2), "gt_tau"] = np.inf
    broken = broken[(broken["arm"] != "sam") | (broken["seed"] != 3)]
    found = effects(broken, TAU).set_index("arm")
    kept = effects(results[results["seed"] > 3], TAU).set_index("arm")
    assert found.loc["sam", "n"] == 4
    assert found.loc["sam", "verdict"] == "too few seeds"
    assert found.loc["sam", "p"] == pytest.approx(kept.loc["sam", "p"])
    assert found.loc["sam", "mean"] == pytest.approx(kept.loc["sam", "mean"])
    assert found.loc["mixup", "n"] == 7
    assert whole.loc["mixup", "n"] == 8


def test_an_arm_that_only_failed_has_an_empty_row() -> None:
    results = noise(np.random.default_rng(6), ["base", "sam", "mixup"], 6)
    results.loc[results["arm"] == "sam", "status"] = "failed"
    row = effects(results, TAU).set_index("arm").loc["sam"]
    assert row["n"] == 0
    assert row["verdict"] == "too few seeds"
    assert row[["mean", "difference", "ci_low", "p", "p_holm", "p_exact", "seconds_ratio", "seeds_needed"]].isna().all()
    # It takes no part in the correction of the others.
    other = effects(results, TAU).set_index("arm").loc["mixup"]
    assert other["p_holm"] == other["p"]


def test_one_seed_and_four_seeds_are_too_few_even_for_a_huge_effect() -> None:
    one = effects(table({"base": [0.1], "sam": [0.9]}), TAU).loc[0]
    assert one["difference"] == pytest.approx(0.8)
    assert one["p_exact"] == 1.0
    assert np.isnan(one["p"])
    assert one["verdict"] == "too few seeds"
    four = effects(table({"base": [0.1, 0.1, 0.1, 0.1], "sam": [0.9, 0.91, 0.92, 0.9]}), TAU).loc[0]
    assert four["p_holm"] < 0.001
    assert four["verdict"] == "too few seeds"


def test_identical_arms_never_help() -> None:
    row = effects(table({"base": [0.1, 0.2, 0.3, 0.4, 0.5], "sam": [0.1, 0.2, 0.3, 0.4, 0.5]}), TAU).loc[0]
    assert (row["difference"], row["p"], row["p_holm"], row["p_exact"]) == (0, 1, 1, 1)
    assert row["verdict"] == "no evidence"
    assert pd.isna(row["seeds_needed"])
    # Equal up to the rounding of float32 is equal too.
    close = effects(table({"base": [0.1, 0.2, 0.3, 0.4, 0.5], "sam": list(np.float32([0.1, 0.2, 0.3, 0.4, 0.5]))}), TAU)
    assert close.loc[0, "verdict"] == "no evidence"
    assert close.loc[0, "p"] == 1


@pytest.mark.parametrize(("n", "verdict"), [(5, "no evidence"), (8, "helps")])
def test_a_constant_difference_is_judged_by_its_signs(n: int, verdict: str) -> None:
    base = np.linspace(0.1, 0.5, n)
    row = effects(table({"base": list(base), "sam": list(base + 0.05)}), TAU).loc[0]
    assert row["p"] == 0
    assert row["p_holm"] == row["p_exact"] == 2 / 2**n
    assert (row["ci_low"], row["ci_high"]) == pytest.approx((0.05, 0.05))
    assert row["seeds_needed"] == 2
    assert row["verdict"] == verdict


def test_seconds_ratio_is_a_ratio_of_means_over_the_pairs() -> None:
    results = table({"base": [0.1, 0.2, 0.3], "sam": [0.2, 0.2, 0.4]}, {"base": 2.0, "sam": 3.0})
    results.loc[(results["arm"] == "sam") & (results["seed"] == 2), "seconds"] = 6.0
    assert effects(results, TAU).loc[0, "seconds_ratio"] == pytest.approx(4 / 2)


def test_seeds_needed_equals_published_power_tables() -> None:
    # G*Power, paired t-test, two-sided, 5 %, 80 %: Cohen's small, medium, large and 1.0.
    np.testing.assert_array_equal(seeds_needed([0.2, 0.5, 0.8, 1.0, -0.5]), [199, 34, 15, 10, 34])
    np.testing.assert_array_equal(seeds_needed([np.inf, 1e12, 0.0, np.nan, 1e-9]), [2, 2, np.nan, np.nan, np.nan])
    assert seeds_needed([]).shape == (0,)


def test_seeds_needed_holds_in_a_simulation() -> None:
    draws = np.random.default_rng(0).normal(1.2, 1.0, (20_000, int(seeds_needed([1.2])[0])))
    power = np.mean(stats.ttest_1samp(draws, 0, axis=1).pvalue < 0.05)
    fewer = np.mean(stats.ttest_1samp(draws[:, 1:], 0, axis=1).pvalue < 0.05)
    assert power > 0.79
    assert fewer < 0.80


def test_seeds_needed_is_a_whole_number_or_empty_in_a_csv(tmp_path: Path) -> None:
    base = [0.1, 0.25, 0.3, 0.4, 0.5]
    found = effects(table({"base": base, "same": base, "sam": [0.2, 0.3, 0.4, 0.5, 0.7]}), TAU)
    found.to_csv(tmp_path / "effects.csv", index=False)
    cells = [line.split(",")[-2] for line in (tmp_path / "effects.csv").read_text().splitlines()[1:]]
    assert cells[0] == ""
    assert cells[1].isdigit()


def test_an_interaction_is_the_effect_of_a_difference_of_differences() -> None:
    results = noise(np.random.default_rng(7), CROSSED, 6)
    found = interactions(results, TAU, QUADRUPLES)
    assert list(found.columns) == COLUMNS
    assert list(found["arm"]) == [name for name, *_ in QUADRUPLES]
    wide = results.pivot(index="seed", columns="arm", values="gt_tau")
    for row, (_, first, second, both) in zip(found.to_dict("records"), QUADRUPLES, strict=True):
        test = stats.ttest_1samp(wide[both] - wide[second] - wide[first] + wide["base"], 0)
        assert row["p"] == pytest.approx(test.pvalue)
        assert row["mean"] == pytest.approx(wide[both].mean())
    np.testing.assert_allclose(found["p_holm"], holm(found["p"]))


def test_an_interaction_that_is_there_is_found_and_additive_effects_are_none() -> None:
    results = noise(np.random.default_rng(8), CROSSED, 8)
    results.loc[results["arm"].str.contains("bn_calibration"), "gt_tau"] += 0.3
    assert not claims(interactions(results, TAU, QUADRUPLES))
    results.loc[results["arm"] == "sam+bn_calibration", "gt_tau"] += 0.5
    found = interactions(results, TAU, QUADRUPLES).set_index("arm")["verdict"]
    assert found["sam x bn_calibration"] == "helps"
    assert found["mixup x bn_calibration"] == "no evidence"
    assert interactions(results, {"gt_tau": "min"}, QUADRUPLES)["verdict"][0] == "hurts"


def test_no_quadruples_and_no_arms_give_empty_tables() -> None:
    results = table({"base": [0.1, 0.2]})
    for found in (effects(results, TAU), interactions(results, TAU, [])):
        assert list(found.columns) == COLUMNS
        assert len(found) == 0
    alone = ["gt_tau (higher is better, 0 paired seeds): no arm beside base."]
    assert answer(effects(results, TAU), interactions(results, TAU, []), TAU) == alone
    assert answer(effects(results, TAU), None, TAU) == alone


@pytest.mark.parametrize(("arms", "seeds"), [(6, 5), (9, 8)])
def test_at_most_seven_percent_of_ablations_without_effect_claim_one(arms: int, seeds: int) -> None:
    rng = np.random.default_rng(1)
    names = ["base", *(f"trick_{i}" for i in range(arms))]
    share = np.mean([claims(effects(noise(rng, names, seeds), TAU)) for _ in range(500)])
    # Not zero either: a test that never claims would pass a bound from above.
    assert 0.005 <= share <= 0.07


def test_at_most_seven_percent_of_crossed_ablations_without_effect_claim_an_effect_or_an_interaction() -> None:
    rng = np.random.default_rng(2)
    pairs = [judge(noise(rng, CROSSED, 8), TAU, QUADRUPLES) for _ in range(500)]
    share = np.mean([claims(alone) or claims(crossed) for alone, crossed in pairs])
    assert 0.005 <= share <= 0.07


def test_judging_together_corrects_over_effects_and_interactions() -> None:
    results = noise(np.random.default_rng(3), CROSSED, 8)
    alone, crossed = judge(results, TAU, QUADRUPLES)
    p = np.concatenate([alone["p"], crossed["p"]])
    assert np.concatenate([alone["p_holm"], crossed["p_holm"]]) == pytest.approx(holm(p))
    assert alone.drop(columns=["p_holm", "verdict"]).equals(effects(results, TAU).drop(columns=["p_holm", "verdict"]))


SCALE = {"base": 0.5, "FLOPs": 0.683, "noise ceiling": 0.903}


def told(results: pd.DataFrame, metrics: dict[str, str] = TAU) -> list[str]:
    return answer(effects(results, metrics), interactions(results, metrics, QUADRUPLES), metrics, SCALE)


def test_the_answer_names_what_helps_hurts_and_depends(tmp_path: Path) -> None:
    results = noise(np.random.default_rng(9), CROSSED, 8)
    results.loc[results["arm"].str.contains("bn_calibration"), "gt_tau"] += 0.3
    results.loc[results["arm"] == "mixup", "gt_tau"] -= 0.4
    results.loc[results["arm"] == "sam", "gt_tau"] += 0.4
    lines = told(results)
    assert lines[0].startswith("gt_tau (higher is better, 8 paired seeds): bn_calibration helps (+0.3")
    assert "mixup hurts (-0." in lines[0]
    assert "no evidence for ghost_batch_norm, drop_path" in lines[0]
    assert "p_holm < 0.001" in lines[0]
    assert "1.00 x the time" in lines[0]
    depends = next(line for line in lines if line.startswith("It depends: sam changes gt_tau by +0."))
    wide = results.pivot(index="seed", columns="arm", values="gt_tau").mean()
    along = wide["sam+bn_calibration"] - wide["bn_calibration"]
    assert f"but by {along:+.3g} with it" in depends
    assert any("seeds needed" in line and "drop_path about" in line for line in lines)
    assert lines[-1] == "For scale, gt_tau: base 0.5, FLOPs 0.683, noise ceiling 0.903."
    # The same answer from tables that were written and read back.
    effects(results, TAU).to_csv(tmp_path / "e.csv", index=False)
    interactions(results, TAU, QUADRUPLES).to_csv(tmp_path / "i.csv", index=False)
    again = answer(pd.read_csv(tmp_path / "e.csv"), pd.read_csv(tmp_path / "i.csv"), TAU, SCALE)
    assert again == lines


def test_the_answer_claims_only_what_the_tables_hold() -> None:
    rng = np.random.default_rng(10)
    for _ in range(20):
        results = noise(rng, CROSSED, 6)
        found, crossed = effects(results, TAU), interactions(results, TAU, QUADRUPLES)
        lines = answer(found, crossed, TAU)
        claimed = [row["arm"] for row in found.to_dict("records") if row["verdict"] in ("helps", "hurts")]
        told_of = [arm for arm in CROSSED for line in lines if f" {arm} helps (" in line or f" {arm} hurts (" in line]
        assert sorted(told_of) == sorted(claimed)
        assert sum(line.startswith("It depends") for line in lines) == crossed["verdict"].isin(["helps", "hurts"]).sum()


def test_the_answer_claims_for_the_first_metric_alone() -> None:
    results = noise(np.random.default_rng(11), CROSSED, 6)
    results["loss"] = results["gt_tau"] + 3.0 * (results["arm"] == "sam")
    lines = told(results, {"gt_tau": "max", "loss": "min"})
    assert not any("loss" in line or "sam hurts" in line for line in lines)
    assert "sam hurts" in told(results, {"loss": "min", "gt_tau": "max"})[0]


def test_the_answer_says_when_seeds_are_few() -> None:
    results = noise(np.random.default_rng(12), CROSSED, 3)
    results.loc[results["arm"] == "sam", "gt_tau"] += 5
    lines = told(results)
    assert "too few seeds for" in lines[0]
    assert not any(" helps (" in line for line in lines)
    assert any(line.startswith("Few seeds: nothing is judged") for line in lines)
    five = noise(np.random.default_rng(13), CROSSED, 5)
    five.loc[five["arm"] == "sam", "gt_tau"] += 5
    assert any("0.0625" in line for line in told(five))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda r: r.drop(columns="seed"), "lack the column 'seed'"),
        (lambda r: r[r["arm"] != "base"], "no arm 'base'"),
        (lambda r: r.assign(status="finished"), "unknown status 'finished'"),
        (lambda r: pd.concat([r, r[:1]]), "more than once"),
        (lambda r: r.assign(gt_tau="high"), "not numeric"),
        (lambda r: r.rename(columns={"gt_tau": "gt_tua"}), "did you mean 'gt_tua'"),
    ],
)
def test_wrong_results_are_refused(change, match: str) -> None:  # type: ignore[no-untyped-def]
    results = noise(np.random.default_rng(0), ["base", "sam"], 5)
    with pytest.raises(InputError, match=match):
        effects(change(results), TAU)


def test_wrong_settings_are_refused() -> None:
    results = noise(np.random.default_rng(0), CROSSED, 5)
    with pytest.raises(InputError, match="direction 'up'"):
        effects(results, {"gt_tau": "up"})
    for metrics, confidence in ((TAU, 1.0), (TAU, 0.0), ({}, 0.95)):
        with pytest.raises(InputError, match="confidence"):
            effects(results, metrics, confidence)
    with pytest.raises(InputError, match="did you mean 'sam'"):
        interactions(results, TAU, [("samm x mixup", "samm", "mixup", "sam+bn_calibration")])
    with pytest.raises(InputError, match="repeat a name"):
        interactions(results, TAU, [QUADRUPLES[0], QUADRUPLES[0]])
    with pytest.raises(InputError, match="metrics are empty"):
        answer(effects(results, TAU), None, {})


def test_no_torch_is_imported() -> None:
    code = "import sys, nastricks.ablation.answer; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
