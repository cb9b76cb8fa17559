"""What training one child does to all others that share its weights.

"Deeper Insights into Weight Sharing" (arXiv 2001.01431, section 4) sees children rise and fall with those that were
trained last. Here every child is trained alone from the same supernet for a few batches, and all are scored.
"""

from collections.abc import Sequence
from typing import Any

import pandas as pd
import pytorch_lightning as pl
import torch

from nastricks.data import TensorDataModule
from nastricks.errors import InputError
from nastricks.modules import Calibration, SupernetModule
from nastricks.ranking.over_time import supernet_of, write_beside
from nastricks.ranking.rank import picked, scored
from nastricks.rng import forked_rng
from nastricks.spaces import Architecture

FILE = "interference.csv"


def interference(
    module: SupernetModule,
    data: TensorDataModule,
    children: Sequence[Architecture],
    batches: int,
    share: float,
    calibration: Calibration | None,
) -> pd.DataFrame:
    """Scores of all children before, and after each of them was trained alone; the module is left as it was.

    Each child starts from the same weights with a fresh optimizer of the recipe at `share` of its learning rate, and
    sees the same `batches` training batches, those that would have come next. Columns: trained (the child, empty
    before), architecture, accuracy, loss.
    """
    before = {name: tensor.clone() for name, tensor in module.networks.state_dict().items()}
    modes = {m: m.training for m in module.networks.modules()}
    gradients = [p.grad for p in module.networks.parameters()]
    steps = [data.batch("train", module.steps_seen + number) for number in range(batches)]
    rows = [("", *row) for row in _scores(module, data, children, calibration)]
    for child in children:
        optimizer = module.optimizer_maker(module.networks.parameters())
        for group in optimizer.param_groups:
            group["lr"] *= share
        module.networks.train()
        for number, batch in enumerate(steps):
            with torch.enable_grad(), forked_rng(module.paths_seed, "interference", number, device=module.device):
                optimizer.zero_grad(set_to_none=True)
                loss = module.criterion(module.logits(batch.images, module.space.gates(child)), batch)
                loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        name = module.space.format(child)
        rows += [(name, *row) for row in _scores(module, data, children, calibration)]
        module.networks.load_state_dict(before)
    for parameter, gradient in zip(module.networks.parameters(), gradients, strict=True):
        parameter.grad = gradient
    for part, mode in modes.items():
        part.training = mode
    return pd.DataFrame(rows, columns=["trained", "architecture", "accuracy", "loss"])


def _scores(
    module: SupernetModule, data: TensorDataModule, children: Sequence[Architecture], calibration: Calibration | None
) -> list[tuple[str, float, float]]:
    found = scored(module, data, children, calibration)
    return [(module.space.format(child), *found[child]) for child in children]


class Interference(pl.Callback):
    """After training, measures `interference` into ``interference.csv`` of the run's folder.

    Args:
        batches: Batches that each child is trained for, at least 1.
        share: Part of the recipe's learning rate that it is trained at, above 0.
        calibration_batches: Training batches that a child's batch-norm statistics are recomputed over; 0 keeps the
            running ones, which the child that was trained has moved.
        children: ``all``, or a number of keyed random ones.

    Raises:
        InputError: a value out of its range.
    """

    def __init__(
        self, batches: int = 10, share: float = 0.1, calibration_batches: int = 10, children: str = "all"
    ) -> None:
        if batches < 1:
            raise InputError(f"Interference.batches is {batches}: expected at least 1")
        if not 0 < share < float("inf"):
            raise InputError(f"Interference.share is {share}: expected a number above 0, such as 0.1")
        if calibration_batches < 0:
            raise InputError(f"Interference.calibration_batches is {calibration_batches}: expected at least 0")
        self.batches, self.share, self.children = batches, share, children
        self.calibration = Calibration(calibration_batches) if calibration_batches else None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        module = supernet_of(pl_module, self)
        picked(module.space, self.children, seed=0)  # refused now, not after the training

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        module = supernet_of(pl_module, self)
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        children = picked(module.space, self.children, seed=0)
        found = interference(module, data, children, self.batches, self.share, self.calibration)
        write_beside(trainer, FILE, found)
