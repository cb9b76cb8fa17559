"""Questions of an ablation: each kind against numbers known beforehand, bad YAML in one sentence, and the page."""

import itertools
import json
from pathlib import Path
from pydoc import locate
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from jsonargparse import Namespace
from scipy import stats

from nastricks.ablation.design import read_design
from nastricks.ablation.evidence import Evidence, read_evidence
from nastricks.ablation.plan import arm_config
from nastricks.ablation.questions import Answered, answered, write_answers
from nastricks.ablation.questions.agreement import Taus
from nastricks.ablation.questions.base import Interval, jackknife, over_seeds
from nastricks.ablation.questions.favours import correlation, partial_correlation
from nastricks.ablation.questions.interference import by_distance, changes, saw_tooth
from nastricks.ablation.report import write_report
from nastricks.errors import InputError
from nastricks.moment import Moment
from nastricks.ranking.metrics import GTTauMeanK, GTTauStdK, kendall_tau, s_tau
from nastricks.rng import generator
from nastricks.spaces import WeightSharing64

CHILDREN = ["".join(code) for code in itertools.product("1234", repeat=3)]
OPERATIONS = {"1": "pool", "2": "sep3", "3": "sep5", "4": "identity"}
TRUTH = np.array([0.5 + 0.001 * (7 * i % 64) for i in range(64)])
PARAMS = np.array([10.0 * sum(map(int, child)) for child in CHILDREN])


def noise(*key: object, n: int = 64) -> np.ndarray[Any, Any]:
    return np.asarray(torch.randn(n, generator=generator(*key), dtype=torch.float64).numpy())


