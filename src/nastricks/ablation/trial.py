"""One training of an ablation, and the arms that it serves: those that differ only in what happens after it."""

import json
import shutil
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from jsonargparse import Namespace

from nastricks.ablation.setting import Setting, shown_config, text_of
from nastricks.ablation.staged import run_staged
from nastricks.files import safe_name, write_csv, write_json, write_text
from nastricks.memory import peak_memory_mb, reset_peak_memory
from nastricks.modules import SupernetModule
from nastricks.modules.run_folder import MetricsFile
from nastricks.modules.tracking import Tracked, finish, track_results
from nastricks.ranking.evaluate import child_scores
from nastricks.ranking.rank import Ranking, cost, find_table, picked, rank
from nastricks.recipe import dump, with_seed
from nastricks.run import Run, build, calibration_of
from nastricks.search.algorithm import Proposal
from nastricks.search.engine import InProcess, Stopwatch
from nastricks.search.loop import Search
from nastricks.search.recipe import dump_any, searches
from nastricks.search.trained_child import ChildTask, train_and_score
from nastricks.stages import Stages


@dataclass(frozen=True)
class Training:
    """One training with one seed, and the arms that are judged from it; the first arm's folder holds the training.

    `arms` maps an arm to what it resolves to; stages share no training.
    """

    folder: Path
    ablation: str
    seed: int
    arms: Mapping[str, Setting]
    table: str | None
    children: str
    truth_arm: str | None = None

    def config(self, arm: str) -> Namespace:
        """The configuration of an arm that is no stages, with the training's seed."""
        setting = self.arms[arm]
        assert not isinstance(setting, Stages), "stages have a configuration each"
        return with_seed(setting, self.seed)


def trial_folder(folder: Path, arm: str, seed: int) -> Path:
    return folder / "trials" / arm / f"seed={seed}"


def finished(folder: Path, arm: str, seed: int) -> dict[str, Any] | None:
    """The result of a trial that is done; None for one that is not, or that failed."""
    path = trial_folder(folder, arm, seed) / "result.json"
    if not path.is_file():
        return None
    result: dict[str, Any] = json.loads(path.read_text())
    return result if result.get("status") == "done" else None


def run_training(training: Training) -> list[dict[str, Any]]:
    """Train once, judge each unfinished arm, write their results; a failure is recorded, not raised."""
    missing = [arm for arm in training.arms if finished(training.folder, arm, training.seed) is None]
    leader = next(iter(training.arms))
    reset_peak_memory()
    watch = Stopwatch()
    if isinstance(training.arms[leader], Stages):
        return [_staged(training, arm, watch) for arm in missing]
    if searches(training.config(leader)):
        return [_searched(training, arm, watch) for arm in missing]
    if training.truth_arm is not None:
        return _children(training, missing, watch)
    place = trial_folder(training.folder, leader, training.seed)
    if leader in missing:
        shutil.rmtree(place, ignore_errors=True)  # what a killed run left
    tracked = Tracked(f"{leader}-seed{training.seed}", training.ablation, leader)
    try:
        # A leader that is done keeps its folder as it is; the other arms then train again without writing.
        run = build(
            training.config(leader),
            place if leader in missing else None,
            quiet=True,
            tracked=tracked,
        )
        run.fit()
    except Exception as error:
        return [_failed(training, arm, leader, error, watch.seconds()) for arm in missing]
    seconds = watch.seconds()
    return [_judged(training, arm, leader, run, seconds) for arm in missing]


def _searched(training: Training, arm: str, watch: Stopwatch) -> dict[str, Any]:
    """One search; what a killed one has trained is kept, and the search replayed."""
    place = trial_folder(training.folder, arm, training.seed)
    try:
        config = training.config(arm)
        search = Search(config, place)
        metrics = search.run(InProcess())
        write_text(place / "config.yaml", dump_any(config))
    except Exception as error:
        return _failed(training, arm, arm, error, watch.seconds())
    best = search.best_at(search.budget).architecture
    result = _result(training, arm, watch.seconds(), metrics, baselines=search.baselines(), derived=best)
    _track(training, arm, arm, config, result, None)
    write_json(place / "result.json", result)
    return result


def _staged(training: Training, arm: str, watch: Stopwatch) -> dict[str, Any]:
    """Stages; those that a killed trial has finished are kept."""
    place, stages = trial_folder(training.folder, arm, training.seed), training.arms[arm]
    assert isinstance(stages, Stages), "the arm's setting"
    tracked = Tracked(f"{arm}-seed{training.seed}", training.ablation, arm)
    try:
        found = run_staged(stages, place, training.seed, tracked, training.table, training.children)
    except Exception as error:
        return _failed(training, arm, arm, error, watch.seconds())
    (place / "error.txt").unlink(missing_ok=True)  # of an earlier attempt
    more = {"baselines": found.baselines, "derived": found.derived}
    result = _result(training, arm, found.seconds, found.metrics, **more)
    _track(training, arm, arm, stages, result, None)
    write_json(place / "result.json", result)
    return result


