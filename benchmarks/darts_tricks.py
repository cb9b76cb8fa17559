"""Whole training steps of DARTS on its own space, with a trick and without it, taken in turn."""

import torch
from jsonargparse import Namespace

from benchmarks.measure import CPU, Result, alternate, compared, ratios
from benchmarks.training_step import image_arguments
from nastricks.memory import peak_memory_mb, reset_peak_memory
from nastricks.recipe import resolve
from nastricks.run import build

BATCH = 16  # the size that the targets are stated for


class Steps:
    """A run that takes its training steps one by one, alpha's and the weights'; the first one is taken here.

    What lasts from step to step (gradients, momentum, Adam's moments) is there after it.
    """

    def __init__(self, config: Namespace) -> None:
        self.run = build(config, None, quiet=True)
        module, trainer = self.run.module, self.run.trainer
        trainer.datamodule = self.run.data  # type: ignore[attr-defined]
        module.trainer = trainer
        trainer.strategy.connect(module)
        self.run.data.setup()
        for trick in self.run.tricks:
            trick.setup(trainer, module, "fit")
        module.setup("fit")
        module.train()
        trainer.strategy.optimizers = module.configure_optimizers()
        self.take()

    def take(self) -> None:
        module = self.run.module
        module.training_step(self.run.data.batch("train", module.steps_seen), 0)

    def memory(self) -> float:
        """MiB that a step takes beyond what was there before it."""
        reset_peak_memory()
        before = peak_memory_mb()
        self.take()
        return peak_memory_mb() - before


def steps(batch_size: int, channels: int, cells: int, *tricks: str) -> tuple[Steps, str]:
    """DARTS, first order, on `darts` and CIFAR-10; and what it runs on, in words."""
    images, told = image_arguments(batch_size, train_size=512)
    files = ["spaces/darts.yaml", "data/cifar10.yaml", "algorithms/darts.yaml"]
    size = ["--space.init_args.channels", str(channels), "--space.init_args.cells", str(cells)]
    return Steps(resolve(files, [*CPU, *images, *size, *tricks])), told


def arch_perturbation(rounds: int = 8, batch_size: int = BATCH, channels: int = 16, cells: int = 8) -> Result:
    """The random perturbation of SDARTS against none."""
    size = batch_size, channels, cells
    perturbed, told = steps(*size, "--tricks.arch_perturbation.kind", "random")
    plain, _ = steps(*size)
    times = alternate(perturbed.take, plain.take, rounds)
    return Result.of("arch_perturbation", ratios(*times), 1.05, f"darts, {told}: a step {compared(*times)}")


def partial_channels(rounds: int = 6, batch_size: int = BATCH, channels: int = 16, cells: int = 8) -> Result:
    """A quarter of the channels against all: time, on one thread.

    A second one shortens the wide step alone: the operations of four channels are too small to be shared out.
    """
    size = batch_size, channels, cells
    (narrow, told), (whole, _) = steps(*size, "--tricks.partial_channels.parts", "4"), steps(*size)
    torch.set_num_threads(1)
    times = alternate(narrow.take, whole.take, rounds)
    return Result.of("partial_channels", ratios(*times), 0.6, f"darts, {told}, one thread: a step {compared(*times)}")


def partial_channels_memory(rounds: int = 3, batch_size: int = BATCH, channels: int = 16, cells: int = 8) -> Result:
    """A quarter of the channels against all: the memory that a step takes, where any less is good enough."""
    size = batch_size, channels, cells
    (narrow, told), (whole, _) = steps(*size, "--tricks.partial_channels.parts", "4"), steps(*size)
    pairs = [(narrow.memory(), whole.memory()) for _ in range(rounds)]
    note = f"darts, {told}: {pairs[-1][0]:.0f} MiB against {pairs[-1][1]:.0f} MiB beyond what stays from step to step"
    return Result.of("partial_channels_memory", [a / b for a, b in pairs], 1.0, note)
