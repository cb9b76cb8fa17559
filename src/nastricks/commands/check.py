"""`nastricks check`: proves each trick of a recipe alive."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from rich.console import Console
from rich.table import Table

from nastricks.data import TensorDataModule
from nastricks.errors import InputError
from nastricks.files import write_text
from nastricks.modules import TrainingModule
from nastricks.modules.proof import Proof, order_of_tricks, prove
from nastricks.modules.trick import Calibration
from nastricks.ranking.evaluate import score_children, scoring_of
from nastricks.recipe import resolve
from nastricks.rng import generator
from nastricks.run import Run, build


def check(arguments: argparse.Namespace) -> int:
    """Print the order of the tricks and what each one changes; 1 if one is dead."""
    config = resolve(arguments.config, arguments.overrides)
    names = [name for name, trick in vars(config.tricks).items() if trick is not None]
    if not names:
        raise InputError("this recipe has no trick to check: add one, such as -c recipes/tricks/sam.yaml")
    order = order_of_tricks(build(config, None, quiet=True).tricks)
    proofs = [prove(name, lambda without: built(config, without), score_child) for name in names]
    settings = {name: _settings(config.tricks[name]) for name in names}
    _print(order, proofs, settings)
    out = arguments.out or config.out  # --out may stand among the recipe's own arguments
    if out is not None:
        write_text(Path(out) / "check.json", json.dumps(_report(order, proofs, settings), indent=2) + "\n")
    dead = [proof.trick for proof in proofs if not proof.alive]
    if dead:
        subject = f"trick {dead[0]} changes" if len(dead) == 1 else f"tricks {', '.join(dead)} change"
        print(f"nastricks: {subject} nothing here: change the settings, or leave out what is dead", file=sys.stderr)
    return 1 if dead else 0


def built(config: Namespace, without: str | None) -> Run:
    """The run of a configuration, without one trick where a name is given."""
    changed = config.clone()
    if without is not None:
        changed.tricks[without] = None
    return build(changed, None, quiet=True)


def score_child(module: TrainingModule, data: TensorDataModule, calibration: Calibration | None) -> tuple[float, float]:
    """Accuracy and loss of a child on validation images: the module's own, or a uniformly drawn one of a supernet."""
    space, allowed = module.space, module.policy.allowed
    architecture = space.sample(generator(module.seed, "check", "child"))
    if all(len(options) == 1 for options in allowed.values()):
        architecture = tuple(allowed[choice.name][0] for choice in space.choices)
    scoring = scoring_of(data, calibration, "validation", limit=1)
    score = score_children(space, module.network_of(space.gates(architecture)), [architecture], scoring)
    return score[architecture].accuracy, score[architecture].loss


def _settings(trick: Any) -> dict[str, Any]:
    """The arguments of a trick as the recipe gives them."""
    arguments = trick.get("init_args", trick) if isinstance(trick, Namespace) else trick
    return dict(vars(arguments)) if isinstance(arguments, Namespace) else dict(arguments or {})


def _print(order: Any, proofs: list[Proof], settings: dict[str, dict[str, Any]]) -> None:
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print("order of the tricks at each point of the training step:")
    for point, names in order.items():
        console.print(f"  {point}: {' -> '.join(names)}", highlight=False)
    table = Table(show_lines=False)
    for column in ("trick", "settings", "changes", "active from step", "measured change", "acts", ""):
        table.add_column(column, overflow="fold")
    for proof in proofs:
        table.add_row(
            proof.trick,
            ", ".join(f"{key} {value}" for key, value in settings[proof.trick].items()),
            proof.changes,
            str(proof.first) + ("" if proof.step == proof.first else f" (measured at {proof.step})"),
            proof.measured.words,
            str(proof.acts),
            "[green]alive[/green]" if proof.alive else "[red]DEAD[/red]",
        )
    console.print(table)


def _report(order: Any, proofs: list[Proof], settings: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What check.json holds."""
    tricks = [
        {
            "trick": proof.trick,
            "settings": settings[proof.trick],
            "changes": proof.changes,
            "first_active_step": proof.first,
            "measured_step": proof.step,
            "change": proof.measured.size,
            "measured": proof.measured.words,
            "acts": proof.acts,
            "alive": proof.alive,
        }
        for proof in proofs
    ]
    return {"order": order, "tricks": tricks}
