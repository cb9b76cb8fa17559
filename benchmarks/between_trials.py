"""Seconds from the last training step of an ablation's trial to the first step of the next, the ranking apart.

The trials run as `nastricks ablate` runs them in its own process. All but the call that ranks the children is counted:
the checkpoint and the files at the end of a run, the configuration, the network and the Trainer of the next. The first
trial's start is not: it reads the data.
"""

import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

import pytorch_lightning as pl

from benchmarks.measure import CPU, Result
from nastricks.ablation import trial
from nastricks.ablation.trial import Training, run_training
from nastricks.ranking.rank import rank
from nastricks.recipe import resolve
from nastricks.run import Run, build


class Marks(pl.Callback):
    """When the first training step of a fit began and when the last one ended."""

    def __init__(self) -> None:
        self.first: float | None = None
        self.last = 0.0

    def on_train_batch_start(self, *args: Any) -> None:
        self.first = time.perf_counter() if self.first is None else self.first

    def on_train_batch_end(self, *args: Any) -> None:
        self.last = time.perf_counter()


def between_trials(trials: int = 6, epochs: int = 2) -> Result:
    """One figure for every trial but the first; `trials` at least 2.

    Raises:
        RuntimeError: a trial failed.
    """
    files = ["spaces/tiny64.yaml", "data/digits.yaml", "algorithms/spos.yaml"]
    config = resolve(files, [*CPU, "--trainer.max_epochs", str(epochs)])
    marks: list[Marks] = []
    ranking: list[float] = []

    def marked(*args: Any, **kwargs: Any) -> Run:
        run = build(*args, **kwargs)
        marks.append(Marks())
        run.trainer.callbacks.append(marks[-1])  # type: ignore[attr-defined]
        return run

    def timed(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        try:
            return rank(*args, **kwargs)
        finally:
            ranking.append(time.perf_counter() - start)

    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(trial, "build", marked),
        mock.patch.object(trial, "rank", timed),
    ):
        for seed in range(trials):
            results = run_training(Training(Path(folder), "benchmark", seed, {"base": config}, None, "all"))
            if any(result["status"] != "done" for result in results):
                raise RuntimeError(f"benchmark between_trials: a trial failed: {results[0]['error']}")
    gaps = [b.first - a.last - spent for a, b, spent in zip(marks, marks[1:], ranking, strict=False) if b.first]
    note = f"spos on tiny64 and digits, {trials} trials of {epochs} epochs in one process"
    return Result.of("between_trials", gaps, target=0.2, note=note, unit="s")
