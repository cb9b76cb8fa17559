"""Every gradient-based recipe takes 20 steps on real CIFAR-10: finite losses, and the loss of fixed batches falls.

Of P-DARTS and DARTS-PT, which are made of stages, every search takes 20 steps, from what the one before it left. One
that goes on from another's weights is judged from where that one began: DARTS-PT takes operations away meanwhile.
"""

import argparse
import math
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from nastricks.data import Batch
from nastricks.errors import InputError
from nastricks.modules import TrainingModule
from nastricks.run import build
from nastricks.stages import Stages, stage_config
from proofs.small_runs import own_tricks, space_of, staged_algorithms, stages_of

ROOT = Path(__file__).parents[1]
STEPS, BATCH, BATCHES = 20, 8, 4  # each of the four batches is seen five times
SPACES = {  # narrow and shallow, so that a laptop proves them all; --full takes the published sizes
    "darts": {"space.init_args.channels": 4, "space.init_args.cells": 5},
    "nasbench201": {"space.init_args.channels": 4, "space.init_args.cells": 1},
}
# What is written for tens of epochs has to come to pass within five. The guards are there and see nothing to stop for.
WITHIN_FIVE_EPOCHS: dict[str, dict[str, Any]] = {
    "weight_warmup": {"epochs": 2},
    "early_stop_skips": {"skips": 8, "cell": None},
    "early_stop_hessian": {"window": 1, "distance": 1, "first_epoch": 1, "factor": 100.0},
    "op_projection": {"tune_epochs": 1, "at_once": 14},
}


class Watch(pl.Callback):
    """Measures the mean loss of the training batches before the first step and after the last, and notes every loss.

    `begun` is the measure that it is judged against.
    """

    def __init__(self, begun: float | None = None) -> None:
        self.begun = begun
        self.fixed: list[float] = []
        self.losses: list[Tensor] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, TrainingModule)
        self._measure(trainer, pl_module)
        criterion = pl_module.criterion

        def noted(logits: Tensor, batch: Batch) -> Tensor:
            loss = criterion(logits, batch)
            self.losses.append(loss.detach())
            return loss

        setattr(pl_module, "criterion", noted)  # noqa: B010 - mypy refuses to assign to a method

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, TrainingModule)
        self._measure(trainer, pl_module)

    def _measure(self, trainer: pl.Trainer, module: TrainingModule) -> None:
        gates = module.policy.propose(module.moment("evaluation").at(step=0))[0]
        batches = [trainer.datamodule.batch("train", index) for index in range(BATCHES)]  # type: ignore[attr-defined]
        with torch.no_grad(), module.frozen_statistics():
            losses = [float(module.criterion(module.logits(batch.images, gates), batch)) for batch in batches]
        self.fixed.append(sum(losses) / BATCHES)
        self.begun = self.fixed[0] if self.begun is None else self.begun


def recipes() -> dict[str, Path]:
    """The published recipes of the family, by name: of an algorithm, or of stages that search more than once."""
    published = {path.stem: path for path in sorted((ROOT / "recipes/algorithms/published").glob("*.yaml"))}
    return published | staged_algorithms(ROOT / "recipes/stages/published")


def stages_on(space: str, recipe: Path) -> Stages:
    """What a recipe fits on a space, in a row. GOLD-NAS frees the cells of DARTS."""
    own = space_of(recipe)
    file = own if space == "darts" and own == "recipes/spaces/darts_free.yaml" else f"recipes/spaces/{space}.yaml"
    stages = stages_of(recipe, (file, "recipes/data/cifar10.yaml", str(recipe)))
    staged = len(stages.stages) > 1  # with the space `darts` in its stacks
    return stages.changed([file], [], []) if staged and space != "darts" else stages


def prove(space: str, recipe: Path, data: str, full: bool = False) -> list[Watch]:
    """Take the steps; what was watched in each search."""
    overrides = {
        **({} if full else SPACES[space]),
        "data.init_args.root": data,
        "data.init_args.batch_size": BATCH,
        "data.init_args.train_size": BATCH * BATCHES,
        "data.init_args.search_size": BATCH * BATCHES,
        "data.init_args.validation_size": BATCH,
        "trainer.max_epochs": STEPS // BATCHES,
        "trainer.accelerator": "cpu",
        "threads": 1,
    }
    watched: dict[str, Watch] = {}
    with tempfile.TemporaryDirectory() as folder:
        for stage in stages_on(space, recipe).searches:
            fitted = {
                f"tricks.{name}.{key}": value
                for name in own_tricks(stage)
                for key, value in WITHIN_FIVE_EPOCHS.get(name, {}).items()
            }
            short = stage.with_keys({**overrides, **fitted})
            run = build(stage_config(short, Path(folder))[0], Path(folder) / stage.name, quiet=True)
            earlier = stage.links.get("weights_of")
            watched[stage.name] = Watch(None if earlier is None else watched[earlier].begun)
            run.trainer.callbacks.append(watched[stage.name])  # type: ignore[attr-defined]
            run.fit()
    return list(watched.values())


def main(given: argparse.Namespace) -> int:
    """Prove every recipe on every space; 1 where a loss is not finite or does not fall."""
    data = os.environ.get("NASTRICKS_DATA")
    if data is None:
        raise InputError("NASTRICKS_DATA is not set: name the folder that holds cifar-10-batches-py")
    failed = 0
    for name, recipe in recipes().items():
        for space in SPACES:
            started = time.perf_counter()
            try:
                watched = prove(space, recipe, data, given.full)
            except InputError as error:
                print(f"{name:20} {space:12} refused: {' '.join(str(error).split())}", flush=True)
                continue
            finite = all(math.isfinite(float(loss)) for watch in watched for loss in watch.losses)
            holds = finite and all(watch.begun is not None and watch.fixed[-1] < watch.begun for watch in watched)
            failed += not holds
            print(
                f"{name:20} {space:12} loss {', '.join('{:.3f} -> {:.3f}'.format(*watch.fixed) for watch in watched)} "
                f"{'' if finite else 'not finite '}{'holds' if holds else 'FAILS'}  "
                f"{time.perf_counter() - started:.0f} s",
                flush=True,
            )
    return 1 if failed else 0
