"""Trains every child of a small space alone, several replicas, into a table of ground truth."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jsonargparse import Namespace

from nastricks.errors import InputError
from nastricks.files import write_json, write_text
from nastricks.modules import ChildModule
from nastricks.ranking.evaluate import score_children
from nastricks.ranking.tables import Table, write_table
from nastricks.recipe import dump, with_seed
from nastricks.run import build
from nastricks.search.engine import Engine, Lost
from nastricks.spaces import Space

FIRST_SEED = 1000
"""Replicas count their seeds from here, so that no supernet of an ablation shares their batch order."""

MOST_CHILDREN = 100_000


@dataclass(frozen=True, eq=False)
class Replica:
    """One child trained alone once."""

    folder: Path
    config: Namespace
    architecture: str
    number: int

    @property
    def file(self) -> Path:
        return self.folder / "trials" / self.architecture / f"replica={self.number}.json"


def train_replica(replica: Replica) -> float:
    """Test accuracy in [0, 1] of one child trained alone; written beside the others."""
    config = with_seed(replica.config, FIRST_SEED + replica.number)
    config.model.init_args.architecture = replica.architecture
    run = build(config, None, quiet=True)
    run.fit()
    module: Any = run.module
    architecture = module.policy.architecture
    batches = run.data.evaluation_batches("test")
    score = score_children(module.space, module.networks[0], [architecture], batches)[architecture]
    write_json(replica.file, {"architecture": replica.architecture, "accuracy": score.accuracy, "loss": score.loss})
    return score.accuracy


def make_table(
    config: Namespace, replicas: int, folder: Path, engine: Engine, done: Callable[[str], None] = lambda line: None
) -> Path:
    """Train what is missing, then write ``table.csv``; returns its path. A row an architecture that a ranking counts.

    Raises:
        InputError: no child recipe, fewer than one replica, a space that is too large, a folder of another table, or
            a child that could not be trained.
    """
    if replicas < 1:
        raise InputError(f"--replicas is {replicas}: expected at least 1")
    probe = build(config, None, quiet=True)
    probe.check()
    if not isinstance(probe.module, ChildModule):
        raise InputError("bench trains children: add a child recipe, such as -c recipes/child/tiny64.yaml")
    space: Space = probe.module.space
    if space.size > MOST_CHILDREN:
        raise InputError(f"{space.name} has {space.size} children: bench trains every one, at most {MOST_CHILDREN}")
    _claim(config, folder)
    names = [space.format(architecture) for architecture in space.rankable()]
    tasks = [Replica(folder, config, name, number) for number in range(replicas) for name in names]
    missing = [task for task in tasks if not task.file.exists()]
    for _ in range(len(tasks) - len(missing)):
        done("kept")
    for task, result in engine.run(train_replica, missing):
        if isinstance(result, Lost):
            raise InputError(f"child {task.architecture}, replica {task.number}: {result.reason}")
        done("done")
    accuracies = np.array(
        [
            [json.loads(Replica(folder, config, a, n).file.read_text())["accuracy"] for n in range(replicas)]
            for a in names
        ]
    )
    path = folder / "table.csv"
    write_table(path, Table(names, accuracies, name=str(path)))
    return path


def _claim(config: Namespace, folder: Path) -> None:
    """Write config.yaml and its fingerprint, or see that the folder holds the same table (replicas may be added)."""
    text = dump(config)
    fingerprint = hashlib.sha256(text.encode()).hexdigest()
    path = folder / "bench.json"
    if path.exists():
        if json.loads(path.read_text()).get("fingerprint") != fingerprint:
            raise InputError(f"{folder} holds the table of another recipe: choose another --out")
    elif folder.exists() and any(folder.iterdir()):
        raise InputError(f"{folder} is not empty and holds no table: choose another --out")
    write_text(folder / "config.yaml", text)
    write_json(path, {"fingerprint": fingerprint})
