"""From an ablation's design to the resolved configuration of every arm, checked before anything runs."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from nastricks.ablation.design import BASE, Arm, Design
from nastricks.ablation.setting import Setting, text_of
from nastricks.ablation.staged import known_metrics
from nastricks.ablation.trial import Training
from nastricks.errors import InputError, unknown
from nastricks.modules import SupernetModule
from nastricks.modules.registry import tricks as all_tricks
from nastricks.ranking.metrics import ranking_metrics_by_accuracy_and_loss
from nastricks.ranking.rank import DISCRETISATION_LOSS, find_table, picked
from nastricks.recipe import locate
from nastricks.run import build
from nastricks.search.loop import Search
from nastricks.search.recipe import dump_any, resolve_any, searches
from nastricks.stages import Stages, read_stages
from nastricks.stages.recipe import overrides_of


@dataclass(frozen=True)
class Plan:
    """An ablation ready to run: its design and each arm's resolved configuration."""

    design: Design
    file: Path
    extra: tuple[str, ...]
    configs: Mapping[str, Setting]
    overrides: tuple[str, ...] = ()

    def trainings(self, folder: Path) -> list[Training]:
        """All trainings, seed by seed; arms that differ only in what happens after training share one."""
        groups: dict[str, dict[str, Setting]] = {}
        for arm, config in self.configs.items():
            groups.setdefault(training_key(config), {})[arm] = config
        return [
            Training(
                folder, self.design.name, seed, arms, self.design.table, self.design.children, self.design.truth_arm
            )
            for seed in self.design.seeds
            for arms in groups.values()
        ]


def plan(design: Design, file: str | Path, extra: Sequence[str] = (), overrides: Sequence[str] = ()) -> Plan:
    """Resolve and check every arm before anything runs.

    `extra` are files stacked onto the base, `overrides` keys set for the base (``--a.b value``); what an arm says
    itself comes on top.

    Raises:
        InputError: two arms that resolve to the same setting, a trick that cannot act, a metric that is not known.
    """
    _refuse_tricks_of_arms(design, overrides, str(file))
    configs = {arm: arm_config(design, settings, extra, overrides) for arm, settings in design.arms.items()}
    seen: dict[str, str] = {}
    for arm, config in configs.items():
        text = text_of(config)
        if text in seen:
            raise InputError(
                f"arms {seen[text]!r} and {arm!r} of {file} resolve to the same setting: change one or leave it out"
            )
        seen[text] = arm
        try:
            known = _known_metrics(design, config, str(file)) if arm == BASE else _check(design, config)
        except InputError as error:
            raise InputError(f"arm {arm!r} of {file}: {error}") from error
        for metric in design.metrics if arm == BASE else ():
            if metric not in known:
                raise unknown(f"metric in {file}:", metric, known)
    return Plan(design, locate(file), tuple(extra), configs, tuple(overrides))


def _refuse_tricks_of_arms(design: Design, overrides: Sequence[str], file: str) -> None:
    named = {trick for arm in design.arms.values() for trick in arm.tricks}
    for override in overrides:
        trick = override.partition("=")[0].removeprefix("--tricks.").partition(".")[0]
        if override.startswith("--tricks.") and trick in named:
            raise InputError(f"{file} says itself in which arms {trick} is on, and how: change it there")


def arm_config(design: Design, arm: Arm, extra: Sequence[str], given: Sequence[str] = ()) -> Setting:
    """The base stack with an arm's files, tricks and keys on top; `given` overrides stand between base and arm.

    An arm of stages has them in place of the base stack.
    """
    tricks: list[str] = []
    for name, settings in arm.tricks.items():
        if settings is None:
            tricks.append(f"--tricks.{name}=null")
        else:
            recipe = (yaml.safe_load(locate(f"tricks/{name}.yaml").read_text()) or {}) if _ships(name) else {}
            whole = {**((recipe.get("tricks") or {}).get(name) or {}), **settings}
            tricks.append(f"--tricks.{name}={json.dumps(_consistent(name, whole, settings))}")
    keys = [*overrides_of(design.set), *_joined(given), *overrides_of(arm.set)]
    file = arm.stages or design.stages
    if file is not None:
        return read_stages(file).changed([*arm.stack, *extra], keys, tricks)
    return resolve_any([*design.stack, *arm.stack, *extra], [*tricks, *keys])


