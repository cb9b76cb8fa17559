"""Sums of an epoch's loss and hits, kept on the device: nothing waits for it until the epoch ends."""

from collections.abc import Callable

import torch
from torch import Tensor


class EpochSums:
    """Loss, hits and samples since the last `take`; part of the checkpoint, so that a resumed epoch is a whole one."""

    def __init__(self) -> None:
        self._sums: Tensor | None = None

    def add(self, loss: Tensor, hits: Tensor, samples: int) -> None:
        """Note a batch: its mean loss (), its hits () and its size."""
        if self._sums is None or self._sums.device != loss.device:
            before = [0.0, 0.0, 0.0] if self._sums is None else self._sums.tolist()
            self._sums = torch.tensor(before, device=loss.device, dtype=torch.float64)
        self._sums += torch.stack([loss.double() * samples, hits.double(), loss.new_tensor(samples).double()])

    def take(self, reduce: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Mean loss and accuracy over all ranks, which `reduce` sums; {} where nothing was added since."""
        if self._sums is None:
            return {}
        loss, hits, samples = reduce(self._sums.clone()).tolist()
        self._sums.zero_()
        return {"train/loss": loss / samples, "train/accuracy": hits / samples} if samples else {}

    def state(self) -> list[float] | None:
        return None if self._sums is None else self._sums.tolist()

    def restore(self, state: list[float] | None) -> None:
        self._sums = None if state is None else torch.tensor(state, dtype=torch.float64)
