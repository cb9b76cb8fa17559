"""`nastricks derive`: the architecture that an algorithm settles on."""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError

from nastricks.commands.progress import progress
from nastricks.derivations import Derivation
from nastricks.errors import InputError
from nastricks.files import write_json
from nastricks.ranking.derive import all_scores, allowed_children, derived
from nastricks.recipe import RecipeParser, refused
from nastricks.run import Run
from nastricks.spaces import Architecture


def derive(arguments: argparse.Namespace) -> int:
    """Print the architecture alone on a line, then where its drawing is.

    Another derivation than the run's leaves ``derived`` of result.json as it is, and draws into a file of its own name.
    """
    out = Path(arguments.out) if arguments.out else Path(arguments.run)
    if arguments.derivation is None:
        if arguments.overrides:
            raise InputError(f"{arguments.overrides[0]} needs the derivation's name: add --derivation BestEdges, say")
        drawing = "derived.svg"
        name = derived(Path(arguments.run), out, score_all=told_scores)
        path = out / "result.json"
        known = json.loads(path.read_text()) if path.is_file() else {}
        write_json(path, {**known, "derived": name})
    else:
        chosen = named_derivation(arguments.derivation, arguments.overrides)
        drawing = f"derived_{chosen['class_path'].rpartition('.')[2]}.svg"
        name = derived(Path(arguments.run), out, drawing, chosen, told_scores)
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


def told_scores(run: Run) -> Mapping[Architecture, float]:
    """Score all children, under a progress bar."""
    with progress("rank", len(allowed_children(run))) as (bar, number):
        return all_scores(run, lambda count: bar.advance(number, count))