def _joined(overrides: Sequence[str]) -> list[str]:
    """``--a.b value`` as ``--a.b=value``."""
    joined: list[str] = []
    for part in overrides:
        if joined and "=" not in joined[-1] and not part.startswith("--"):
            joined[-1] = f"{joined[-1]}={part}"
        else:
            joined.append(part)
    return joined


def _ships(trick: str) -> bool:
    try:
        locate(f"tricks/{trick}.yaml")
    except InputError:
        return False
    return True


def _consistent(trick: str, whole: dict[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """An arm that sets weight_warmup.epochs means it in place of the recipe's fraction."""
    if trick == "weight_warmup" and "epochs" in given and "fraction" not in given:
        whole.pop("fraction", None)
    return whole


def _check(design: Design, setting: Setting) -> list[str]:
    """Refuse now what a trial would refuse; the metrics that are known of a search and of stages."""
    if isinstance(setting, Stages):
        known = known_metrics(setting, design.table)
        for metric in list(design.metrics)[:1]:  # others may be empty: a ranking of children is no stages' to give
            if metric in ("derived_accuracy", "derived_rank") and metric not in known:
                raise InputError(
                    f"{setting.name} is judged by a table, and none ships for its space and data: make one with "
                    "`nastricks bench` and name it under table"
                )
            if metric not in known:
                raise unknown("metric of stages:", metric, known)
        return known
    if searches(setting):
        return Search(setting).metric_names()
    build(setting, None, quiet=True).check()
    return []


def _known_metrics(design: Design, setting: Setting, file: str) -> list[str]:
    """What a trial measures.

    Raises:
        InputError: it cannot run, or it would lack the ground truth that a metric needs.
    """
    if design.truth_arm is not None and isinstance(setting, Stages):
        raise InputError(f"truth_arm of {file} compares children trained alone: name a stack with a child recipe")
    if isinstance(setting, Stages) or searches(setting):
        return _check(design, setting)
    ranked = list(ranking_metrics_by_accuracy_and_loss([0.0, 1.0], [1.0, 0.0], [0.0, 1.0]))
    trained = ["train/loss", "train/accuracy"]
    run = build(setting, None, quiet=True)
    run.check()
    if not isinstance(run.module, SupernetModule):
        own = ["accuracy", "loss", *trained]
        return own if design.truth_arm is None else [*ranked, "mean_accuracy", "mean_loss", "diverged"]
    if design.truth_arm is not None:
        raise InputError(f"truth_arm of {file} compares children trained alone: add a child recipe to the stack")
    table = find_table(run.module.space, run.data, design.table)
    measured = [] if run.module.measures is None else run.module.measures.names
    measured += ["supernet_accuracy", DISCRETISATION_LOSS] if run.module.policy.weighted else []
    judged = [m for m in design.metrics if m not in (*trained, *measured)]
    if table is None and judged:
        raise InputError(
            f"{file} asks for {judged[0]}, and no table ships for {run.module.space.name} on {run.data.name}: "
            "make one with `nastricks bench` and name it under table"
        )
    if table is not None:
        chosen = picked(run.module.space, design.children, seed=0)
        table.require(run.module.space.format(a) for a in chosen)
    return [*ranked, "derived_accuracy", "derived_rank", *trained, *measured]


def training_key(setting: Setting) -> str:
    """What a training depends on: everything but the tricks that act after it."""
    if isinstance(setting, Stages):  # they act where an architecture is derived, and so on the stages that follow
        return hashlib.sha256(setting.text.encode()).hexdigest()
    clean = setting.clone()
    for name in vars(clean.tricks) if not searches(setting) else ():  # in a search they act on every child
        if all_tricks()[name].after_training:
            clean.tricks[name] = None
    return hashlib.sha256(dump_any(clean).encode()).hexdigest()
