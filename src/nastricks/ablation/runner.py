"""Runs an ablation into a folder, and continues one that was interrupted."""

import hashlib
import json
import platform
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from nastricks.ablation.answer import answer, how_well_each_ranks
from nastricks.ablation.design import BASE, Arm
from nastricks.ablation.evidence import TRIAL_COLUMNS, read_evidence, scale
from nastricks.ablation.plan import Plan
from nastricks.ablation.questions import answered, write_answers
from nastricks.ablation.report import write_report
from nastricks.ablation.setting import Setting, shown_config, text_of
from nastricks.ablation.statistics import judge
from nastricks.ablation.trial import Training, finished, run_training, trial_folder
from nastricks.errors import InputError
from nastricks.files import write_csv, write_json, write_text
from nastricks.ranking.baselines import baselines, noise_ceiling
from nastricks.ranking.metrics import ranking_metrics_by_accuracy_and_loss
from nastricks.ranking.rank import picked
from nastricks.recipe import locate
from nastricks.run import build
from nastricks.search.engine import Engine, Lost
from nastricks.stages import Stages

PACKAGES = ("nastricks", "torch", "torchvision", "pytorch-lightning", "torchmetrics", "jsonargparse", "numpy", "scipy")


def run_ablation(
    planned: Plan, folder: Path, engine: Engine, done: Callable[[Training, str], None] = lambda training, line: None
) -> list[str]:
    """Run what is missing, then write tables, answer and report; returns the answer in words.

    Raises:
        InputError: the folder holds another ablation.
    """
    _claim(planned, folder)
    if any(question.needs_options for question in planned.design.asked):
        _write_options(planned, folder)
    waiting = []
    for training in planned.trainings(folder):
        if all(finished(folder, arm, training.seed) is not None for arm in training.arms):
            done(training, "kept")
        else:
            waiting.append(training)
    for training, results in engine.run(run_training, waiting):
        if isinstance(results, Lost):
            for arm in training.arms:
                _record_lost(training, arm, results)
            done(training, results.reason)
        else:
            failed = [result["error"] for result in results if result["status"] == "failed"]
            done(training, failed[0] if failed else "done")
    return conclude(folder)


def _record_lost(training: Training, arm: str, lost: Lost) -> None:
    """A trial whose workers died: failed, with nothing measured."""
    result = {"arm": arm, "seed": training.seed, "status": "failed", "error": lost.reason, "metrics": {}}
    write_json(trial_folder(training.folder, arm, training.seed) / "result.json", result)


def _claim(planned: Plan, folder: Path) -> None:
    """Write ablation.yaml, or see that the one there is the same ablation (seeds may be added)."""
    path = folder / "ablation.yaml"
    described = _described(planned)
    if path.exists():
        before = yaml.safe_load(path.read_text())
        same = isinstance(before, dict) and before.get("fingerprint") == described["fingerprint"]
        if not same:
            raise InputError(f"{folder} holds another ablation (its ablation.yaml differs): choose another --out")
        if set(before["seeds"]) - set(described["seeds"]):
            described["seeds"] = sorted(set(before["seeds"]) | set(described["seeds"]))
    elif folder.exists() and any(folder.iterdir()):
        raise InputError(f"{folder} is not empty and holds no ablation: choose another --out")
    write_text(path, yaml.safe_dump(described, sort_keys=False, allow_unicode=True))


def _described(planned: Plan) -> dict[str, Any]:
    design = planned.design
    base = shown_config(planned.configs[BASE])
    files = [planned.file, *(locate(f) for f in (*design.stack, *planned.extra, *_files_of_stages(planned)))]
    settings = {arm: hashlib.sha256(text_of(setting).encode()).hexdigest() for arm, setting in planned.configs.items()}
    judged: list[Any] = [design.metrics, design.interactions, design.table, design.children]
    judged += [extra for extra in (design.against, design.truth_arm) if extra]
    return {
        "name": design.name,
        "description": design.description,
        "fingerprint": hashlib.sha256(json.dumps([settings, judged], sort_keys=True).encode()).hexdigest(),
        "space": base.space.class_path.rpartition(".")[2],
        "data": "none" if base.get("data") is None else base.data.class_path.rpartition(".")[2],
        "metrics": dict(design.metrics),
        "seeds": list(design.seeds),
        "arms": {arm: _plain(settings, planned.configs[arm]) for arm, settings in design.arms.items()},
        "against": design.against,
        "truth_arm": design.truth_arm,
        "interactions": [list(quadruple) for quadruple in design.interactions],
        **({"questions": dict(design.questions)} if design.questions else {}),
        "stack": {_recipe_name(f): f.read_text() for f in files},
        "given": [
            *(part for f in planned.extra for part in ("-c", _recipe_name(locate(f)))),
            *(part for arm in design.left_out for part in ("--without", arm)),
            *planned.overrides,
        ],
        "versions": {name: _version(name) for name in PACKAGES}
        | {"python": platform.python_version(), "machine": f"{platform.system()} {platform.machine()}"},
    }


def _write_options(planned: Plan, folder: Path) -> None:
    """Write ``options.csv``: the option that each ranked architecture takes of each choice."""
    space = build(shown_config(planned.configs[BASE]), None, quiet=True).module.space
    names = [choice.name for choice in space.choices]
    rows = [
        {
            "architecture": space.format(architecture),
            **{c.name: c.options[i].name for c, i in zip(space.choices, architecture, strict=True)},
        }
        for architecture in picked(space, planned.design.children, seed=0)
    ]
    write_csv(folder / "options.csv", pd.DataFrame(rows, columns=["architecture", *names]))