def _children(training: Training, arms: Sequence[str], watch: Stopwatch) -> list[dict[str, Any]]:
    """The same random children trained alone, once for all `arms`; the runner judges their ranking by `truth_arm`.

    A child is written when it is trained, so that a killed trial goes on with the next one.
    """
    leader = next(iter(training.arms))
    try:
        configs = {arm: training.config(arm) for arm in arms}
        module = build(configs[arms[0]], None, quiet=True).module
        space = module.space
        chosen = picked(space, training.children, seed=0)
        for architecture in chosen:
            name = space.format(architecture)
            files = {arm: _child_file(training, arm, name) for arm in arms}
            missing = [arm for arm in arms if not files[arm].is_file()]
            if missing:
                task = ChildTask(configs[missing[0]], Proposal(architecture), name)
                scores = train_and_score(task, [calibration_of(configs[arm]) for arm in missing])
                for arm, measured in zip(missing, scores, strict=True):
                    write_json(files[arm], {"architecture": name, **asdict(measured)})
    except Exception as error:
        return [_failed(training, arm, leader, error, watch.seconds()) for arm in arms]
    sizes = {space.format(architecture): cost(space, architecture, module)._asdict() for architecture in chosen}
    return [_collected(training, arm, leader, configs[arm], sizes) for arm in arms]


def _child_file(training: Training, arm: str, name: str) -> Path:
    return trial_folder(training.folder, arm, training.seed) / "children" / f"{safe_name(name)}.json"


def _collected(
    training: Training, arm: str, leader: str, config: Namespace, sizes: Mapping[str, Mapping[str, int]]
) -> dict[str, Any]:
    """The result of an arm whose children are trained; `sizes` are the parameters and FLOPs of each."""
    place = trial_folder(training.folder, arm, training.seed)
    rows = [{**json.loads(_child_file(training, arm, name).read_text()), **size} for name, size in sizes.items()]
    frame = pd.DataFrame(rows)
    write_csv(place / "ranking.csv", frame)
    write_text(place / "config.yaml", dump_any(config))
    means = {f"mean_{column}": float(frame[column].mean()) for column in ("accuracy", "loss")}
    diverged = {"diverged": float((frame["status"] == "diverged").sum())}
    shared = None if arm == leader else leader
    result = _result(training, arm, float(frame["seconds"].sum()), {**means, **diverged}, shared_training=shared)
    _track(training, arm, arm, config, result, None)
    write_json(place / "result.json", result)
    return result


def _result(training: Training, arm: str, seconds: float, metrics: Mapping[str, float], **more: Any) -> dict[str, Any]:
    """A trial that is done, as its result.json holds it."""
    return {
        "arm": arm,
        "seed": training.seed,
        "status": "done",
        "seconds": seconds,
        "peak_memory_mb": peak_memory_mb(),
        "metrics": dict(metrics),
        "baselines": {},
        "noise_ceiling": None,
        "derived": None,
        "error": None,
        "shared_training": None,
        **more,
    }


def _judged(training: Training, arm: str, leader: str, run: Run, training_seconds: float) -> dict[str, Any]:
    place = trial_folder(training.folder, arm, training.seed)
    config = training.config(arm)
    watch = Stopwatch()
    try:
        calibration = calibration_of(config)
        ranking: Ranking | None = None
        if isinstance(run.module, SupernetModule):
            table = find_table(run.module.space, run.data, training.table)
            chosen = picked(run.module.space, training.children, seed=0)
            for architecture in chosen:  # counted once a process: not this arm's cost
                cost(run.module.space, architecture, run.module)
            watch = Stopwatch()
            ranking = rank(run.module, run.data, table, architectures=chosen, calibration=calibration)
            ranking.write(place / "ranking.csv")
            metrics = ranking.metrics
        else:
            metrics = child_scores(run.module, run.data, calibration)
        write_text(place / "config.yaml", dump(config))
    except Exception as error:
        return _failed(training, arm, leader, error, training_seconds)
    result = _result(
        training,
        arm,
        training_seconds + watch.seconds(),
        {**metrics, **_last_of_training(run, trial_folder(training.folder, leader, training.seed))},
        baselines=ranking.baselines if ranking else {},
        noise_ceiling=ranking.ceiling if ranking else None,
        derived=ranking.derived if ranking else None,
        shared_training=None if arm == leader else leader,
    )
    _track(training, arm, leader, config, result, None if ranking is None else ranking.rows)
    write_json(place / "result.json", result)
    return result


def _last_of_training(run: Run, leader: Path) -> dict[str, float]:
    """What the training logged last, such as train/loss; from the leader's file where it was only repeated."""
    for logger in run.trainer.loggers:
        if isinstance(logger, MetricsFile):
            return logger.last()
    written = MetricsFile(leader)
    written.resume_at(sys.maxsize)
    return written.last()


def _failed(training: Training, arm: str, leader: str, error: Exception, seconds: float) -> dict[str, Any]:
    place = trial_folder(training.folder, arm, training.seed)
    write_text(place / "error.txt", "".join(traceback.format_exception(error)))
    shared = None if arm == leader else leader
    why = {"status": "failed", "error": f"{type(error).__name__}: {error}"}
    result = _result(training, arm, seconds, {}, shared_training=shared, **why)
    write_json(place / "result.json", result)
    finish()
    return result


def _track(
    training: Training,
    arm: str,
    leader: str,
    setting: Setting,
    result: dict[str, Any],
    rows: pd.DataFrame | None,
) -> None:
    config = shown_config(setting)
    tracking = config.loggers.wandb
    if tracking is None:
        return
    place = Tracked(f"{arm}-seed{training.seed}", training.ablation, arm)
    names = [name for name, settings in vars(config.tricks).items() if settings is not None]
    curves: Sequence[dict[str, Any]] = []
    if (
        arm != leader or isinstance(setting, Stages) or searches(config)
    ):  # a training is logged as it runs, under the leader's name
        path = trial_folder(training.folder, leader, training.seed) / "metrics.csv"
        curves = pd.read_csv(path).to_dict("records") if path.exists() else []  # type: ignore[assignment]
    folder = trial_folder(training.folder, arm, training.seed)
    track_results(tracking, folder, text_of(setting), names, place, curves, result["metrics"], rows)
