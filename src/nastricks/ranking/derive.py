"""Reads an architecture off a finished run, and draws it."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from nastricks.errors import InputError
from nastricks.files import write_text
from nastricks.modules import SupernetModule
from nastricks.ranking.rank import MOST_CHILDREN, picked, scored, trained_supernet
from nastricks.run import Run, calibration_of, load_run
from nastricks.spaces import Architecture
from nastricks.spaces.drawing import draw

ScoreAll = Callable[[Run], Mapping[Architecture, float]]


def derived(
    folder: Path,
    out: Path,
    drawing: str = "derived.svg",
    derivation: Mapping[str, Any] | None = None,
    score_all: ScoreAll | None = None,
) -> str:
    """The architecture of a finished run; draws it into `out`.

    Args:
        folder: The run.
        out: Where the drawing goes.
        drawing: Its name.
        derivation: Class path and arguments of another derivation than the run's own.
        score_all: Scores all children where the derivation asks for that and the run has no whole ranking; None scores
            them without telling how far it is.

    Raises:
        InputError: the folder holds no supernet's run.
    """
    changed = [] if derivation is None else ["--model.init_args.derivation", json.dumps(derivation)]
    run = load_run(folder, changed)
    module = run.module
    if not isinstance(module, SupernetModule):
        raise InputError(f"{folder} trained a child: there is nothing to derive")
    trained = trained_supernet(module, run.data, lambda: _ranked(run, folder) or (score_all or all_scores)(run))
    architecture = module.space.counted(module.derivation.derive(trained))
    name = module.space.format(architecture)
    write_text(out / drawing, draw(module.space.graph(architecture), f"{module.space.name} {name}"))
    return name


def _ranked(run: Run, folder: Path) -> Mapping[Architecture, float]:
    """The run's whole ranking, or what there is of it in a space too large to rank; {} where there is none."""
    space, path = run.module.space, folder / "ranking.csv"
    if path.is_file():
        rows = pd.read_csv(path, dtype={"architecture": str})
        if len(rows) == space.rankable_size or space.size > MOST_CHILDREN:
            return {space.parse(a): float(s) for a, s in zip(rows["architecture"], rows["accuracy"], strict=True)}
    return {}


def allowed_children(run: Run) -> list[Architecture]:
    """The children that a ranking counts and that a run's policy allows: its network may hold no others.

    Raises:
        InputError: they are too many to score them all.
    """
    space, allowed = run.module.space, run.module.policy.derivable
    return picked(space, "all", seed=0) if allowed == space.all_options() else space.counted_within(allowed)


def all_scores(run: Run, done: Callable[[int], None] = lambda count: None) -> Mapping[Architecture, float]:
    """The accuracy of every child that a run's policy allows, calibrated as its recipe says."""
    found = scored(run.module, run.data, allowed_children(run), calibration_of(run.config), done)
    return {architecture: score.accuracy for architecture, score in found.items()}
