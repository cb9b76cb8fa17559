"""`nastricks ablate` and `nastricks report`."""

import argparse
from pathlib import Path

from nastricks.ablation.design import read_design
from nastricks.ablation.runner import conclude, plan, run_ablation
from nastricks.ablation.trial import Training
from nastricks.commands.progress import progress
from nastricks.search.engine import engine


def ablate(arguments: argparse.Namespace) -> int:
    """Run an ablation, or what is missing of it; print the answer in words."""
    design = read_design(arguments.file)
    runs = engine(arguments.workers, arguments.ray)
    planned = plan(design, arguments.file, arguments.config)
    folder = Path(arguments.out) if arguments.out else Path("runs") / design.name
    with progress(design.name, len(planned.trainings(folder))) as (bar, number):

        def done(training: Training, line: str) -> None:
            if line not in ("done", "kept"):
                bar.console.print(f"{next(iter(training.arms))}, seed {training.seed}: {line}", markup=False)
            bar.advance(number)

        sentences = run_ablation(planned, folder, runs, done)
    _tell(sentences, folder)
    return 0


def report(arguments: argparse.Namespace) -> int:
    """Rebuild the tables and the page from the trials that are done."""
    folder = Path(arguments.folder)
    _tell(conclude(folder), folder)
    return 0


def _tell(sentences: list[str], folder: Path) -> None:
    for sentence in sentences:
        print(sentence)
    print(f"\nreport: {folder / 'report.html'}")
