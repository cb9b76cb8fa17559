"""Ablations end to end: what is written, what is shared, what survives failures, kills and a second worker."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import pytorch_lightning as pl
import yaml

from nastricks.ablation import trial
from nastricks.ablation.design import read_design
from nastricks.ablation.plan import plan
from nastricks.ablation.runner import run_ablation
from nastricks.callbacks.sam import SAM
from nastricks.errors import InputError
from nastricks.modules import TrainingModule
from nastricks.search.engine import Engine, InProcess, RayWorkers

pytestmark = [
    pytest.mark.xdist_group("ablation_runner"),
    # Lightning 2.6 calls the parser by its old name.
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
]

ABLATION: dict[str, Any] = {
    "name": "small",
    "stack": ["recipes/spaces/tiny64.yaml", "recipes/data/digits.yaml", "recipes/algorithms/spos.yaml"],
    "set": {
        "data.init_args.train_size": 64,
        "data.init_args.search_size": 32,
        "data.init_args.validation_size": 64,
        "data.init_args.batch_size": 32,
        "trainer.accelerator": "cpu",
        "trainer.max_epochs": 1,
    },
    "arms": {"bn_calibration": {"bn_calibration": {"batches": 2}}, "sam": {"sam": {"rho": 0.05}}},
    "seeds": 2,
    "metrics": {"gt_tau": "max", "derived_accuracy": "max"},
    "children": "20",
}
ARMS = ("base", "bn_calibration", "sam")
TRIALS = [(arm, seed) for arm in ARMS for seed in (0, 1)]


def write(folder: Path, **changes: Any) -> Path:
    """The ablation's file, below a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump({**ABLATION, **changes}))
    return path


def ablate(file: Path, out: Path, engine: Engine | None = None) -> dict[str, str]:
    """Run it; what was said of each training, by leader and seed."""
    said: dict[str, str] = {}

    def done(training: trial.Training, line: str) -> None:
        said[f"{next(iter(training.arms))} {training.seed}"] = line

    run_ablation(plan(read_design(file), file), out, engine or InProcess(), done)
    return said


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("straight")
    ablate(write(folder), folder / "out")
    return folder / "out"


@pytest.fixture
def copy(straight: Path, tmp_path: Path) -> Path:
    """A copy of it, times of files included."""
    return shutil.copytree(straight, tmp_path / "out")


def results(out: Path) -> pd.DataFrame:
    """results.csv without what differs between two equal runs."""
    return pd.read_csv(out / "results.csv").drop(columns=["seconds", "peak_memory_mb"])


def assert_same(out: Path, straight: Path, trials: list[tuple[str, int]] = TRIALS) -> None:
    pd.testing.assert_frame_equal(results(out), results(straight), check_exact=True)
    for arm, seed in trials:
        place = Path("trials") / arm / f"seed={seed}"
        for name in ("ranking.csv", "config.yaml"):
            assert (out / place / name).read_bytes() == (straight / place / name).read_bytes()


def times(out: Path, *trials: tuple[str, int]) -> dict[Path, int]:
    """When each file of these trials was last written."""
    places = [out / "trials" / arm / f"seed={seed}" for arm, seed in trials]
    return {path: path.stat().st_mtime_ns for place in places for path in place.rglob("*") if path.is_file()}


def test_what_is_written(straight: Path) -> None:
    frame = pd.read_csv(straight / "results.csv")
    assert list(frame.columns[:5]) == ["arm", "seed", "status", "seconds", "peak_memory_mb"]
    assert {"gt_tau", "gt_tau_by_loss", "derived_accuracy", "derived_rank"} <= set(frame.columns)
    assert list(zip(frame["arm"], frame["seed"], strict=True)) == TRIALS
    assert set(frame["status"]) == {"done"}
    assert (frame["seconds"] > 0).all()
    assert (frame["peak_memory_mb"] > 0).all()
    effects = pd.read_csv(straight / "effects.csv")
    columns = "arm,metric,n,mean,difference,ci_low,ci_high,p,p_holm,p_exact,seconds_ratio,seeds_needed,verdict"
    assert list(effects.columns) == columns.split(",")
    judged = {(arm, metric) for arm in ARMS[1:] for metric in ABLATION["metrics"]}
    assert judged <= set(zip(effects["arm"], effects["metric"], strict=True))
    assert set(effects[effects["arm"] != "base"]["verdict"]) == {"too few seeds"}
    for name in ("ablation.yaml", "report.html", "answer.json"):
        assert (straight / name).stat().st_size > 0
    assert not (straight / "interactions.csv").exists()
    assert len(pd.read_csv(straight / "trials/base/seed=0/ranking.csv")) == 20
    assert not [path for path in straight.rglob(".*") if path.is_file()], "files written aside stayed behind"


