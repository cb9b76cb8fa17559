"""`nastricks ablate` and `nastricks report`."""

import argparse
from contextlib import closing
from pathlib import Path

from nastricks.ablation.design import read_design
from nastricks.ablation.plan import plan
from nastricks.ablation.runner import conclude, run_ablation
from nastricks.ablation.trial import Training
from nastricks.commands.progress import progress
from nastricks.errors import InputError
from nastricks.search.engine import Engine, engine


def ablate(arguments: argparse.Namespace) -> int:
    """Run ablations, or what is missing of them; print each one's answer in words."""
    if arguments.out and len(arguments.files) > 1:
        raise InputError("--out names the folder of one ablation, and several are given: leave it out")
    with closing(engine(arguments.workers, arguments.ray)) as runs:
        for file in arguments.files:
            _ablate(file, arguments, runs)
    return 0


def _ablate(file: str, arguments: argparse.Namespace, runs: Engine) -> None:
    design = read_design(file).without(arguments.without)
    planned = plan(design, file, arguments.config, arguments.overrides)
    folder = Path(arguments.out) if arguments.out else Path("runs") / design.name
    with progress(design.name, len(planned.trainings(folder))) as (bar, number):

        def done(training: Training, line: str) -> None:
            if line not in ("done", "kept"):
                bar.console.print(f"{next(iter(training.arms))}, seed {training.seed}: {line}", markup=False)
            bar.advance(number)

        sentences = run_ablation(planned, folder, runs, done)
    _tell(sentences, folder)


def report(arguments: argparse.Namespace) -> int:
    """Rebuild the tables and the page from the trials that are done."""
    folder = Path(arguments.folder)
    _tell(conclude(folder), folder)
    return 0


def _tell(sentences: list[str], folder: Path) -> None:
    for sentence in sentences:
        print(sentence)
    print(f"\nreport: {folder / 'report.html'}")
