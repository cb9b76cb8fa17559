"""Every gradient-based recipe takes 20 steps on real CIFAR-10: finite losses, and the loss of fixed batches falls."""

import argparse
import math
import os
import time
from pathlib import Path

import pytorch_lightning as pl
import torch
import yaml
from torch import Tensor

from nastricks.data import Batch
from nastricks.errors import InputError
from nastricks.modules import TrainingModule
from nastricks.recipe import resolve
from nastricks.run import build

ROOT = Path(__file__).parents[1]
STEPS, BATCH, BATCHES = 20, 8, 4  # each of the four batches is seen five times
SPACES = {  # narrow and shallow, so that a laptop proves them all; --full takes the published sizes
    "darts": {"space.init_args.channels": 4, "space.init_args.cells": 5},
    "nasbench201": {"space.init_args.channels": 4, "space.init_args.cells": 1},
}


class Watch(pl.Callback):
    """Measures the mean loss of the training batches before the first step and after the last, and notes every loss."""

    def __init__(self) -> None:
        self.fixed: list[float] = []
        self.losses: list[Tensor] = []
        self.left_out: list[str] = []  # the recipe's tricks that so short a run leaves out

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


def recipes() -> dict[str, Path]:
    """The published recipes of the family, by name; what is made of stages is proven by its stages' parts."""
    return {path.stem: path for path in sorted((ROOT / "recipes/algorithms/published").glob("*.yaml"))}


def prove(space: str, recipe: Path, data: str, full: bool = False) -> Watch:
    """Take the steps; what was watched."""
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
    # What waits for epochs that never come here is left out; the page of compatibility shows it at work.
    own = yaml.safe_load(recipe.read_text()).get("tricks") or {}
    left_out = [name for name in own if name == "weight_warmup" or name.startswith("early_stop")]
    stack = [f"recipes/spaces/{space}.yaml", "recipes/data/cifar10.yaml", str(recipe)]
    keys = {**overrides, **{f"tricks.{name}": "null" for name in left_out}}
    run = build(resolve(stack, [f"--{key}={value}" for key, value in keys.items()]), None, quiet=True)
    watch = Watch()
    watch.left_out = left_out
    run.trainer.callbacks.append(watch)  # type: ignore[attr-defined]
    run.fit()
    return watch


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
                watch = prove(space, recipe, data, given.full)
            except InputError as error:
                print(f"{name:20} {space:12} refused: {' '.join(str(error).split())}", flush=True)
                continue
            before, after = watch.fixed
            finite = all(math.isfinite(float(loss)) for loss in watch.losses)
            holds = finite and after < before
            failed += not holds
            print(
                f"{name:20} {space:12} loss {before:.3f} -> {after:.3f}{'' if finite else ', not finite'} "
                f"{'holds' if holds else 'FAILS'}  {time.perf_counter() - started:.0f} s"
                f"{''.join(f', without {trick}' for trick in watch.left_out)}",
                flush=True,
            )
    return 1 if failed else 0