def ablation(
    folder: Path,
    scores: dict[str, list[np.ndarray[Any, Any]]],
    questions: dict[str, Any],
    metrics: dict[str, list[float]] | None = None,
) -> Evidence:
    """A finished ablation with these accuracies of 64 children, an arm and seed; gt_tau is theirs unless given."""
    rows = []
    for arm, instances in scores.items():
        for seed, accuracy in enumerate(instances):
            run = folder / "trials" / arm / f"seed={seed}"
            run.mkdir(parents=True)
            table = {"architecture": CHILDREN, "accuracy": accuracy, "loss": 1 - accuracy, "params": PARAMS}
            pd.DataFrame({**table, "flops": PARAMS**2, "truth": TRUTH}).to_csv(run / "ranking.csv", index=False)
            tau = metrics[arm][seed] if metrics else kendall_tau(accuracy, TRUTH)
            result = {"arm": arm, "seed": seed, "status": "done", "seconds": 1.0, "metrics": {"gt_tau": tau}}
            result |= {"baselines": {"params": {"gt_tau": 0.55}}, "noise_ceiling": 0.9, "peak_memory_mb": 1.0}
            (run / "result.json").write_text(json.dumps(result))
            rows.append({key: result[key] for key in ("arm", "seed", "status", "seconds")} | {"gt_tau": tau})
    pd.DataFrame(rows).to_csv(folder / "results.csv", index=False)
    options = {"architecture": CHILDREN}
    options |= {f"layer{i + 1}": [OPERATIONS[child[i]] for child in CHILDREN] for i in range(3)}
    pd.DataFrame(options).to_csv(folder / "options.csv", index=False)
    config = {"name": "study", "metrics": {"gt_tau": "max"}, "seeds": list(range(len(next(iter(scores.values())))))}
    config |= {"arms": {arm: {} for arm in scores}, "questions": questions}
    (folder / "ablation.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    return read_evidence(folder)


def only(evidence: Evidence) -> Answered:
    ((_, answer),) = answered(evidence)
    return answer


def test_the_jackknife_of_a_mean_is_the_t_interval() -> None:
    values = [0.3, 0.5, 0.4, 0.9]
    interval = jackknife(values, lambda chosen: float(np.mean(chosen)))
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert interval == pytest.approx(over_seeds(values))
    assert (interval.low, interval.high) == pytest.approx((low, high))
    assert interval.n == 4
    assert not np.isfinite(jackknife(values[:2], lambda chosen: float(np.mean(chosen))).low)


def test_outcomes_need_the_whole_interval_on_one_side() -> None:
    assert Interval(0.2, 0.1, 0.3, 5).outcome == "higher"
    assert Interval(-0.2, -0.3, -0.1, 5).outcome == "lower"
    assert Interval(0.2, -0.1, 0.3, 5).outcome == "unclear"
    assert over_seeds([0.2]).outcome == "unclear"


def test_stability_is_s_tau_with_the_truth_beside_it(tmp_path: Path) -> None:
    steady = [TRUTH + 0.001 * noise("steady", i) for i in range(5)]
    loose = [TRUTH + 0.05 * noise("loose", i) for i in range(5)]
    question = {"kind": "stability", "asks": "How stable?", "sources": {"all": "base", "little": "held"}}
    question["published_rows"] = {"ten instances": {"S-Tau": 0.54, "its spread": 0.148}}
    answer = only(ablation(tmp_path, {"base": loose, "held": steady}, {"stable": question}))
    (table,) = answer.tables.values()
    published, counted = table.iloc[3], table.iloc[2]
    assert (published["what differs"], published["S-Tau"]) == ("published: ten instances", 0.54)
    assert (published["its spread"], counted["what differs"], counted["GT-Tau"]) == (0.148, "parameter count", 0.55)
    assert np.isnan([published["GT-Tau"], counted["S-Tau"]]).all()
    table = table.iloc[:2]
    assert table["S-Tau"].tolist() == pytest.approx([s_tau(loose), s_tau(steady)])
    assert table["GT-Tau"].iloc[0] == pytest.approx(np.mean([kendall_tau(own, TRUTH) for own in loose]))
    assert (table["low"] < table["S-Tau"]).all()
    pairs = [kendall_tau(a, b) for a, b in itertools.combinations(loose, 2)]
    assert (table["least"].iloc[0], table["most"].iloc[0]) == pytest.approx((min(pairs), max(pairs)))
    assert "little +" in answer.lines[1]  # it moves the ranking less
    assert answer.lines[-1] == "For scale, gt_tau: parameters 0.550, noise ceiling 0.900."


def comparison(**more: Any) -> dict[str, Any]:
    said = {"higher": "Yes", "lower": "No", "unclear": "Not shown"}
    return {"kind": "compare", "asks": "Better?", "pairs": [["a", "b"], ["c", "d"]], "answers": said, **more}


def compared(folder: Path, values: dict[str, list[float]], **more: Any) -> Answered:
    scores = {arm: [TRUTH] * len(own) for arm, own in values.items()}
    return only(ablation(folder, scores, {"q": comparison(**more)}, values))


def test_pairs_are_judged_apart_and_on_average(tmp_path: Path) -> None:
    wiggle = [0.0, 0.01, -0.01, 0.02, -0.02]
    values = {
        "base": [0.5] * 5,
        "a": [0.7 + w for w in wiggle],
        "b": [0.6] * 5,
        "c": [0.53 - w for w in wiggle],
        "d": [0.5] * 5,
    }
    answer = compared(tmp_path, values)
    assert answer.decides == pytest.approx(Interval(0.065, 0.065, 0.065, 5))  # the wiggles cancel, seed by seed
    assert answer.lines[0].startswith("Yes: +0.065")
    judged = answer.tables["differences, same seeds, Holm over these pairs"].set_index("pair")
    assert judged["difference"].to_dict() == pytest.approx({"a against b": 0.1, "c against d": 0.03})
    assert judged["verdict"].to_dict() == {"a against b": "helps", "c against d": "helps"}
    t = 0.03 / (np.std(wiggle, ddof=1) / np.sqrt(5))
    assert judged.loc["c against d", "p_holm"] == pytest.approx(2 * stats.t.sf(t, 4))  # the larger p stays
    assert compared(tmp_path / "2", values, decides="c against d").lines[0].startswith("Yes: +0.030")


def test_nothing_is_answered_from_too_few_seeds(tmp_path: Path) -> None:
    values = {arm: [0.5 + 0.1 * i] * 4 for i, arm in enumerate(("base", "b", "a", "d", "c"))}
    answer = compared(tmp_path, values)
    assert answer.lines[0] == "Too few seeds to tell, 5 are needed: +0.100 (+0.100 to +0.100, n 4)."


def test_a_line_has_a_slope_a_step(tmp_path: Path) -> None:
    values = {arm: [0.5 - 0.02 * i + 0.001 * s for s in range(5)] for i, arm in enumerate(("base", "a", "b", "c", "d"))}
    line = {1: "base", 2: "a", 4: "b", 8: "c", 16: "d"}
    answer = compared(tmp_path, values, lines={"groups": line}, x="doublings", decides="groups", pairs=[])
    assert answer.lines[0] == "No: −0.020 (−0.020 to −0.020, n 5)."
    assert "groups: gt_tau changes by −0.020" in answer.lines[1]
    falling = "it is highest at 1, 0.502 (0.500 to 0.504, n 5), and changes by −0.080 (−0.080 to −0.080, n 5) up to 16"
    assert falling in answer.lines[1]
    turned = compared(tmp_path / "2", values, lines={"up": dict(reversed(line.items()))}, decides="up", pairs=[])
    assert "it is highest at the last, 1: 0.502" in turned.lines[1]
    assert set(answer.figures) == {"lines", "arms"}
    assert list(answer.figures["lines"].data[0].x) == ["1", "2", "4", "8", "16"]


def test_a_difference_of_differences(tmp_path: Path) -> None:
    wiggle = [0.0, 0.01, -0.01, 0.02, -0.02]
    values = {"base": [0.5] * 5, "a": [0.7 + w for w in wiggle], "b": [0.6] * 5, "c": [0.52] * 5, "d": [0.5] * 5}
    crossed = [[["a", "b"], ["c", "d"]]]
    answer = compared(tmp_path, values, interactions=crossed, decides="interactions")
    assert answer.decides == pytest.approx(over_seeds([0.08 + w for w in wiggle]))
    assert answer.lines[0].startswith("Yes: +0.080")
    assert "a against b, beyond c against d: +0.080" in answer.lines[2]


def test_published_figures_stand_beside_the_measured_ones(tmp_path: Path) -> None:
    values = {arm: [0.5, 0.6] for arm in ("base", "a", "b", "c", "d")}
    answer = compared(tmp_path, values, published={"a": 0.343}, lines={"m": {1: "a", 2: "b", 3: "c"}})
    table = next(iter(answer.tables.values())).set_index("arm")
    assert table.loc["a", "published"] == 0.343
    assert np.isnan(table.loc["b", "published"])
    assert [trace.name for trace in answer.figures["lines"].data] == ["m", "m, published"]


def test_agreement_compares_different_seeds_alone(tmp_path: Path) -> None:
    scores = {arm: [TRUTH + 0.02 * noise(arm, s) for s in range(3)] for arm in ("base", "long")}
    question = {"kind": "agreement", "asks": "Predicts?", "rankings": {"10": "base", "20": "long"}}
    evidence = ablation(tmp_path, scores, {"budgets": question})
    taus = Taus(evidence, {"10": "base", "20": "long"})
    assert taus.between("10", "10").mean == pytest.approx(s_tau(scores["base"]))
    pairs = [kendall_tau(scores["base"][a], scores["long"][b]) for a in range(3) for b in range(3) if a != b]
    assert taus.between("10", "20").mean == pytest.approx(np.mean(pairs))
    assert taus.between("20", "truth").mean == pytest.approx(np.mean([kendall_tau(s, TRUTH) for s in scores["long"]]))
    (grid,) = answered(evidence)[0][1].figures.values()
    assert list(grid.data[0].x) == ["10", "20", "truth"]
    assert grid.data[0].z[0][1] == grid.data[0].z[1][0]


def test_a_taste_is_found_and_regression_to_the_mean_is_not_one(tmp_path: Path) -> None:
    question = {"kind": "favours", "asks": "What?", "arm": "base"}
    bonus = np.array([0.03 * child.count("3") for child in CHILDREN])
    tasteful = [TRUTH + bonus + 0.005 * noise("taste", s) for s in range(6)]
    answer = only(ablation(tmp_path / "taste", {"base": tasteful}, {"q": question}))
    (table,) = answer.tables.values()
    table = table.set_index("feature")
    assert table.loc["sep5 anywhere", "at equal true rank"] > 0.8
    assert table["at equal true rank"].idxmax() == "sep5 anywhere"
    assert "ranks too high those with more of sep5 anywhere" in answer.lines[0]
    assert {f"{option} at layer{i}" for i in (1, 2, 3) for option in OPERATIONS.values()} <= set(table.index)
    ignorant = [noise("ignorant", s) for s in range(6)]
    answer = only(ablation(tmp_path / "none", {"base": ignorant}, {"q": question}))
    assert answer.lines[0].startswith("No taste of the supernet's own is shown")


def test_partial_correlation_is_that_of_what_regression_leaves() -> None:
    x, y, z = noise("x"), noise("y"), noise("z")
    x, y = x + z, y - 0.5 * z + 0.3 * x
    left = [values - np.polyval(np.polyfit(z, values, 1), z) for values in (x, y)]
    assert partial_correlation(x, y, z) == pytest.approx(np.corrcoef(*left)[0, 1])
    assert correlation(x, y) == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert correlation(x, np.ones(64)) == 0


def log_of(names: list[str], after: np.ndarray[Any, Any]) -> pd.DataFrame:
    """An interference.csv: before, all losses are 1; then `after` (trained, scored)."""
    rows = [("", name, 0.5, 1.0) for name in names]
    rows += [(a, b, 0.5, after[i, j]) for i, a in enumerate(names) for j, b in enumerate(names)]
    return pd.DataFrame(rows, columns=["trained", "architecture", "accuracy", "loss"])


def test_interference_by_hand(tmp_path: Path) -> None:
    names = ["111", "112", "122", "222"]
    after = np.array([[0.6, 0.9, 1.1, 1.2], [0.9, 0.6, 0.9, 1.1], [1.1, 0.9, 0.6, 0.9], [1.2, 1.1, 0.9, 0.6]])
    grid = changes(log_of(names, after), "loss")
    assert grid.to_numpy() == pytest.approx(after - 1)
    options = pd.DataFrame({f"layer{i}": [name[i] for name in names] for i in range(3)}, index=names)
    found = by_distance([grid, grid], options)
    means = {what: interval.mean for what, interval in found.items()}
    assert means["the child itself"] == pytest.approx(-0.4)
    assert means["differ in 1 of 3 choices"] == pytest.approx(-0.1)
    assert means["differ in 2 of 3 choices"] == pytest.approx(0.1)
    assert means["differ in 3 of 3 choices"] == pytest.approx(0.2)
    question = {"kind": "interference", "asks": "Raise or lower?", "arm": "base"}
    evidence = ablation(tmp_path, {"base": [TRUTH, TRUTH]}, {"q": question})
    for seed in (0, 1):
        log_of(names, after).to_csv(tmp_path / f"trials/base/seed={seed}/interference.csv", index=False)
    answer = only(evidence)
    assert "changes its own loss by −0.400" in answer.lines[0]
    assert "a share of 0.500 (0.500 to 0.500, n 2) of the other children gets worse" in answer.lines[0]
    assert np.shape(answer.figures["change of loss (nats)"].data[0].z) == (4, 4)
    small = log_of(names, 1 + (after - 1) / 1000)
    for seed in (0, 1):
        small.to_csv(tmp_path / f"trials/base/seed={seed}/interference.csv", index=False)
    told = only(read_evidence(tmp_path)).lines[0]
    assert "its own loss by −0.00040 (−0.00040 to −0.00040, n 2) and that of another child by +0.00002" in told
    assert "−0.0004</td>" in write_report(tmp_path).read_text()


def test_a_saw_tooth_is_read_off_a_fixed_order() -> None:
    rows = []
    for step in range(65, 65 + 128):  # batch number `step`, counted from 1, trained child (step - 1) mod 64
        for place, child in enumerate(CHILDREN):
            age = (step - 1 - place) % 64
            rows.append((step, child, 0.8 + 0.001 * place - 0.002 * age, 0.5 + 0.01 * age))
    tooth = saw_tooth(pd.DataFrame(rows, columns=["step", "architecture", "accuracy", "loss"]), CHILDREN)
    assert list(tooth.index) == list(range(64))
    assert np.diff(tooth["accuracy"]) == pytest.approx(-0.002)
    assert np.diff(tooth["loss"]) == pytest.approx(0.01)


def test_the_last_moments_agree_with_the_metrics(tmp_path: Path) -> None:
    question = {"kind": "over_time", "asks": "Steady?", "arm": "base", "k": 4}
    evidence = ablation(tmp_path, {"base": [TRUTH, TRUTH]}, {"q": question})
    for seed in (0, 1):
        rows = [
            (step, step / 10, "last batches", child, accuracy)
            for step in range(1, 7)
            for child, accuracy in zip(CHILDREN, TRUTH + 0.02 * noise("time", seed, step), strict=True)
        ]
        log = pd.DataFrame(rows, columns=["step", "epoch", "series", "architecture", "accuracy"])
        log.to_csv(tmp_path / f"trials/base/seed={seed}/ranking_over_time.csv", index=False)
    answer = only(evidence)
    (table,) = answer.tables.values()
    mean, spread, instances = [], [], []
    for seed in (0, 1):
        average, deviation = GTTauMeanK(4), GTTauStdK(4)
        rankings = [TRUTH + 0.02 * noise("time", seed, step) for step in range(1, 7)]
        for ranking in rankings:
            average.update(torch.tensor(ranking), torch.tensor(TRUTH))
            deviation.update(torch.tensor(ranking), torch.tensor(TRUTH))
        mean.append(float(average.compute()))
        spread.append(float(deviation.compute()))
        instances.append(s_tau(rankings[-4:]))
    expected = [np.mean(mean), np.mean(spread), np.mean(instances)]
    assert table["mean"].tolist() == pytest.approx(expected, abs=1e-6)
    lines = {trace.name for trace in answer.figures["the last batches"].data}
    running = {"GT-Tau-Mean-6", "GT-Tau-Std-6", "S-Tau of the last 6"}  # there are no more moments
    assert lines == {"GT-Tau", "tau with the last of these moments", "S-Tau among trainings", *running}
    drawn = {trace.name: list(trace.y) for trace in answer.figures["the last batches"].data}
    assert drawn["S-Tau of the last 6"][:5] == [None] * 5
    whole = [[TRUTH + 0.02 * noise("time", seed, step) for step in range(1, 7)] for seed in (0, 1)]
    assert drawn["S-Tau of the last 6"][5] == pytest.approx(np.mean([s_tau(own) for own in whole]))


def test_a_curve_of_fine_tuning_is_gt_tau_at_each_number_of_batches(tmp_path: Path) -> None:
    said = {"higher": "Yes", "lower": "No", "unclear": "Not shown"}
    question = {"kind": "fine_tuning", "asks": "Restored?", "arm": "base", "answers": said}
    evidence = ablation(tmp_path, {"base": [TRUTH] * 5}, {"q": question})
    taus: dict[int, list[float]] = {0: [], 5: []}
    for seed in range(5):
        rows = []
        for batches, size in ((0, 0.05), (5, 0.005)):
            scores = TRUTH + size * noise("tuned", seed, batches)
            taus[batches].append(kendall_tau(scores, TRUTH))
            rows += [(child, batches, score, 1 - score) for child, score in zip(CHILDREN, scores, strict=True)]
        log = pd.DataFrame(rows, columns=["architecture", "batches", "accuracy", "loss"])
        log.to_csv(tmp_path / f"trials/base/seed={seed}/fine_tuned_children.csv", index=False)
    answer = only(evidence)
    (table,) = answer.tables.values()
    expected = [np.mean(taus[0]), np.mean(taus[5])]
    assert table[table["ranked"] == "by accuracy"]["GT-Tau"].tolist() == pytest.approx(expected)
    assert table[table["ranked"] == "by loss"]["GT-Tau"].tolist() == pytest.approx(expected)
    assert answer.decides == pytest.approx(over_seeds(np.subtract(taus[5], taus[0])))
    assert answer.lines[0].startswith("Yes: +")


def test_a_question_without_trials_says_so(tmp_path: Path) -> None:
    kinds: dict[str, dict[str, Any]] = {
        "stability": {"sources": {"all": "late"}},
        "compare": {"pairs": [["late", "later"]]},
        "agreement": {"rankings": {"a": "late", "b": "later"}},
        "favours": {"arm": "late"},
        "over_time": {"arm": "late"},
        "fine_tuning": {"arm": "late"},
        "interference": {"arm": "late", "fixed_order": "later"},
    }
    questions = {kind: {"kind": kind, "asks": "Yet?", **own} for kind, own in kinds.items()}
    evidence = ablation(tmp_path, {"base": [TRUTH]}, questions)
    found = answered(evidence)
    assert {answer.lines[0] for _, answer in found} == {"No trial that answers this is done yet."}
    assert len(write_answers(found, tmp_path)) == len(kinds)


STUDIES = {name: Path(f"recipes/ablations/{name}.yaml") for name in ("weight_sharing", "weight_sharing_cifar10")}
# What the study of weight sharing asks, and what each question names that must be told apart.
ASKED: dict[str, set[str]] = {
    "stability": {"other_weights", "other_paths", "other_batches"},
    "over_time": {"watched"},
    "groups": {"base", *(f"{by}_{m}" for by in ("similar", "chance") for m in (2, 4, 8, 16, 32)), "no_sharing"},
    "longer_groups": {"base", "similar_8_long"},
    "prefix": {
        "prefix_0",
        "prefix_0_head",
        "prefix_1",
        "prefix_1_head",
        "prefix_2",
        "prefix_2_head",
        "prefix_3",
        "base",
    },
    "longer": {"base"},
    "longer_by_loss": {"base"},
    "short_predicts_long": {"base"},
    "interference": {"watched", "fixed_order"},
    "calibration": {"base", "no_calibration", "batch_statistics"},
    "fine_tuning": {"watched"},
    "pruning": {"base", "pruned_by_ranking", "pruned_by_chance", "pruned_by_truth"},
    "favours": {"base"},
    "sandwich": {"sandwich", "largest_too", "four_paths"},
    "fairness": {"fairnas", "base", "four_paths"},
    "normalisation": {f"{kind}_{size}" for kind in ("ghost", "group") for size in (16, 64, 256)} | {"base"},
    "normalisation_training": {"group_16", "group_64", "group_256", "base"},
}


def with_logs(folder: Path, arms: dict[str, list[np.ndarray[Any, Any]]]) -> None:
    """What the callbacks of `watched` and `fixed_order` write, made up."""
    for seed in range(len(arms["watched"])):
        run = folder / f"trials/watched/seed={seed}"
        moments = [(64 * e, "epochs") for e in (1, 2, 3)] + [(s, "last batches") for s in (190, 191, 192)]
        moments += [(64 * e, "last epochs") for e in (2, 3)]
        rows = [
            (step, step / 64, series, child, score)
            for step, series in moments
            for child, score in zip(CHILDREN, TRUTH + 0.02 * noise("moment", seed, step), strict=True)
        ]
        columns = ["step", "epoch", "series", "architecture", "accuracy"]
        pd.DataFrame(rows, columns=columns).to_csv(run / "ranking_over_time.csv", index=False)
        log_of(CHILDREN, 1 + 0.1 * noise("trained", seed, n=64 * 64).reshape(64, 64)).to_csv(
            run / "interference.csv", index=False
        )
        tuned = [(c, b, a, 1 - a) for b in (0, 5) for c, a in zip(CHILDREN, TRUTH + noise(b, seed) / 50, strict=True)]
        columns = ["architecture", "batches", "accuracy", "loss"]
        pd.DataFrame(tuned, columns=columns).to_csv(run / "fine_tuned_children.csv", index=False)
        teeth = [
            (s, 0.5, "middle batches", c, a, 1.0) for s in range(65, 129) for c, a in zip(CHILDREN, TRUTH, strict=True)
        ]
        columns = ["step", "epoch", "series", "architecture", "accuracy", "loss"]
        pd.DataFrame(teeth, columns=columns).to_csv(
            folder / f"trials/fixed_order/seed={seed}/ranking_over_time.csv", index=False
        )


@pytest.mark.parametrize("study", STUDIES)
def test_every_question_of_the_study_is_answered_with_intervals_beside_the_baselines(
    study: str, tmp_path: Path
) -> None:
    design = read_design(STUDIES[study])
    assert {q.name: ASKED[q.name] <= set(q.arms()) for q in design.asked} == dict.fromkeys(ASKED, True)
    scores = {arm: [TRUTH + 0.02 * noise(arm, seed) for seed in range(5)] for arm in design.arms}
    ablation(tmp_path, scores, dict(design.questions))
    results = pd.read_csv(tmp_path / "results.csv", dtype={"arm": str})
    for metric in design.metrics:
        results[metric] = results["gt_tau"]
    results.to_csv(tmp_path / "results.csv", index=False)
    config = yaml.safe_load((tmp_path / "ablation.yaml").read_text())
    (tmp_path / "ablation.yaml").write_text(
        yaml.safe_dump({**config, "metrics": dict(design.metrics)}, sort_keys=False)
    )
    with_logs(tmp_path, scores)
    found = answered(read_evidence(tmp_path))
    assert [question.name for question, _ in found] == list(ASKED)
    for question, answer in found:
        intervals = [
            part for line in answer.lines[:-1] for part in line.split("(") if " to " in part and ", n 5)" in part
        ]
        assert intervals, (question.name, answer.lines)
        assert answer.lines[-1].startswith("For scale, ")
        assert "gt_tau: parameters 0.550, noise ceiling 0.900" in answer.lines[-1]
        assert answer.tables
        assert answer.figures
        assert all({"low", "high"} <= set(table.columns) for table in answer.tables.values()), question.name
    pictures = {question.name: answer.figures for question, answer in found}
    assert np.shape(pictures["interference"]["change of loss (nats)"].data[0].z) == (64, 64)
    assert len(pictures["over_time"]) == 3
    assert pictures["groups"]["lines"].layout.xaxis.categoryarray == ("1", "2", "4", "8", "16", "32", "64")
    assert write_report(tmp_path, found).is_file()


def test_the_study_on_cifar10_shows_the_published_figures_and_has_the_published_settings() -> None:
    """Figures and settings of 2001.01431."""
    design = read_design(STUDIES["weight_sharing_cifar10"])
    asked = {question.name: question for question in design.asked}
    groups = {
        f"similar_{m}": tau for m, tau in zip((2, 4, 8, 16, 32), (0.343, 0.708, 0.692, 0.720, 0.736), strict=True)
    }
    groups |= {
        f"chance_{m}": tau for m, tau in zip((2, 4, 8, 16, 32), (0.458, 0.274, 0.254, 0.166, 0.290), strict=True)
    }
    assert asked["groups"].published == {"base": 0.499, **groups}
    taus = (0.696, 0.484, 0.416, 0.445, 0.517)
    assert asked["prefix"].published == {f"prefix_{k}": tau for k, tau in enumerate(taus)}
    told = design.questions["stability"]["published_rows"]
    assert told["ten instances"] == {
        "S-Tau": 0.54, "n": 10, "least": 0.25, "most": 0.80, "GT-Tau": 0.457, "its spread": 0.148
    }  # fmt: skip
    assert told["one training of each child alone"] == {"GT-Tau": 0.799, "its spread": 0.026}
    assert told["parameter count"] == {"GT-Tau": 0.650}
    base = arm_config(design, design.arms["base"], ())
    assert isinstance(base, Namespace)
    space, data, model = base.space.init_args, base.data.init_args, base.model.init_args
    assert (space.channels, space.cells, space.bn_affine, space.bn_momentum) == (16, 4, False, 0.4)
    assert (data.batch_size, base.trainer.max_epochs, space.outer_relu) == (256, 200, False)
    assert model.optimizer.class_path == "torch.optim.SGD"
    sgd = model.optimizer.init_args
    assert (sgd.lr, sgd.momentum, sgd.weight_decay, sgd.nesterov) == (0.025, 0.9, 1e-3, False)
    assert (model.schedule.class_path, model.schedule.init_args.eta_min) == ("nastricks.modules.Cosine", 0.001)
    assert [name for name, trick in vars(base.tricks).items() if trick is not None] == ["bn_calibration"]  # no cutout
    assert (model.gradient_clip_val, model.label_smoothing) == (None, 0.0)
    passes = {"base", "four_paths", "fairnas", "sandwich", "largest_too", "pruned_by_ranking", "other_paths"}
    for arm in passes | ASKED["groups"] | ASKED["prefix"]:
        config = arm_config(design, design.arms[arm], ())
        assert isinstance(config, Namespace)
        policy = config.model.init_args.policy
        made: Any = locate(policy.class_path)
        paths = len(made(WeightSharing64(), **(policy.get("init_args") or {})).propose(Moment("weights", 0, step=0)))
        assert config.trainer.max_epochs * paths == 200, arm


def test_the_page_and_the_tables_hold_the_answers(tmp_path: Path) -> None:
    arms = {"base": 0.01, "held": 0.05}
    scores = {arm: [TRUTH + size * noise(arm, s) for s in range(3)] for arm, size in arms.items()}
    asks = "How <stable> is it?"
    question = {"kind": "stability", "asks": asks, "sources": {"all": "base", "<b>held</b>": "held"}, "note": "A note."}
    evidence = ablation(tmp_path, scores, {"stable": question})
    (sentence,) = write_answers(answered(evidence), tmp_path)
    assert sentence.startswith(asks)
    assert list(pd.read_csv(tmp_path / "questions/stable.csv")["what differs"]) == [
        "all",
        "<b>held</b>",
        "parameter count",
    ]
    page = write_report(tmp_path).read_text()
    assert "How &lt;stable&gt; is it?" in page
    assert "A note." in page
    assert '"question-stable"' in page


BAD = {
    "kind": ({"kind": "stabilty"}, "unknown kind of question q of .*: 'stabilty': did you mean 'stability'"),
    "key": ({"sorces": {}}, "unknown key of question q of .* 'sorces': did you mean 'sources'"),
    "missing": ({"sources": None, "drop": "sources"}, "lacks sources: a question of kind stability needs it"),
    "arm": ({"sources": {"all": "bse"}}, "unknown arm in question q of .* 'bse': did you mean 'base'"),
    "metric": ({"metric": "gt_taw"}, "unknown metric in question q of .* 'gt_taw': did you mean 'gt_tau'"),
    "answers": ({"answers": {"yes": "Yes"}}, "answers of question q of .* are yes: expected higher, lower, unclear"),
    "true": (  # Yes in YAML
        {"answers": {"higher": True, "lower": "No", "unclear": "?"}},
        "answers of question q of .* is .*True.*: expected names, each with a text, as in recipes",
    ),
    "published": (
        {"kind": "compare", "drop": "sources", "pairs": [["sam", "base"]], "published": {"bse": 0.4}},
        "unknown arm in question q of .* 'bse'",
    ),
    "published nowhere": (
        {"published": {"base": 0.4}},
        "question q of .* has published figures of arms, which a question of kind stability does not show",
    ),
    "published rows": (
        {"published_rows": {"ten": {"S-Taw": 0.5}}},
        "unknown column in published_rows 'ten' of question q: 'S-Taw': did you mean 'S-Tau'",
    ),
    "published text": (
        {"published_rows": {"ten": {"S-Tau": "half"}}},
        "published_rows of question q of .* is .*half.*: expected names, each with names, each with a number",
    ),
    "list": ({"sources": ["base"]}, r"sources of question q of .* is \['base'\]: expected names, each with a text"),
    "no list": (
        {"kind": "compare", "drop": "sources", "pairs": ["sam"]},
        r"pairs of question q of .* is \['sam'\]: expected a list of \[a text, a text\]",
    ),
    "three": (
        {"kind": "compare", "drop": "sources", "pairs": [["sam", "base", "base"]]},
        r"pairs of question q of .*: expected a list of \[a text, a text\]",
    ),
    "half": ({"kind": "over_time", "drop": "sources", "arm": "base", "k": 2.5}, "expected a whole number or null"),
    "null": ({"kind": "favours", "drop": "sources", "arm": None}, "arm of question q of .* is None: expected a text"),
    "kind of kinds": ({"kind": ["stability"]}, "unknown kind of question q of"),
    "pairs": ({"kind": "compare", "drop": "sources"}, "question q compares nothing: give pairs, or lines of arms"),
    "decides": (
        {"kind": "compare", "drop": "sources", "pairs": [["sam", "base"]], "decides": "x", "answers": "three"},
        "question q decides by 'x': expected one of pairs, sam against base",
    ),
    "rankings": ({"kind": "agreement", "drop": "sources", "rankings": {"a": "base"}}, "names 1 rankings: expected at"),
    "predicts": (
        {"kind": "agreement", "drop": "sources", "rankings": {"a": "base", "b": "sam"}, "predicts": ["a", "c"]},
        "question q predicts 'c': expected one of a, b",
    ),
    "k": ({"kind": "over_time", "drop": "sources", "arm": "base", "k": 1}, "question q has k 1: expected at least 2"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_questions_are_refused_in_a_sentence(case: str, tmp_path: Path) -> None:
    changed, message = BAD[case]
    question: dict[str, Any] = {"kind": "stability", "asks": "How stable?", "sources": {"all": "base"}, **changed}
    for key in ("drop", question.get("drop")):
        question.pop(str(key), None)
    if question.get("answers") == "three":
        question["answers"] = {"higher": "Yes", "lower": "No", "unclear": "Not shown"}
    content = {
        "stack": ["recipes/spaces/tiny64.yaml"],
        "seeds": 1,
        "arms": {"sam": ["sam"]},
        "questions": {"q": question},
    }
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(InputError, match=message):
        read_design(tmp_path / "study.yaml")
