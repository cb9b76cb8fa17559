"""`nastricks run`: the stages of a recipe, one after another (DESIGN idea 4).

A stage is one fit into its own folder. A supernet's stage ends by deriving an architecture, a child's by its accuracy
on the test split; a later stage may start from an earlier one's architecture or weights. A stage that has its
``result.json`` is done; one that has a checkpoint goes on from it.
"""

import argparse
import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nastricks.ablation.trial import child_metrics
from nastricks.commands.derive import derived
from nastricks.errors import InputError, unknown
from nastricks.files import write_json
from nastricks.modules import SupernetModule
from nastricks.modules.run_folder import LAST
from nastricks.recipe import dump, read_yaml, resolve
from nastricks.run import build, calibration_of

KEYS = ("stack", "set", "architecture_of", "weights_of")


def run(arguments: argparse.Namespace) -> int:
    """Run every stage that is not done."""
    content = read_yaml(arguments.file)
    for key in content:
        if key not in ("name", "description", "stages"):
            raise unknown(f"key of {arguments.file}", key, ("name", "description", "stages"))
    stages = content.get("stages")
    if not isinstance(stages, dict) or not stages:
        raise InputError(f"{arguments.file} has no stages: expected stages, each with a stack of recipe files")
    _check(stages, arguments.file)
    name = str(content.get("name") or Path(arguments.file).stem)
    folder = Path(arguments.out) if arguments.out else Path("runs") / name
    for stage, settings in stages.items():
        result = _stage(stage, settings, folder)
        told = ", ".join(
            f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in result
        )
        print(f"{stage}: {told}")
    return 0


def _check(stages: Mapping[str, Any], file: str) -> None:
    """Refuse unknown keys, and stages that start from one that is not before them."""
    before: list[str] = []
    for stage, settings in stages.items():
        if not isinstance(settings, dict) or not settings.get("stack"):
            raise InputError(f"stage {stage} of {file} lacks a stack of recipe files")
        for key in settings:
            if key not in KEYS:
                raise unknown(f"key of stage {stage} in {file}", key, KEYS)
        for key in ("architecture_of", "weights_of"):
            if key in settings and settings[key] not in before:
                raise InputError(f"stage {stage} of {file} takes {key} {settings[key]!r}, which is no earlier stage")
        resolve(settings["stack"], _overrides(settings))
        before.append(stage)


def _overrides(settings: Mapping[str, Any]) -> list[str]:
    return [
        f"--{key}={value if isinstance(value, str) else json.dumps(value)}"
        for key, value in (settings.get("set") or {}).items()
    ]


def _stage(stage: str, settings: Mapping[str, Any], folder: Path) -> list[tuple[str, Any]]:
    place = folder / stage
    overrides = _overrides(settings)
    if "architecture_of" in settings:
        architecture = json.loads((folder / settings["architecture_of"] / "result.json").read_text())["derived"]
        overrides.append(f"--model.init_args.architecture={architecture}")
    if "weights_of" in settings:
        overrides.append(f"--model.init_args.weights={folder / settings['weights_of']}")
    config = resolve(settings["stack"], overrides)
    fingerprint = hashlib.sha256(dump(config).encode()).hexdigest()
    path = place / "result.json"
    if path.is_file():
        result = json.loads(path.read_text())
        if result.get("fingerprint") != fingerprint:
            raise InputError(f"{place} holds this stage under other settings: choose another --out")
        return [(key, result[key]) for key in ("derived", "accuracy", "loss") if key in result]
    checkpoint = place / LAST
    started = place / "stage.json"
    if not started.is_file() or json.loads(started.read_text())["fingerprint"] != fingerprint:
        shutil.rmtree(place, ignore_errors=True)
    write_json(started, {"fingerprint": fingerprint})
    built = build(config, place)
    built.fit(ckpt_path=str(checkpoint) if checkpoint.is_file() else None)
    found: dict[str, Any] = {}
    if isinstance(built.module, SupernetModule):
        found["derived"] = derived(place, place)
    else:
        found = child_metrics(built, calibration_of(config))
    write_json(path, {**found, "fingerprint": fingerprint})
    return list(found.items())
