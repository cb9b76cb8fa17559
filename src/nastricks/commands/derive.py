"""`nastricks derive`: the architecture that an algorithm settles on."""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from nastricks.commands.progress import progress
from nastricks.errors import InputError
from nastricks.files import write_json, write_text
from nastricks.modules import SupernetModule
from nastricks.ranking.rank import scored, trained_supernet
from nastricks.run import Run, calibration_of, load_run
from nastricks.spaces import Architecture
from nastricks.spaces.drawing import draw


def derive(arguments: argparse.Namespace) -> int:
    """Print the architecture alone on a line, then where its drawing is."""
    out = Path(arguments.out) if arguments.out else Path(arguments.run)
    name = derived(Path(arguments.run), out)
    path = out / "result.json"
    known = json.loads(path.read_text()) if path.is_file() else {}
    write_json(path, {**known, "derived": name})
    print(name)
    print(f"drawing: {out / 'derived.svg'}")
    return 0


def derived(folder: Path, out: Path) -> str:
    """The architecture of a finished run; draws it into `out`."""
    run = load_run(folder)
    module = run.module
    if not isinstance(module, SupernetModule):
        raise InputError(f"{folder} trained a child: there is nothing to derive")
    architecture = module.derivation.derive(trained_supernet(module, run.data, lambda: _scores(run, folder)))
    name = module.space.format(architecture)
    write_text(out / "derived.svg", draw(module.space.graph(architecture), f"{module.space.name} {name}"))
    return name


def _scores(run: Run, folder: Path) -> Mapping[Architecture, float]:
    """The run's whole ranking where there is one, else an evaluation of all children."""
    space = run.module.space
    path = folder / "ranking.csv"
    if path.is_file():
        rows = pd.read_csv(path, dtype={"architecture": str})
        if len(rows) == space.size:
            return {space.parse(a): float(s) for a, s in zip(rows["architecture"], rows["accuracy"], strict=True)}
    chosen = list(space.architectures())
    with progress("rank", len(chosen)) as (bar, number):
        found = scored(run.module, run.data, chosen, calibration_of(run.config), lambda n: bar.advance(number, n))
    return {architecture: score.accuracy for architecture, score in found.items()}
