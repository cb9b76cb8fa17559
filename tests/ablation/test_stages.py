"""Ablations whose trials run stages: judged by what the last search derives, at the cost of all stages."""

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import pytorch_lightning as pl
import yaml

from nastricks.ablation.design import read_design
from nastricks.ablation.plan import Plan, plan
from nastricks.ablation.runner import run_ablation
from nastricks.ablation.staged import joined_curves
from nastricks.errors import InputError
from nastricks.modules.tracking import finish
from nastricks.ranking.tables import load_table, shipped_table
from nastricks.search.engine import InProcess
from nastricks.stages import Stages

pytestmark = [
    pytest.mark.xdist_group("ablation_stages"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
]

BASE = ["recipes/spaces/tiny64.yaml", "recipes/data/digits.yaml"]
DARTS = [*BASE, "recipes/algorithms/darts.yaml"]
SMALL = {
    "data.init_args.train_size": 64,
    "data.init_args.search_size": 32,
    "data.init_args.validation_size": 64,
    "data.init_args.batch_size": 32,
    "trainer.accelerator": "cpu",
    "trainer.max_epochs": 2,
}
STAGES: dict[str, Any] = {
    "name": "shrinking",
    "stages": {
        "four": {"stack": DARTS},
        "two": {"stack": DARTS, "options_of": "four", "keep": 2},
        "child": {"stack": [*BASE, "recipes/child/tiny64.yaml"], "architecture_of": "two"},
    },
}
ABLATION: dict[str, Any] = {
    "name": "staged",
    "stack": DARTS,
    "set": SMALL,
    "arms": {
        "shrinking": {"stages": "shrinking.yaml"},
        "longer": {"stages": "shrinking.yaml", "set": {"four.trainer.max_epochs": 3}},
    },
    "seeds": 2,
    "metrics": {"derived_accuracy": "max", "derived_rank": "min", "gt_tau": "max"},
}


def planned(folder: Path, content: dict[str, Any], stages: dict[str, Any] = STAGES) -> Plan:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "shrinking.yaml").write_text(yaml.safe_dump(stages, sort_keys=False))
    text = yaml.safe_dump(content, sort_keys=False).replace("shrinking.yaml", str(folder / "shrinking.yaml"))
    (folder / "staged.yaml").write_text(text)
    return plan(read_design(folder / "staged.yaml"), folder / "staged.yaml")


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("staged")
    run_ablation(planned(folder, ABLATION), folder / "out", InProcess())
    return folder / "out"


def test_every_trial_is_judged_by_what_its_last_search_derives(straight: Path) -> None:
    frame = pd.read_csv(straight / "results.csv")
    assert list(frame["status"]) == ["done"] * 6
    path = shipped_table("tiny64", "digits")
    assert path is not None
    truth = load_table(path)
    for arm in ("shrinking", "longer"):
        for seed in (0, 1):
            place = straight / f"trials/{arm}/seed={seed}"
            result = json.loads((place / "result.json").read_text())
            derived = json.loads((place / "two/result.json").read_text())["derived"]
            assert result["derived"] == derived
            assert result["metrics"]["derived_accuracy"] == truth.truth([derived])[0]
            child = json.loads((place / "child/result.json").read_text())
            assert result["metrics"]["accuracy"] == child["accuracy"]
            parts = [json.loads((place / s / "stage.json").read_text())["seconds"] for s in ("four", "two", "child")]
            assert result["seconds"] == pytest.approx(sum(parts))
            assert result["baselines"]["best"]["derived_rank"] == 1.0
    assert frame[frame["arm"] != "base"]["gt_tau"].isna().all(), "stages rank no children"
    assert frame[frame["arm"] == "base"]["gt_tau"].notna().all()
    effects = pd.read_csv(straight / "effects.csv").set_index(["arm", "metric"])
    assert effects.loc[("shrinking", "derived_accuracy"), "n"] == 2
    assert effects.loc[("shrinking", "gt_tau"), "n"] == 0
    assert "derived_accuracy" in (straight / "answer.json").read_text()
    assert (straight / "report.html").stat().st_size > 0