def _recipe_name(path: Path) -> str:
    """A recipe's path from recipes/ on, else its name: a folder of this machine is nobody's business."""
    parts = path.resolve().parts
    return "/".join(parts[parts.index("recipes") :]) if "recipes" in parts else path.name


def _version(package: str) -> str:
    return version(package)


def _files_of_stages(planned: Plan) -> list[str]:
    """Files of stages that arms run, and the recipe files that these stack."""
    files = [planned.design.stages, *(arm.stages for arm in planned.design.arms.values())]
    stacks = [stage.stack for s in planned.configs.values() if isinstance(s, Stages) for stage in s.stages]
    return list(dict.fromkeys([*(f for f in files if f is not None), *(f for stack in stacks for f in stack)]))


def _plain(arm: Arm, setting: Setting) -> dict[str, Any]:
    """An arm as it is shown: its tricks with all their settings, and what else it sets."""
    config = shown_config(setting)
    shown: dict[str, Any] = {} if arm.stages is None else {"stages": arm.stages}
    for name, settings in arm.tricks.items():
        shown[name] = None if settings is None else dict(vars(config.tricks[name].init_args))
    if arm.stack:
        shown["stack"] = list(arm.stack)
    return shown | dict(arm.set)


def _judge_children(folder: Path, truth_arm: str, results: Sequence[dict[str, Any]]) -> None:
    """Judge each trial's children by those of `truth_arm`, the mean over its other seeds.

    Its own seed is left out for every arm alike, so that no arm is compared with the very trainings that it shares a
    seed with; with one seed there is nothing to compare with. ``ranking.csv`` gets the truth, ``result.json`` what a
    ranking by size reaches against it, and how far these other seeds agree.
    """
    done = {(r["arm"], r["seed"]): r for r in results if r["status"] == "done"}
    frames = {key: pd.read_csv(trial_folder(folder, *key) / "ranking.csv", dtype={"architecture": str}) for key in done}
    seeds = [seed for arm, seed in frames if arm == truth_arm]
    for (arm, seed), frame in frames.items():
        others = [frames[truth_arm, other].set_index("architecture")["accuracy"] for other in seeds if other != seed]
        if not others:
            continue
        replicas = pd.concat(others, axis=1).reindex(frame["architecture"]).to_numpy()
        truth, result = replicas.mean(axis=1), done[arm, seed]
        result["metrics"] |= ranking_metrics_by_accuracy_and_loss(frame["accuracy"], frame["loss"], truth)
        result["baselines"] = baselines(frame["params"], frame["flops"], truth, seed=0)
        result["noise_ceiling"] = noise_ceiling(replicas)
        write_csv(trial_folder(folder, arm, seed) / "ranking.csv", frame.assign(truth=truth))
        write_json(trial_folder(folder, arm, seed) / "result.json", result)


def conclude(folder: Path) -> list[str]:
    """Write results.csv, effects.csv, interactions.csv, answer.json and report.html from the trials that are done.

    Raises:
        InputError: the folder holds no ablation, or no finished trial.
    """
    path = folder / "ablation.yaml"
    if not path.is_file():
        raise InputError(f"{folder} holds no ablation: expected a folder that `nastricks ablate` wrote")
    described = yaml.safe_load(path.read_text())
    found = []
    for arm in described["arms"]:
        for seed in described["seeds"]:
            result_path = trial_folder(folder, arm, seed) / "result.json"
            if result_path.is_file():
                found.append(json.loads(result_path.read_text()))
    if described.get("truth_arm"):
        _judge_children(folder, described["truth_arm"], found)
    rows = [{**{c: result.get(c) for c in TRIAL_COLUMNS}, **result["metrics"]} for result in found]
    if not any(row["status"] == "done" and row["arm"] == BASE for row in rows):
        errors = [json.loads(p.read_text()).get("error") for p in sorted(folder.glob(f"trials/{BASE}/*/result.json"))]
        why = f": {errors[0]}" if errors and errors[0] else ""
        raise InputError(f"{folder} holds no finished trial of the arm {BASE!r}{why}")
    results = pd.DataFrame(rows)
    metrics = described["metrics"]
    quadruples = [tuple(q) for q in described["interactions"]]
    present = set(results["arm"])
    quadruples = [q for q in quadruples if set(q[1:]) <= present]
    against = described.get("against") or {}
    alone, crossed = judge(results, metrics, quadruples, against=against)
    tables = {"results": results, "effects": alone}
    if quadruples:
        tables["interactions"] = crossed
    for name, table in tables.items():
        write_csv(folder / f"{name}.csv", table)
    primary = next(iter(metrics))
    base = results.loc[(results["arm"] == BASE) & (results["status"] == "done"), primary].mean()
    beside = {BASE: float(base), **scale(found, primary)}
    sentences = answer(alone, crossed if quadruples else None, metrics, beside, against)
    if described.get("truth_arm") and primary in results:
        sentences.insert(1, how_well_each_ranks(results, primary, described["truth_arm"]))
    answers = answered(read_evidence(folder))
    if answers:
        asked = f"{described['name']} asks {len(answers)} questions of {len(present)} arms."
        sentences = [f"{asked} {sentences[-1]}", *write_answers(answers, folder)]
    write_json(folder / "answer.json", sentences)
    write_report(folder, answers)
    return sentences
