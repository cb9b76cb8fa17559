"""After a supernet's training, ranks its children again after some batches of their own."""

from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl

from nastricks.errors import InputError
from nastricks.modules import Calibration
from nastricks.ranking.fine_tuning import fine_tune
from nastricks.ranking.over_time import supernet_of, write_beside
from nastricks.ranking.rank import picked

FILE = "fine_tuned_children.csv"


class FineTuningCurve(pl.Callback):
    """Writes the children's scores after each number of batches into ``fine_tuned_children.csv`` of the run's folder.

    What `nastricks rank --fine-tune` does to a finished run; the module is left as it was.

    Args:
        batches: After how many batches they are scored, rising; 0 is the shared weights themselves.
        rate: The learning rate; None for a tenth of the recipe's.
        calibration_batches: Training batches that a child's batch-norm statistics are recomputed over; 0 keeps the
            running ones.
        children: ``all``, or a number of keyed random ones.

    Raises:
        InputError: a value out of its range.
    """

    def __init__(
        self,
        batches: Sequence[int] = (0, 1, 5, 10),
        rate: float | None = None,
        calibration_batches: int = 10,
        children: str = "all",
    ) -> None:
        self.batches = list(batches)
        if self.batches != sorted(set(self.batches)) or not self.batches or self.batches[0] < 0 or not self.batches[-1]:
            raise InputError(f"FineTuningCurve.batches is {self.batches}: expected rising numbers, such as 0, 1, 5, 10")
        if rate is not None and not 0 < rate < float("inf"):
            raise InputError(f"FineTuningCurve.rate is {rate}: expected a number above 0, or null")
        if calibration_batches < 0:
            raise InputError(f"FineTuningCurve.calibration_batches is {calibration_batches}: expected at least 0")
        self.rate, self.children = rate, children
        self.calibration = Calibration(calibration_batches) if calibration_batches else None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        picked(supernet_of(pl_module, self).space, self.children, seed=0)  # refused now, not after the training

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        module = supernet_of(pl_module, self)
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        chosen = picked(module.space, self.children, seed=0)
        found = fine_tune(module, data, None, chosen, self.batches, rate=self.rate, calibration=self.calibration)
        write_beside(trainer, FILE, found.children)