def test_seeds_and_changes_reach_the_stages(straight: Path) -> None:
    def config(arm: str, seed: int, stage: str) -> dict[str, Any]:
        path = straight / f"trials/{arm}/seed={seed}" / stage / "config.yaml"
        return dict(yaml.safe_load(path.read_text()))

    for stage in ("four", "two", "child"):
        assert [config("shrinking", seed, stage)["seed_everything"] for seed in (0, 1)] == [0, 1]
        assert config("shrinking", 0, stage)["data"]["init_args"]["train_size"] == 64
    epochs = [config("longer", 0, stage)["trainer"]["max_epochs"] for stage in ("four", "two", "child")]
    assert epochs == [3, 2, 2]


def test_tricks_reach_the_stages_that_search(tmp_path: Path) -> None:
    arms = {"warm": {"stages": "shrinking.yaml", "tricks": {"weight_warmup": {"epochs": 1}}}}
    warm = planned(tmp_path, {**ABLATION, "arms": arms}).configs["warm"]
    assert isinstance(warm, Stages)
    assert [s.config().tricks.weight_warmup is not None for s in warm.stages] == [True, True, False]


def test_curves_are_those_of_the_searches_one_after_another(straight: Path) -> None:
    place = straight / "trials/longer/seed=0"
    curves = pd.read_csv(place / "metrics.csv")
    assert list(curves["epoch"]) == [0, 1, 2, 3, 4]
    assert list(curves["step"]) == [2, 4, 6, 8, 10]
    last = pd.read_csv(place / "two/metrics.csv").iloc[-1]
    result = json.loads((place / "result.json").read_text())
    assert result["metrics"]["train/loss"] == curves["train/loss"].iloc[-1] == last["train/loss"]


def test_joined_curves_count_on() -> None:
    one = pd.DataFrame({"epoch": [0, 1], "step": [3, 6], "a": [1.0, 2.0]})
    two = pd.DataFrame({"epoch": [0], "step": [3], "b": [5.0]})
    joined = joined_curves([one, two, one])
    assert list(joined["epoch"]) == [0, 1, 2, 3, 4]
    assert list(joined["step"]) == [3, 6, 9, 12, 15]


class KilledError(BaseException):
    """The process is killed here."""