def test_seeds_and_tricks_make_a_difference(straight: Path) -> None:
    rankings = {(straight / f"trials/{arm}/seed={seed}/ranking.csv").read_bytes() for arm, seed in TRIALS}
    assert len(rankings) == len(TRIALS)


def test_effects_are_differences_of_pairs(straight: Path) -> None:
    frame = pd.read_csv(straight / "results.csv").pivot(index="seed", columns="arm", values="gt_tau")
    effects = pd.read_csv(straight / "effects.csv").set_index(["arm", "metric"])
    for arm in ARMS[1:]:
        assert effects.loc[(arm, "gt_tau"), "difference"] == pytest.approx((frame[arm] - frame["base"]).mean())


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one at every training."""
    counted: list[int] = []
    original = pl.Trainer.fit

    def counting(self: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        counted.append(1)
        original(self, *args, **kwargs)

    monkeypatch.setattr(pl.Trainer, "fit", counting)
    return counted


def test_arms_that_differ_in_calibration_alone_share_a_training(
    straight: Path, tmp_path: Path, fits: list[int]
) -> None:
    said = ablate(write(tmp_path), tmp_path / "out")
    assert len(fits) == 4  # base with bn_calibration, and sam, for each of two seeds
    assert said == {"base 0": "done", "sam 0": "done", "base 1": "done", "sam 1": "done"}
    shared = json.loads((tmp_path / "out/trials/bn_calibration/seed=0/result.json").read_text())
    assert shared["shared_training"] == "base"
    assert not (tmp_path / "out/trials/bn_calibration/seed=0/checkpoints").exists()
    assert_same(tmp_path / "out", straight)


def test_a_shared_training_scores_as_one_of_its_own(straight: Path, tmp_path: Path) -> None:
    alone = write(tmp_path, tricks={"bn_calibration": {"batches": 2}}, arms={"sam": {"sam": {}}}, seeds=1)
    ablate(alone, tmp_path / "out")
    own = (tmp_path / "out/trials/base/seed=0/ranking.csv").read_bytes()
    assert own == (straight / "trials/bn_calibration/seed=0/ranking.csv").read_bytes()


def test_the_same_command_again_does_nothing(straight: Path, copy: Path, fits: list[int]) -> None:
    before = times(copy, *TRIALS)
    said = ablate(write(copy.parent), copy)
    assert not fits
    assert set(said.values()) == {"kept"}
    assert times(copy, *TRIALS) == before
    assert_same(copy, straight)


@pytest.mark.parametrize(
    "lost",
    [[("sam", 1)], [("bn_calibration", 0)], [("base", 1)], [("base", 0), ("bn_calibration", 0), ("sam", 0)]],
    ids=["a trial", "one that shares a training", "the one that it shares", "a seed"],
)
def test_continued_after_results_were_lost(
    straight: Path, copy: Path, fits: list[int], lost: list[tuple[str, int]]
) -> None:
    for arm, seed in lost:
        (copy / f"trials/{arm}/seed={seed}/result.json").unlink()
    (copy / "results.csv").unlink()
    kept = [pair for pair in TRIALS if pair not in lost]
    before = times(copy, *kept)
    ablate(write(copy.parent), copy)
    assert times(copy, *kept) == before
    assert len(fits) == len({("base" if arm == "bn_calibration" else arm, seed) for arm, seed in lost})
    assert_same(copy, straight)


def test_seeds_can_be_added(straight: Path, copy: Path, fits: list[int]) -> None:
    before = times(copy, *TRIALS)
    ablate(write(copy.parent, seeds=3), copy)
    assert len(fits) == 2
    assert times(copy, *TRIALS) == before
    frame = results(copy)
    assert sorted(set(frame["seed"])) == [0, 1, 2]
    old = frame[frame["seed"] < 2].reset_index(drop=True)
    pd.testing.assert_frame_equal(old, results(straight), check_exact=True)
    # Fewer seeds again: those that are there stay.
    ablate(write(copy.parent, seeds=1), copy)
    assert sorted(set(results(copy)["seed"])) == [0, 1, 2]


@pytest.mark.parametrize(
    "changes",
    [
        {"arms": {**ABLATION["arms"], "sam": {"sam": {"rho": 0.1}}}},
        {"arms": {"sam": ABLATION["arms"]["sam"]}},
        {"set": {**ABLATION["set"], "trainer.max_epochs": 2}},
        {"metrics": {"gt_tau": "min"}},
        {"children": "all"},
    ],
    ids=["another setting", "an arm less", "another base", "another direction", "other children"],
)
def test_another_ablation_in_the_folder_is_refused(copy: Path, changes: dict[str, Any], fits: list[int]) -> None:
    before = {p: p.read_bytes() for p in copy.rglob("*") if p.is_file()}
    with pytest.raises(InputError, match="holds another ablation"):
        ablate(write(copy.parent, **changes), copy)
    assert {p: p.read_bytes() for p in copy.rglob("*") if p.is_file()} == before
    assert not fits


# Failures.


@pytest.fixture
def sam_breaks() -> Iterator[Callable[[int], None]]:
    """``sam_breaks(seed)`` lets SAM raise in every run of that seed, until the test ends or `seed` is -1."""
    original, broken = SAM.around_gradients, [-1]

    def breaking(self: SAM, compute: Any, module: TrainingModule, at: Any) -> Any:
        if module.seed == broken[0]:
            raise RuntimeError("the radius is gone")
        return original(self, compute, module, at)

    patch = pytest.MonkeyPatch()
    patch.setattr(SAM, "around_gradients", breaking)
    yield lambda seed: broken.__setitem__(0, seed)
    patch.undo()


def test_a_failing_trial_is_recorded_and_the_others_finish(
    straight: Path, tmp_path: Path, sam_breaks: Callable[[int], None]
) -> None:
    file, out = write(tmp_path), tmp_path / "out"
    sam_breaks(0)
    said = ablate(file, out)
    assert "the radius is gone" in said.pop("sam 0")
    assert set(said.values()) == {"done"}
    frame = results(out).set_index(["arm", "seed"])
    assert frame["status"].to_dict() == {t: "failed" if t == ("sam", 0) else "done" for t in TRIALS}
    assert pd.isna(frame.loc[("sam", 0), "gt_tau"])
    place = out / "trials/sam/seed=0"
    assert json.loads((place / "result.json").read_text())["error"] == "RuntimeError: the radius is gone"
    assert "around_gradients" in (place / "error.txt").read_text()
    effects = pd.read_csv(out / "effects.csv").set_index(["arm", "metric"])
    assert effects.loc[("sam", "gt_tau"), "n"] == 1
    assert effects.loc[("bn_calibration", "gt_tau"), "n"] == 2
    # The same command runs the failed trial again, and no other.
    sam_breaks(-1)
    assert ablate(file, out) == {"base 0": "kept", "sam 0": "done", "base 1": "kept", "sam 1": "kept"}
    assert_same(out, straight)
    assert not (place / "error.txt").exists()


def test_an_ablation_without_a_finished_base_says_why(tmp_path: Path, sam_breaks: Callable[[int], None]) -> None:
    sam_breaks(0)
    file = write(tmp_path, tricks={"sam": {}}, arms={"mixup": {"mixup": {}}}, seeds=1)
    with pytest.raises(InputError, match=r"no finished trial of the arm 'base'.*the radius is gone"):
        ablate(file, tmp_path / "out")


# Other processes.


def test_kill_9_then_the_same_command_equals_the_uninterrupted_run(straight: Path, tmp_path: Path) -> None:
    file, out = write(tmp_path), tmp_path / "out"
    with (tmp_path / "log").open("w") as log:
        command = [sys.executable, "-m", "nastricks.cli", "ablate", str(file), "--out", str(out)]
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"})
        # The second trial is done; the third is in its training, or just before or after it.
        deadline = time.monotonic() + 120
        while len(list(out.glob("trials/*/*/result.json"))) < 2:
            assert process.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
    finished = [t for t in TRIALS if (out / f"trials/{t[0]}/seed={t[1]}/result.json").exists()]
    assert len(finished) < len(TRIALS)
    before = times(out, *finished)
    ablate(file, out)
    assert times(out, *finished) == before
    assert_same(out, straight)


def test_two_ray_workers_equal_this_process(straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'nastricks[ray]'")
    monkeypatch.setenv("RAY_worker_niceness", "0")  # else they wait for every other test
    with closing(RayWorkers(2)) as workers:
        ablate(write(tmp_path), tmp_path / "out", workers)
    assert_same(tmp_path / "out", straight)
