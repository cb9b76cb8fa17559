"""What a training logs once an epoch, and what its checkpoints hold beside weights."""

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl

from nastricks.errors import InputError
from nastricks.modules.epoch_sums import EpochSums
from nastricks.modules.measures import Measures
from nastricks.spaces import Space


class LoggedModule(pl.LightningModule):
    """Logs one row an epoch and saves with a checkpoint what the rest of that epoch needs, wherever a run is cut.

    Attributes:
        space: The search space.
        steps_seen: Steps since the start of the run, resumed or not.
        measures: Of a policy that has strengths.
    """

    def __init__(self, space: Space) -> None:
        super().__init__()
        self.space = space
        self.steps_seen = 0
        self.measures: Measures | None = None
        self._sums = EpochSums()
        self._epoch_saved: int | None = None

    def epoch_metrics(self) -> dict[str, float]:
        """Mean loss and accuracy of the epoch so far and the learning rate; starts the next epoch's sums."""
        metrics = self._sums.take(lambda sums: self.trainer.strategy.reduce(sums, reduce_op="sum"))
        if not metrics:
            return {}
        optimizers = self.optimizers(use_pl_optimizer=False)
        first = optimizers[0] if isinstance(optimizers, list) else optimizers
        return {**metrics, "learning_rate": first.param_groups[0]["lr"]}

    def measured(self, epoch: int) -> dict[str, float]:
        """What stands in the epoch's row beside loss, accuracy and rate."""
        return {}

    def log_epoch(self, epoch: int) -> None:
        """Log the epoch's row, once: a second call before the next step logs nothing."""
        metrics = self.epoch_metrics()
        if metrics:
            metrics |= self.measured(epoch)
        for logger in self.loggers if metrics else []:
            logger.log_metrics({"epoch": epoch, **metrics}, step=self.steps_seen)

    def note(self, metrics: Mapping[str, float]) -> None:
        """Log what a trick measured between two epochs, into the row of the one that has ended."""
        for logger in self.loggers:
            logger.log_metrics(dict(metrics), step=self.steps_seen)

    def on_train_start(self) -> None:
        # Lightning closes no epoch of which a checkpoint was saved after the last batch.
        if self._epoch_saved is not None and self._epoch_saved < self.current_epoch:
            self.log_epoch(self._epoch_saved)

    def on_train_epoch_end(self) -> None:
        self.log_epoch(self.current_epoch)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["nastricks"] = {
            "steps_seen": self.steps_seen,
            "epoch": self.current_epoch,
            "sums": self._sums.state(),
            "space": self.space.name,
            "architectures": self.space.size,
            "measures": None if self.measures is None else self.measures.state(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        own = checkpoint.get("nastricks")
        if own is None:
            raise InputError("this checkpoint was not written by nastricks: give one from a run folder")
        if own["space"] != self.space.name:
            raise InputError(f"the checkpoint is of space {own['space']}, this run is of {self.space.name}")
        self.steps_seen, self._epoch_saved = own["steps_seen"], own.get("epoch")
        self._sums.restore(own["sums"])
        if self.measures is not None and own.get("measures") is not None:
            self.measures.restore(own["measures"])
