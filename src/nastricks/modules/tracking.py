"""Weights & Biases: a run a trial, grouped by ablation."""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import Namespace
from pytorch_lightning.loggers import Logger, WandbLogger

from nastricks.errors import unknown

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Tracked:
    """The place of a run: its name, its ablation (`group`) and its arm."""

    name: str
    group: str | None = None
    arm: str | None = None


class WandbTracking:
    """Tracks runs with Weights & Biases; offline where there is no login.

    Keys come from the environment or from `wandb login`; none is ever written into a run folder.

    Args:
        project: Project to log to.
        entity: Team or user; None takes the login's own.
        tags: Tags beside the names of the tricks.
        mode: "online", "offline", "disabled", or "auto": online where a login is found, else offline.
    """

    def __init__(
        self, project: str = "nastricks", entity: str | None = None, tags: Sequence[str] = (), mode: str = "auto"
    ) -> None:
        if mode not in ("auto", "online", "offline", "disabled"):
            raise unknown("loggers.wandb.mode", mode, ("auto", "online", "offline", "disabled"))
        self.project, self.entity, self.tags, self.mode = project, entity, tuple(tags), mode

    def logger(self, folder: Path, config: dict[str, Any], tricks: Sequence[str], place: Tracked) -> Logger:
        """Lightning's W&B logger for a run that lives in `folder`."""
        import wandb

        mode = self.mode
        if mode == "auto":
            mode = os.environ.get("WANDB_MODE") or ("online" if wandb.api.api_key else "offline")
        folder.mkdir(parents=True, exist_ok=True)
        return WandbLogger(
            project=self.project,
            entity=self.entity,
            name=place.name,
            group=place.group,
            job_type=place.arm,
            tags=[*tricks, *self.tags],
            save_dir=str(folder),
            config=config,
            mode=mode,
            settings=wandb.Settings(quiet=True),
            log_model=False,
        )


def track_picture(loggers: Sequence[Logger], name: str, svg: str) -> None:
    """Log a picture to the W&B runs among some loggers; it stays a drawing that can be enlarged."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            import wandb

            logger.experiment.log({name: wandb.Html(svg, inject=False)})


def track_results(
    tracking: Namespace,
    folder: Path,
    config: str,
    tricks: Sequence[str],
    place: Tracked,
    curves: Sequence[Mapping[str, Any]],
    metrics: Mapping[str, float],
    ranking: "pd.DataFrame | None",
) -> None:
    """Log a trial's results to its W&B run and end it: metrics, the ranking as a table, and its scatter plot.

    The run that training opened is continued; a trial that shares another's training gets a run of its own, with the
    curves copied.
    """
    import wandb
    import yaml

    settings = vars(tracking.init_args) if "init_args" in tracking else vars(tracking)
    run = wandb.run
    if run is None or run.name != place.name:
        finish()
        run = WandbTracking(**settings).logger(folder, yaml.safe_load(config), tricks, place).experiment  # type: ignore[attr-defined]
        for row in curves:
            run.log(dict(row))
    run.summary.update(dict(metrics))
    if ranking is not None:
        table = wandb.Table(dataframe=ranking)
        run.log({"ranking": table, "score against truth": wandb.plot.scatter(table, "accuracy", "truth")})
    finish()


def finish() -> None:
    """End the W&B run of this process, if there is one."""
    wandb = sys.modules.get("wandb")
    if wandb is not None and wandb.run is not None:
        wandb.finish()
