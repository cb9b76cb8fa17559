"""Ranks the children of a supernet at many moments of its training: how steady is the ranking?

"Deeper Insights into Weight Sharing" (arXiv 2001.01431, section 4) looks at the last epochs and at the last
mini-batches, and finds that the ranking moves with every one of them.
"""

from collections.abc import Mapping
from typing import Any

import pandas as pd
import pytorch_lightning as pl

from nastricks.errors import InputError
from nastricks.files import write_csv
from nastricks.modules import Calibration, SupernetModule
from nastricks.modules.run_folder import MetricsFile
from nastricks.ranking.rank import picked, scored
from nastricks.spaces import Architecture

FILE = "ranking_over_time.csv"
EPOCHS, LAST_EPOCHS, LAST, MIDDLE = "epochs", "last epochs", "last batches", "middle batches"


def moments(
    steps: int, per_epoch: int, every_n_epochs: int, last_epochs: int, last_steps: int, middle_steps: int
) -> dict[int, list[str]]:
    """Batch, counted from 1, after which children are scored -> the series that it belongs to.

    `epochs` are every so many epochs and the end, `last epochs` each of the last ones, `last batches` each of the last
    ones, `middle batches` each of a stretch that begins in the middle of the training.
    """
    found: dict[int, list[str]] = {}
    ends = list(range(per_epoch, steps + 1, per_epoch))
    if every_n_epochs:
        for step in dict.fromkeys([*ends[every_n_epochs - 1 :: every_n_epochs], *ends[-1:]]):
            found.setdefault(step, []).append(EPOCHS)
    for step in ends[-last_epochs:] if last_epochs else []:
        found.setdefault(step, []).append(LAST_EPOCHS)
    for step in range(max(1, steps - last_steps + 1), steps + 1):
        found.setdefault(step, []).append(LAST)
    for step in range(steps // 2 + 1, min(steps, steps // 2 + middle_steps) + 1):
        found.setdefault(step, []).append(MIDDLE)
    return dict(sorted(found.items()))


class RankingOverTime(pl.Callback):
    """Scores all children at the moments asked for, into ``ranking_over_time.csv`` of the run's folder.

    The training is not changed by a bit. Columns: step (batches done), epoch, series, architecture, accuracy, loss.

    Args:
        every_n_epochs: Score after every so many epochs and at the end; 0 does not.
        last_epochs: Score after each of so many last epochs.
        last_steps: Score after each of so many last batches.
        middle_steps: Score after each of so many batches from the middle on, where the learning rate is high still.
        calibration_batches: Training batches that a child's batch-norm statistics are recomputed over; 0 keeps the
            running ones.
        children: ``all``, or a number of keyed random ones.

    Raises:
        InputError: a number below 0, or nothing asked for.
    """

    def __init__(
        self,
        every_n_epochs: int = 0,
        last_epochs: int = 0,
        last_steps: int = 0,
        middle_steps: int = 0,
        calibration_batches: int = 10,
        children: str = "all",
    ) -> None:
        asked = {
            "every_n_epochs": every_n_epochs,
            "last_epochs": last_epochs,
            "last_steps": last_steps,
            "middle_steps": middle_steps,
        }
        for key, value in {**asked, "calibration_batches": calibration_batches}.items():
            if value < 0:
                raise InputError(f"RankingOverTime.{key} is {value}: expected at least 0")
        if not any(asked.values()):
            raise InputError(f"RankingOverTime scores nothing: set one of {', '.join(asked)}")
        self.asked = asked
        self.calibration = Calibration(calibration_batches) if calibration_batches else None
        self.children = children
        self._moments: dict[int, list[str]] = {}
        self._chosen: list[Architecture] = []
        self._scores: dict[int, list[list[float]]] = {}  # step -> (accuracy, loss) a child

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        module = supernet_of(pl_module, self)
        steps = round(module.epochs * module.steps_per_epoch)
        self._moments = moments(steps, module.steps_per_epoch, **self.asked)
        self._chosen = picked(module.space, self.children, seed=0)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        module = supernet_of(pl_module, self)
        if module.steps_seen in self._moments and module.steps_seen not in self._scores:
            found = scored(module, trainer.datamodule, self._chosen, self.calibration)  # type: ignore[attr-defined]
            self._scores[module.steps_seen] = [list(found[architecture]) for architecture in self._chosen]

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        write_beside(trainer, FILE, self.rows(supernet_of(pl_module, self)))

    def rows(self, module: SupernetModule) -> pd.DataFrame:
        """What was scored so far."""
        names = [module.space.format(architecture) for architecture in self._chosen]
        rows = [
            (step, step / module.steps_per_epoch, series, name, accuracy, loss)
            for step, scores in sorted(self._scores.items())
            for series in self._moments.get(step, [])
            for name, (accuracy, loss) in zip(names, scores, strict=True)
        ]
        return pd.DataFrame(rows, columns=["step", "epoch", "series", "architecture", "accuracy", "loss"])

    def state_dict(self) -> dict[str, Any]:
        return {"scores": {str(step): scores for step, scores in self._scores.items()}}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        self._scores = {int(step): scores for step, scores in state_dict["scores"].items()}


def supernet_of(module: pl.LightningModule, callback: pl.Callback) -> SupernetModule:
    """The module, if it is a supernet.

    Raises:
        InputError: it is none.
    """
    if not isinstance(module, SupernetModule):
        raise InputError(
            f"{type(callback).__name__} scores the children of a supernet, and this run trains a "
            f"{type(module).__name__}: take it out of trainer.callbacks"
        )
    return module


def write_beside(trainer: pl.Trainer, name: str, frame: pd.DataFrame) -> None:
    """Write a table into the run's folder, where the run has one."""
    for logger in trainer.loggers:
        if isinstance(logger, MetricsFile) and trainer.is_global_zero:
            write_csv(logger.path.parent / name, frame)
