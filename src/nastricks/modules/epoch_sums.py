"""Sums of an epoch's loss and hits, kept on the device: nothing waits for it until the epoch ends."""

from collections.abc import Callable

import torch
from torch import Tensor


class EpochSums:
    """Loss, hits and samples since the last `take`; part of the checkpoint, so that a resumed epoch is a whole one.

    A step appends to lists, and they are added up once an epoch: adding at every step would cost a tiny network two
    per cent.
    """

    def __init__(self) -> None:
        self.restore([0.0, 0.0, 0.0])

    def add(self, loss: Tensor, hits: Tensor, samples: int) -> None:
        """Note a batch: its mean loss (), its hits () and its size."""
        self._losses.append(loss)
        self._hits.append(hits)
        self._samples.append(samples)

    def _total(self) -> Tensor:
        """(3,): sum of the losses by sample, hits, samples."""
        total = torch.tensor(self._before, dtype=torch.float64)
        if not self._samples:
            return total
        sizes = torch.tensor(self._samples, dtype=torch.float64, device=self._losses[0].device)
        loss = (torch.stack(self._losses).double() * sizes).sum()
        return total.to(loss.device) + torch.stack([loss, torch.stack(self._hits).double().sum(), sizes.sum()])

    def take(self, reduce: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Mean loss and accuracy over all ranks, which `reduce` sums; {} where nothing was added since."""
        loss, hits, samples = reduce(self._total()).tolist()
        self.restore([0.0, 0.0, 0.0])
        return {"train/loss": loss / samples, "train/accuracy": hits / samples} if samples else {}

    def state(self) -> list[float]:
        return self._total().tolist()

    def restore(self, state: list[float]) -> None:
        """Start from what a part of the epoch before a checkpoint has summed up."""
        self._before = list(state)
        self._losses: list[Tensor] = []
        self._hits: list[Tensor] = []
        self._samples: list[int] = []
