"""`nastricks derive`: the architecture that an algorithm settles on."""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from jsonargparse import ArgumentError

from nastricks.commands.progress import progress
from nastricks.derivations import Derivation
from nastricks.errors import InputError
from nastricks.files import write_json, write_text
from nastricks.modules import SupernetModule
from nastricks.ranking.rank import scored, trained_supernet
from nastricks.recipe import RecipeParser, refused
from nastricks.run import Run, calibration_of, load_run
from nastricks.spaces import Architecture
from nastricks.spaces.drawing import draw


def derive(arguments: argparse.Namespace) -> int:
    """Print the architecture alone on a line, then where its drawing is.

    Another derivation than the run's leaves ``derived`` of result.json as it is, and draws into a file of its own name.
    """
    out = Path(arguments.out) if arguments.out else Path(arguments.run)
    if arguments.derivation is None:
        if arguments.overrides:
            raise InputError(f"{arguments.overrides[0]} needs the derivation's name: add --derivation BestEdges, say")
        drawing = "derived.svg"
        name = derived(Path(arguments.run), out)
        path = out / "result.json"
        known = json.loads(path.read_text()) if path.is_file() else {}
        write_json(path, {**known, "derived": name})
    else:
        chosen = named_derivation(arguments.derivation, arguments.overrides)
        drawing = f"derived_{chosen['class_path'].rpartition('.')[2]}.svg"
        name = derived(Path(arguments.run), out, drawing, chosen)
    print(name)
    print(f"drawing: {out / drawing}")
    return 0


def named_derivation(name: str, overrides: Sequence[str]) -> dict[str, Any]:
    """Class and arguments of a derivation, all of them spelt out: none is left over from the run's own."""
    for override in overrides:
        if not override.startswith("--derivation.") and override.startswith("--"):
            raise InputError(f"{override} is no argument of a derivation: expected --derivation.NAME, such as .edges")
    parser = RecipeParser()
    parser.add_subclass_arguments(Derivation, "derivation", required=True)
    try:
        config = parser.parse_args(["--derivation", name, *overrides])
    except ArgumentError as error:
        raise refused(error) from error
    made: dict[str, Any] = config.derivation.as_dict()
    return made


def derived(folder: Path, out: Path, drawing: str = "derived.svg", derivation: Mapping[str, Any] | None = None) -> str:
    """The architecture of a finished run, by its own derivation unless another is given; draws it into `out`."""
    changed = [] if derivation is None else ["--model.init_args.derivation", json.dumps(derivation)]
    run = load_run(folder, changed)
    module = run.module
    if not isinstance(module, SupernetModule):
        raise InputError(f"{folder} trained a child: there is nothing to derive")
    architecture = module.derivation.derive(trained_supernet(module, run.data, lambda: _scores(run, folder)))
    name = module.space.format(architecture)
    write_text(out / drawing, draw(module.space.graph(architecture), f"{module.space.name} {name}"))
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
