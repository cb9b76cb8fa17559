"""Ablations of searches and of what a child's training does to the reward."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from nastricks.ablation.answer import answer
from nastricks.ablation.design import read_design
from nastricks.ablation.evidence import read_evidence
from nastricks.ablation.plan import plan
from nastricks.ablation.report import command
from nastricks.ablation.runner import run_ablation
from nastricks.ablation.statistics import effects
from nastricks.errors import InputError
from nastricks.modules import Calibration
from nastricks.ranking.metrics import kendall_tau
from nastricks.recipe import resolve
from nastricks.search import trained_child
from nastricks.search.algorithm import Proposal
from nastricks.search.engine import InProcess
from nastricks.search.reward import Measured
from nastricks.search.trained_child import ChildTask

pytestmark = [
    pytest.mark.xdist_group("ablation_searches"),
    # Lightning 2.6 calls the parser by its old name.
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
]

SEARCHES: dict[str, Any] = {
    "name": "searches",
    "stack": ["recipes/spaces/tiny64.yaml", "recipes/data/digits.yaml", "recipes/search/random_search.yaml"],
    "set": {"search.evaluations": 30, "search.goal": 0.95},
    "arms": {
        "evolution": {"stack": ["recipes/search/evolution.yaml"]},
        "reinforce": {"stack": ["recipes/search/nasnet_reinforce.yaml"]},
        "fast": {
            "against": "reinforce",
            "stack": ["recipes/search/nasnet_reinforce.yaml"],
            "set": {"search.algorithm.init_args.optimizer.init_args.lr": 0.1},
        },
    },
    "seeds": 5,
    "metrics": {
        "mean_best_true": "max",
        "best_true_at_10": "max",
        "best_true_at_20": "max",
        "evaluations_to_goal": "min",
    },
}


def run(folder: Path, content: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "mine.yaml"
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    run_ablation(plan(read_design(file), file), folder / "out", InProcess())
    return folder / "out"


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("searches"), SEARCHES)


def test_every_search_is_a_trial(searched: Path) -> None:
    frame = pd.read_csv(searched / "results.csv")
    assert list(frame["status"]) == ["done"] * 20
    assert set(SEARCHES["metrics"]) <= set(frame.columns)
    place = searched / "trials/reinforce/seed=3"
    assert {"config.yaml", "evaluations.csv", "metrics.csv", "result.json"} <= {p.name for p in place.iterdir()}
    curve = pd.read_csv(place / "metrics.csv")
    assert list(curve["step"]) == list(range(1, 31))
    assert {"best_true", "entropy", "repeats"} <= set(curve.columns)


def test_an_arm_is_judged_against_the_arm_it_names(searched: Path) -> None:
    wide = pd.read_csv(searched / "results.csv").pivot(index="seed", columns="arm", values="mean_best_true")
    judged = pd.read_csv(searched / "effects.csv").query("metric == 'mean_best_true'").set_index("arm")["difference"]
    assert judged["fast"] == pytest.approx((wide["fast"] - wide["reinforce"]).mean())
    assert judged["reinforce"] == pytest.approx((wide["reinforce"] - wide["base"]).mean())
    told = json.loads((searched / "answer.json").read_text())
    assert not any("fast" in line for line in told if line.startswith("mean_best_true"))
    assert any(line.startswith("Against reinforce: ") and "fast" in line for line in told)
    assert "fast (against reinforce)" in set(read_evidence(searched).shown_effects["arm"])
    page = (searched / "report.html").read_text()
    assert "fast (against reinforce)" in page


def test_the_answer_stands_beside_chance_and_the_best(searched: Path) -> None:
    told = json.loads((searched / "answer.json").read_text())[-1]
    assert told.startswith("For scale, mean_best_true: base 0.9")
    assert "chance 0.93" in told
    assert "best of the table 0.966" in told


def test_an_interrupted_ablation_of_searches_ends_the_same(searched: Path, tmp_path: Path) -> None:
    other = run(tmp_path, {**SEARCHES, "seeds": 2})
    again = run(tmp_path, SEARCHES)
    assert other == again
    drop = ["seconds", "peak_memory_mb"]
    pd.testing.assert_frame_equal(
        pd.read_csv(again / "results.csv").drop(columns=drop), pd.read_csv(searched / "results.csv").drop(columns=drop)
    )


def test_a_child_that_cannot_be_measured_fails_its_trial_alone(tmp_path: Path) -> None:
    gaps = tmp_path / "gaps.csv"
    gaps.write_text("architecture,accuracy\n111,0.5\n112,0.6\n")
    arms = {"gaps": {"set": {"search.reward.init_args.table": str(gaps)}}}
    out = run(tmp_path, {**SEARCHES, "arms": arms, "seeds": 1})
    frame = pd.read_csv(out / "results.csv").set_index("arm")
    assert (frame.loc["base", "status"], frame.loc["gaps", "status"]) == ("done", "failed")
    assert "lacks" in (out / "trials/gaps/seed=0/error.txt").read_text()


def test_from_when_on_an_arm_is_better() -> None:
    rng = np.random.default_rng(0)
    rows = []
    gain = {10: 0.0, 50: 0.4, 100: 0.0, 200: 0.4, 500: 0.4}  # helps at 50, not at 100, then for good
    for seed in range(8):
        for arm in ("base", "late", "never"):
            values = {f"best_true_at_{n}": rng.normal(0, 0.01) + (g if arm == "late" else 0.0) for n, g in gain.items()}
            rows.append(
                {
                    "arm": arm,
                    "seed": seed,
                    "status": "done",
                    "seconds": 1.0,
                    "peak_memory_mb": 1.0,
                    **values,
                    "p_at_10": rng.normal(),
                }
            )
    metrics = {f"best_true_at_{n}": "max" for n in gain} | {"p_at_10": "max"}
    told = answer(effects(pd.DataFrame(rows), metrics), None, metrics)
    (line,) = (line for line in told if line.startswith("Better than base by "))
    assert line.endswith("late from 200; up to 500 not shown for never.")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"arms": {"a": {"against": "b", "set": {"search.goal": 0.9}}}}, "did you mean|unknown arm"),
        ({"arms": {"a": {"against": "a", "set": {"search.goal": 0.9}}}}, "against itself"),
        ({"metrics": {"best_true_at_500": "max"}}, "unknown metric"),
        ({"set": {"search.evaluations": 0}}, "evaluations is 0"),
        ({"truth_arm": "longest"}, "unknown truth_arm"),
        ({"truth_arm": "base"}, "how many children"),
        ({"truth_arm": "base", "children": "8", "seeds": 1}, "give two"),
    ],
)
def test_what_cannot_be_is_refused(change: dict[str, Any], match: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({**SEARCHES, **change}))
    with pytest.raises(InputError, match=match):
        plan(read_design(file), file)


def test_what_is_given_with_the_command_changes_the_base_and_not_what_an_arm_says(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({**SEARCHES, "metrics": {"mean_best_true": "max"}}, sort_keys=False))
    design = read_design(file).without(["evolution"])
    planned = plan(design, file, ["recipes/data/digits_1024.yaml"], ["--search.evaluations=20"])
    assert {config.search.evaluations for config in planned.configs.values()} == {20}
    assert {config.data.init_args.train_size for config in planned.configs.values()} == {1024}
    assert planned.configs["fast"].search.algorithm.init_args.optimizer.init_args.lr == 0.1
    out = tmp_path / "out"
    run_ablation(replace(planned, design=replace(design, seeds=(0,))), out, InProcess())
    assert command(yaml.safe_load((out / "ablation.yaml").read_text())) == (
        "nastricks ablate searches.yaml -c recipes/data/digits_1024.yaml --without evolution --search.evaluations=20"
    )


def test_a_trick_of_an_arm_is_not_set_with_the_command(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    content = {"stack": CHILDREN["stack"], "seeds": 5, "arms": {"sam": ["sam"]}, "metrics": {"accuracy": "max"}}
    file.write_text(yaml.safe_dump(content))
    with pytest.raises(InputError, match="says itself in which arms sam is on"):
        plan(read_design(file), file, (), ["--tricks.sam.rho=0.2"])
    planned = plan(read_design(file), file, (), ["--tricks.mixup.alpha=0.5"])
    assert all(config.tricks.mixup.init_args.alpha == 0.5 for config in planned.configs.values())


# What a child's training does to the reward.

CHILDREN = {
    "name": "children",
    "stack": ["recipes/spaces/tiny64.yaml", "recipes/data/digits.yaml", "recipes/child/tiny64.yaml"],
    "arms": {
        "short": {"set": {"trainer.max_epochs": 2}},
        "short_calibrated": {"set": {"trainer.max_epochs": 2}, "tricks": {"bn_calibration": {"batches": 2}}},
    },
    "children": "24",
    "truth_arm": "base",
    "seeds": 3,
    "metrics": {"gt_tau": "max", "mean_accuracy": "max"},
}
ARMS = ("base", "short", "short_calibrated")

Train = Callable[[ChildTask, Sequence[Calibration | None]], list[Measured]]


def killed_after(count: int, train: Train) -> Train:
    """A training that is interrupted once it was called so often."""
    calls: list[str] = []

    def mortal(task: ChildTask, calibrations: Sequence[Calibration | None]) -> list[Measured]:
        if len(calls) == count:
            raise KeyboardInterrupt
        calls.append(task.architecture)
        return train(task, calibrations)

    return mortal


def test_children_are_judged_by_the_other_seeds_of_the_truth_arm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(task: ChildTask, calibrations: Sequence[Calibration | None]) -> list[Measured]:
        rng = np.random.default_rng(
            [task.config.seed_everything, int(task.architecture), task.config.trainer.max_epochs]
        )
        accuracy = int(task.architecture) / 500 + 0.1 * rng.random()
        return [Measured(accuracy + 0.1 * (calibration is not None), 1.0, 0.5) for calibration in calibrations]

    monkeypatch.setattr("nastricks.ablation.trial.train_and_score", killed_after(30, train))
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, CHILDREN)
    # None is trained twice: two trainings a seed for three arms.
    monkeypatch.setattr("nastricks.ablation.trial.train_and_score", killed_after(2 * 3 * 24 - 30, train))
    out = run(tmp_path, CHILDREN)
    read = {
        (arm, seed): pd.read_csv(out / f"trials/{arm}/seed={seed}/ranking.csv", dtype={"architecture": str})
        for arm in ARMS
        for seed in range(3)
    }
    assert all(len(frame) == 24 for frame in read.values())
    results = pd.read_csv(out / "results.csv").set_index(["arm", "seed"])
    for (arm, seed), frame in read.items():
        truth = np.mean([read["base", other]["accuracy"] for other in range(3) if other != seed], axis=0)
        assert frame["truth"].to_numpy() == pytest.approx(truth)
        tau = kendall_tau(frame["accuracy"].to_numpy(), truth)
        assert results.loc[(arm, seed), "gt_tau"] == pytest.approx(tau, abs=1e-6)
        assert {"params", "flops"} <= set(frame.columns)
    told = json.loads((out / "answer.json").read_text())
    means = results["gt_tau"].groupby("arm").mean()
    first = means.sort_values(ascending=False).index[0]
    assert told[1].startswith(f"gt_tau with the other seeds of base, and the time for all children: {first} 0.")
    assert all(f"{arm} {means[arm]:.2f} ± " in told[1] for arm in ARMS)
    assert told[1].count("in 12 s") == 3
    (scale,) = (line for line in told if line.startswith("For scale"))
    assert all(f"{name} " in scale for name in ("base", "parameters", "FLOPs", "chance", "noise ceiling"))
    page = (out / "report.html").read_text()
    assert "its accuracy in base, the truth here" in page
    assert "accuracy of the child (fraction)" in page
    gain = results.loc["short_calibrated", "mean_accuracy"] - results.loc["short", "mean_accuracy"]
    assert gain.to_numpy() == pytest.approx(0.1)
    shared = json.loads((out / "trials/short_calibrated/seed=0/result.json").read_text())["shared_training"]
    assert shared == "short"


def test_children_that_share_a_training_score_as_those_of_their_own(tmp_path: Path) -> None:
    small = {"data.init_args.train_size": 64, "trainer.max_epochs": 2, "trainer.accelerator": "cpu"}
    content = {**CHILDREN, "set": small, "seeds": 2, "children": "2"}
    content["arms"] = {"calibrated": {"tricks": {"bn_calibration": {"batches": 2}}}}
    out = run(tmp_path, content)
    results = pd.read_csv(out / "results.csv").set_index(["arm", "seed"])
    for arm in ("base", "calibrated"):
        config = resolve([out / f"trials/{arm}/seed=1/config.yaml"])
        for row in pd.read_csv(out / f"trials/{arm}/seed=1/ranking.csv", dtype={"architecture": str}).itertuples():
            name = str(row.architecture)
            own = trained_child.train_child(ChildTask(config, Proposal(tuple(int(d) - 1 for d in name)), name))
            assert own.accuracy == pytest.approx(row.accuracy)
            assert own.loss == pytest.approx(row.loss)
    assert not np.allclose(results.loc["base", "mean_loss"], results.loc["calibrated", "mean_loss"])
