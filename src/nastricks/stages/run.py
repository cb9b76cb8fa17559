"""Runs stages into a folder, one after another, and continues where it was interrupted.

A supernet's stage ends by deriving an architecture, a child's by its accuracy on the test split. A stage that has its
``result.json`` is done; one that has a checkpoint goes on from it.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from nastricks.errors import InputError
from nastricks.files import write_json
from nastricks.modules import SupernetModule
from nastricks.modules.run_folder import LAST
from nastricks.modules.tracking import Tracked, finish
from nastricks.ranking.derive import ScoreAll, derived
from nastricks.ranking.evaluate import child_scores
from nastricks.recipe import dump, with_seed
from nastricks.run import build, calibration_of, load_run
from nastricks.stages.options import kept_of
from nastricks.stages.recipe import LINKS, Stage, Stages


@dataclass(frozen=True)
class StageResult:
    """What a stage came to.

    `derived` is a supernet's architecture, `metrics` a child's accuracy and loss on the test split; `seconds` is the
    time that it took, without what a killed run of it had taken before; `left_out` are tricks that had nothing left to
    act on after options were taken away, each with its reason.
    """

    derived: str | None
    metrics: Mapping[str, float]
    seconds: float
    left_out: Mapping[str, str] = field(default_factory=dict)


def run_stages(
    stages: Stages,
    folder: Path,
    *,
    seed: int | None = None,
    quiet: bool = False,
    tracked: Tracked | None = None,
    score_all: ScoreAll | None = None,
    told: Callable[[str, StageResult], None] = lambda stage, result: None,
) -> dict[str, StageResult]:
    """Run every stage that is not done; `seed` None leaves each its own.

    Raises:
        InputError: the folder holds a stage under other settings.
    """
    results: dict[str, StageResult] = {}
    for stage in stages.stages:
        results[stage.name] = _run(stage, folder, seed, quiet, tracked, score_all)
        told(stage.name, results[stage.name])
    return results


def _run(
    stage: Stage, folder: Path, seed: int | None, quiet: bool, tracked: Tracked | None, score_all: ScoreAll | None
) -> StageResult:
    place, start = folder / stage.name, time.perf_counter()
    config, left_out = stage_config(stage, folder, seed)
    fingerprint = _fingerprint(stage, config)
    done, started = place / "result.json", place / "stage.json"
    if done.is_file():
        if json.loads(done.read_text()).get("fingerprint") != fingerprint:
            raise InputError(f"{place} holds this stage under other settings: choose another --out")
        return _read(done, started)
    if not started.is_file() or json.loads(started.read_text())["fingerprint"] != fingerprint:
        shutil.rmtree(place, ignore_errors=True)
    write_json(started, {"fingerprint": fingerprint, "left_out": left_out})
    here = None if tracked is None else Tracked(f"{tracked.name}-{stage.name}", tracked.group, tracked.arm)
    built = build(config, place, quiet=quiet, tracked=here)
    try:
        built.fit(ckpt_path=str(place / LAST) if (place / LAST).is_file() else None)
    finally:
        finish()  # the next stage is a W&B run of its own
    if isinstance(built.module, SupernetModule):
        found: dict[str, Any] = {"derived": derived(place, place, score_all=score_all)}
    else:
        found = child_scores(built.module, built.data, calibration_of(config))
    seconds = time.perf_counter() - start
    write_json(started, {"fingerprint": fingerprint, "left_out": left_out, "seconds": seconds})
    write_json(done, {**found, "fingerprint": fingerprint})
    return _read(done, started)


def _fingerprint(stage: Stage, config: Namespace) -> str:
    """What the stage depends on, wherever its folder is."""
    placeless = config.clone()
    for key, earlier in stage.links.items():
        if key in ("weights_of", "policy_of"):
            placeless[LINKS[key]] = earlier
        if key == "teacher_of":
            trick = placeless.tricks.distillation
            trick.get("init_args", trick).teacher = earlier
    return hashlib.sha256(dump(placeless).encode()).hexdigest()


def _read(done: Path, started: Path) -> StageResult:
    result, stage = json.loads(done.read_text()), json.loads(started.read_text())
    metrics = {key: result[key] for key in ("accuracy", "loss") if key in result}
    return StageResult(result.get("derived"), metrics, stage["seconds"], stage["left_out"])


def stage_config(stage: Stage, folder: Path, seed: int | None = None) -> tuple[Namespace, dict[str, str]]:
    """The configuration with what earlier stages left in `folder`, and the tricks that have nothing to act on in it."""
    taken = []
    for key, earlier in stage.links.items():
        taken.append(f"--{LINKS[key]}={_taken(key, folder / earlier, stage.keep)}")
    config = stage.config(taken)
    config = config if seed is None else with_seed(config, seed)
    if "options_of" not in stage.links:
        return config, {}
    left_out = build(config, None, quiet=True).refusals()
    for name in left_out:
        config.tricks[name] = None
    return config, left_out


def _taken(key: str, earlier: Path, keep: int | None) -> str:
    """The value that a stage takes from the folder of an earlier one."""
    if key == "architecture_of":
        return str(json.loads((earlier / "result.json").read_text())["derived"])
    if key == "options_of":
        assert keep is not None, "options_of and keep go together"
        module = load_run(earlier).module
        return json.dumps(kept_of(module.space, module.policy, keep))
    return str(earlier)
