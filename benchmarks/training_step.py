"""One training step of a real run against a bare PyTorch loop with the same network, batches and paths.

Both sides train the same recipe from the same weights. An epoch is measured in one order and the next in the other
(fit, bare, bare, fit), and the two together are one measurement: on large images the one that runs a path first pays
for the memory that the path needs, up to a fifth of its time, and would always be the fit. A fit's epoch is all that
lies between two pauses: its steps, its hooks and its row of metrics. Not counted are the start of the Trainer with the
first epoch, and what follows the last one (the checkpoint, metrics.csv); the note tells what the latter takes. Both
sides make their batches. The bare loop is given its paths, and keeps neither loss nor accuracy. Both must end with the
same weights.
"""

import math
import os
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytorch_lightning as pl
import torch
from jsonargparse import Namespace
from torch.nn import functional as F

from benchmarks.measure import CPU, Clock, Result, compared, ratios
from nastricks.data import CIFAR10, Description, ImageSpec, RawImages
from nastricks.recipe import resolve
from nastricks.rng import generator
from nastricks.run import build

STEPS_PER_EPOCH_64 = 2  # a step takes about a second there, so pairs are taken often


class BareLoop:
    """Forward, cross entropy, backward, SGD and a cosine a step, by hand."""

    def __init__(self, config: Namespace) -> None:
        run = build(config, None, quiet=True)
        self.data = run.data
        self.data.setup()
        self.network: Any = run.module.networks[0]
        self.network.train()
        self.optimizer = run.module.optimizer_maker(self.network.parameters())
        self.base_rate: float = self.optimizer.param_groups[0]["lr"]
        self.epochs: int = config.trainer.max_epochs
        self.steps_per_epoch = self.data.batches("train")
        steps = range(self.epochs * self.steps_per_epoch)
        moment = run.module.moment("weights")
        self.paths = [run.module.policy.propose(moment.at(step=step))[0] for step in steps]

    def epoch(self, number: int) -> None:
        """Train the epoch with this number, counted from 0."""
        for step in range(number * self.steps_per_epoch, (number + 1) * self.steps_per_epoch):
            batch = self.data.batch("train", step)
            part = step / self.steps_per_epoch / self.epochs
            self.optimizer.param_groups[0]["lr"] = self.base_rate * (1 + math.cos(math.pi * part)) / 2
            self.optimizer.zero_grad(set_to_none=True)
            loss = F.cross_entropy(self.network(batch.images, self.paths[step]), batch.labels)
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()


class InTurn(pl.Callback):
    """Lets the bare loop train two epochs between two of a fit, and takes the time of both pairs.

    The first epoch of both is not counted, nor the last where their number is even.
    """

    def __init__(self, bare: BareLoop) -> None:
        self.bare = bare
        self.fit_times: list[Clock] = []
        self.bare_times: list[Clock] = []
        self.resumed = self.first = Clock.now()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        epoch, paused = trainer.current_epoch, Clock.now()
        if epoch % 2:
            self.first = paused.since(self.resumed)
            self.bare.epoch(epoch)
            if epoch + 1 < self.bare.epochs:
                self.bare.epoch(epoch + 1)
                self.bare_times.append(Clock.now().since(paused))
        elif epoch:
            self.fit_times.append(paused.since(self.resumed).plus(self.first))
        else:
            self.bare.epoch(epoch)
        self.resumed = Clock.now()


class RandomImages(CIFAR10):
    """Noise of CIFAR-10's shape, for machines without it."""

    name: str = "random_images"
    description: ClassVar[Description] = Description(ImageSpec(3, 32, 10), (1024, 512, 256, None), 4, True)

    @staticmethod
    def load(root: Path) -> RawImages:
        """2,048 training and 256 test images; `root` is not read."""
        rng, count = generator("benchmark", "images"), 2048 + 256
        images = torch.randint(256, (count, 3, 32, 32), generator=rng, dtype=torch.uint8)
        labels = torch.randint(10, (count,), generator=rng)
        return RawImages(images[:2048], labels[:2048], images[2048:], labels[2048:])


def image_arguments(batch_size: int, train_size: int) -> tuple[list[str], str]:
    """Overrides that read CIFAR-10 from $NASTRICKS_DATA, or random images where it is not there; and which it is.

    The splits are short, so that the random images can fill them; `train_size` is at most 1,024.
    """
    root = Path(os.environ.get("NASTRICKS_DATA", "data"))
    found = (root / "cifar-10-batches-py").is_dir()
    # The class comes first: it is the one that takes the arguments after it.
    chosen = ["--data.init_args.root", str(root)] if found else ["--data.class_path", f"{__name__}.RandomImages"]
    sizes = {"batch_size": batch_size, "train_size": train_size, "search_size": 512, "validation_size": 256}
    chosen += [part for key, value in sizes.items() for part in (f"--data.init_args.{key}", str(value))]
    what = "CIFAR-10" if found else "random images of CIFAR-10's shape"
    return chosen, f"{what}, batch {batch_size}"


def compare(name: str, config: Namespace, fits: int, target: float, what: str) -> Result:
    """Train `fits` times, at least once, beside the bare loop: the ratio of the times of two epochs, first ones apart.

    Raises:
        RuntimeError: the two sides end with different weights, so they did not do the same work.
    """
    fit_times: list[Clock] = []
    bare_times: list[Clock] = []
    ends: list[float] = []
    for _ in range(fits):
        in_turn = InTurn(BareLoop(config))
        with tempfile.TemporaryDirectory() as folder:
            run = build(config, Path(folder) / "run", quiet=True)
            run.trainer.callbacks.append(in_turn)  # type: ignore[attr-defined]
            run.fit()
            ends.append(Clock.now().since(in_turn.resumed).wall)
        trained, bare = run.module.networks[0].state_dict(), in_turn.bare.network.state_dict()
        if any(not torch.equal(trained[key], bare[key]) for key in bare):
            raise RuntimeError(f"benchmark {name}: the fit and the bare loop ended with different weights")
        fit_times += in_turn.fit_times
        bare_times += in_turn.bare_times
    step = compared(fit_times, bare_times, 2 * in_turn.bare.steps_per_epoch) if fit_times else "nothing"
    note = f"{what}: a step {step}; the end of a fit takes {statistics.median(ends):.3f} s, not counted"
    return Result.of(name, ratios(fit_times, bare_times), target, note)


def _spos(space: str, data: str, overrides: Sequence[str]) -> Namespace:
    files = [f"spaces/{space}.yaml", f"data/{data}.yaml", "algorithms/spos.yaml"]
    return resolve(files, [*CPU, *overrides])


def step_tiny64(epochs: int = 41, fits: int = 5) -> Result:
    """A step of SPOS on tiny64 and digits, batch 64, ten steps an epoch; `epochs` at least 3."""
    config = _spos("tiny64", "digits", ["--trainer.max_epochs", str(epochs)])
    return compare("step_tiny64", config, fits, target=1.25, what="digits, batch 64")


def step_weight_sharing_64(epochs: int = 13, fits: int = 1, batch_size: int = 256) -> Result:
    """A step of SPOS on weight_sharing_64 and CIFAR-10, two steps an epoch; `epochs` at least 3."""
    images, told = image_arguments(batch_size, STEPS_PER_EPOCH_64 * batch_size)
    config = _spos("weight_sharing_64", "cifar10", [*images, "--trainer.max_epochs", str(epochs)])
    return compare("step_weight_sharing_64", config, fits, target=1.03, what=told)
