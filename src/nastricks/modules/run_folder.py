"""What a run leaves behind: config.yaml, metrics.csv, gates.csv, gates.svg and checkpoints/ in one folder."""

import csv
import io
import os
import pickle
import time
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers.logger import Logger

from nastricks.errors import InputError
from nastricks.files import write_text
from nastricks.modules.gate_history import GateHistory, draw_gates
from nastricks.modules.tracking import track_picture

LAST = Path("checkpoints") / "last.ckpt"
SECONDS_BETWEEN_WRITES = 5.0


class MetricsFile(Logger):
    """Writes ``metrics.csv`` into the run's folder: a row a step that logged, whole at any time.

    Lightning's own CSV logger deletes the file of an earlier run when a run is resumed, and leaves half a row when
    it is killed.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.path = folder / "metrics.csv"
        self._rows: dict[int, dict[str, Any]] = {}
        self._written = time.monotonic()

    @property
    def name(self) -> str:
        return self.path.parent.name

    @property
    def version(self) -> str:
        return ""

    @property
    def save_dir(self) -> str:
        return str(self.path.parent)

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Settings are in config.yaml."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self._rows.setdefault(step or 0, {"step": step or 0}).update(metrics)
        if time.monotonic() - self._written > SECONDS_BETWEEN_WRITES:
            self.save()

    def last(self) -> dict[str, float]:
        """The latest value of every metric."""
        latest = {key: value for row in self._rows.values() for key, value in row.items()}
        return {key: float(value) for key, value in latest.items() if key not in ("epoch", "step")}

    def resume_at(self, step: int) -> None:
        """Take over the rows of an earlier part of the run, up to `step`."""
        if self.path.exists():
            with self.path.open(newline="") as file:
                rows = [{key: value for key, value in row.items() if value != ""} for row in csv.DictReader(file)]
            self._rows = {int(row["step"]): dict(row) for row in rows if int(row["step"]) <= step}

    def save(self) -> None:
        if not self._rows:  # Lightning saves at the start of fit, before the rows of an interrupted run are read
            return
        columns = list(dict.fromkeys(["epoch", "step", *(key for row in self._rows.values() for key in row)]))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self._rows.values())
        write_text(self.path, text.getvalue())
        self._written = time.monotonic()

    def finalize(self, status: str) -> None:
        self.save()


class RunFolder(pl.Callback):
    """Writes the resolved configuration at the start and ``checkpoints/last.ckpt`` at the end.

    Args:
        folder: The run's folder.
        config: Text of config.yaml.
        every_n_epochs: Also save every so many epochs; None saves at the end alone.
        every_n_steps: Also save every so many training steps; None does not.
    """

    def __init__(
        self, folder: Path, config: str, every_n_epochs: int | None = None, every_n_steps: int | None = None
    ) -> None:
        for key, value in {"every_n_epochs": every_n_epochs, "every_n_steps": every_n_steps}.items():
            if value is not None and value < 1:
                raise InputError(f"checkpoint.{key} is {value}: expected at least 1, or null")
        self.folder, self.config = folder, config
        self.every_n_epochs, self.every_n_steps = every_n_epochs, every_n_steps

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage == "fit" and trainer.is_global_zero:
            write_text(self.folder / "config.yaml", self.config)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, MetricsFile) and trainer.global_step > 0:
                logger.resume_at(trainer.global_step)

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        if self.every_n_steps is not None and trainer.global_step % self.every_n_steps == 0:
            self._save(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.every_n_epochs is not None and (trainer.current_epoch + 1) % self.every_n_epochs == 0:
            from nastricks.modules.training import TrainingModule

            if isinstance(pl_module, TrainingModule):
                pl_module.log_epoch(
                    trainer.current_epoch
                )  # its own hook comes after this one, and a resumed run does not call it again
            self._save(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._save(trainer)
        history = _history(pl_module)
        if history is not None and trainer.is_global_zero:
            picture = draw_gates(history, f"Gates of {history.space.name}")
            write_text(self.folder / "gates.svg", picture)
            track_picture(trainer.loggers, "gates", picture)

    def _save(self, trainer: pl.Trainer) -> None:
        path = self.folder / LAST
        trainer.save_checkpoint(path.with_suffix(".aside"), weights_only=False)
        if trainer.is_global_zero:
            os.replace(path.with_suffix(".aside"), path)
            for logger in trainer.loggers:
                if isinstance(logger, MetricsFile):
                    logger.save()
            history = _history(trainer.lightning_module)
            if history is not None:
                write_text(self.folder / "gates.csv", history.csv())


def _history(module: pl.LightningModule) -> GateHistory | None:
    """The gates of a module that measures them and has seen the end of an epoch."""
    from nastricks.modules.training import TrainingModule

    measures = module.measures if isinstance(module, TrainingModule) else None
    return measures.history if measures is not None and measures.history.epochs else None


def load_checkpoint(where: str | Path) -> dict[str, Any]:
    """A checkpoint, by its file or by its run's folder; tensors and plain values only, so that it runs no code.

    Raises:
        InputError: there is none, or it holds something else.
    """
    path = Path(where)
    if path.is_dir():
        path = path / LAST
    if not path.is_file():
        raise InputError(f"no checkpoint at {path}: give a run folder that `nastricks fit` finished, or a .ckpt file")
    try:
        with warnings.catch_warnings():  # torch wonders about foreign pickles before it refuses them
            warnings.simplefilter("ignore")
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"{path} is no checkpoint that can be read without running code: {reason[:200]}") from error
    if not isinstance(loaded, dict) or "nastricks" not in loaded:
        raise InputError(f"{path} was not written by nastricks: give a checkpoint from a run folder")
    return loaded