def test_a_killed_trial_keeps_its_finished_stages(
    straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = {**ABLATION, "arms": {"shrinking": ABLATION["arms"]["shrinking"]}, "seeds": 1}
    folder, fit, count = tmp_path / "killed", pl.Trainer.fit, [0]

    def killed_at_third(self: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        count[0] += 1
        if count[0] == 3:  # base, then the first stage of the arm, then its second
            raise KilledError
        fit(self, *args, **kwargs)

    monkeypatch.setattr(pl.Trainer, "fit", killed_at_third)
    with pytest.raises(KilledError):
        run_ablation(planned(folder, content), folder / "out", InProcess())
    place = folder / "out/trials/shrinking/seed=0"
    kept = {path: path.stat().st_mtime_ns for path in (place / "four").rglob("*") if path.is_file()}
    assert not (place / "result.json").exists()
    # It goes on from another working folder's point of view: the ablation's folder may be named otherwise.
    monkeypatch.chdir(folder)
    for name in ("recipes",):
        (folder / name).symlink_to(Path(__file__).parents[2] / name)
    run_ablation(planned(folder, content), Path("out"), InProcess())
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    one, other = (json.loads((p / "result.json").read_text()) for p in (place, straight / "trials/shrinking/seed=0"))
    assert one["metrics"] == other["metrics"]
    assert one["derived"] == other["derived"]


def test_a_stage_that_fails_is_recorded_and_tried_again(
    straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = {**ABLATION, "arms": {"shrinking": ABLATION["arms"]["shrinking"]}, "seeds": 1}
    with monkeypatch.context() as patch:

        def broken(*args: Any, **kwargs: Any) -> Any:
            raise RuntimeError("no architecture today")

        patch.setattr("nastricks.stages.run.derived", broken)
        run_ablation(planned(tmp_path, content), tmp_path / "out", InProcess())
    place = tmp_path / "out/trials/shrinking/seed=0"
    assert "no architecture today" in json.loads((place / "result.json").read_text())["error"]
    assert (place / "error.txt").is_file()
    run_ablation(planned(tmp_path, content), tmp_path / "out", InProcess())
    assert json.loads((place / "result.json").read_text())["status"] == "done"
    assert not (place / "error.txt").exists()


def test_a_whole_ablation_may_run_stages(tmp_path: Path) -> None:
    content = {
        **{key: ABLATION[key] for key in ("name", "set")},
        "stages": "shrinking.yaml",
        "arms": {"weight_warmup": {"weight_warmup": {"epochs": 1}}},
        "seeds": 1,
        "metrics": {"derived_accuracy": "max", "gates/entropy": "min", "accuracy": "max"},
    }
    run_ablation(planned(tmp_path, content), tmp_path / "out", InProcess())
    frame = pd.read_csv(tmp_path / "out/results.csv")
    assert list(frame["arm"]) == ["base", "weight_warmup"]
    assert frame[["derived_accuracy", "gates/entropy", "accuracy"]].notna().all().all()
    described = yaml.safe_load((tmp_path / "out/ablation.yaml").read_text())
    assert described["space"] == "Tiny64"
    assert {"shrinking.yaml", "recipes/child/tiny64.yaml"} <= set(described["stack"])


def test_stages_and_their_trial_are_tracked_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    stages = {
        **STAGES,
        "stages": {n: {**s, "stack": [*s["stack"], "recipes/loggers/wandb.yaml"]} for n, s in STAGES["stages"].items()},
    }
    content = {**ABLATION, "arms": {"shrinking": ABLATION["arms"]["shrinking"]}, "seeds": 1}
    try:
        run_ablation(planned(tmp_path, content, stages), tmp_path / "out", InProcess())
    finally:
        finish()
    place = tmp_path / "out/trials/shrinking/seed=0"
    found = {path.relative_to(place).parts[0] for path in place.rglob("*.wandb")}
    assert found == {"four", "two", "child", "wandb"}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"metrics": {"gt_tau": "max", "derived_rank": "min"}}, "arm 'shrinking' of .*metric of stages.*gt_tau"),
        ({"stages": "shrinking.yaml"}, "names both a stack and stages"),
        ({"stack": None}, "lacks stack"),
        (
            {"arms": {"a": {"stages": "shrinking.yaml"}, "b": {"stages": "shrinking.yaml"}}},
            "arms 'a' and 'b' of .* resolve to the same setting",
        ),
        (
            {"arms": {"a": {"stages": "shrinking.yaml", "set": {"two.model.init_args.allowed": {"layer1": [0]}}}}},
            "arm 'a' of .*stage two of shrinking: .*model.allowed does so too",
        ),
        ({"table": "nowhere.csv"}, "nowhere.csv"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(changes: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=sentence):
        planned(tmp_path, {**ABLATION, **changes})


def test_stages_without_a_search_or_a_table_are_refused(tmp_path: Path) -> None:
    alone = {"name": "alone", "stages": {"child": {"stack": [*BASE, "recipes/child/tiny64.yaml"]}}}
    with pytest.raises(InputError, match="no stage of alone searches"):
        planned(tmp_path, ABLATION, alone)
    shutil.rmtree(tmp_path)
    tableless = ["recipes/spaces/weight_sharing_64.yaml", *DARTS[1:]]
    with pytest.raises(InputError, match="is judged by a table, and none ships"):
        planned(tmp_path, ABLATION, {"name": "other", "stages": {"search": {"stack": tableless}}})
