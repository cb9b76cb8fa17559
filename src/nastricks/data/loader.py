"""Loaders that a Lightning trainer iterates: thin, keyed, and exact to resume."""

from collections.abc import Callable, Iterator, Sequence

from nastricks.data.batch import Batch


class KeyedLoader:
    """One epoch of training batches an iteration, where batch number i is a pure function of i.

    `position` counts the batches handed out since the start of training. An iteration begins at the next whole epoch,
    however many batches of the last one were taken: Lightning takes exactly ``len(loader)`` of them and never runs an
    iterator to its end, so nothing may hang on the end. Only the first iteration after `load_state_dict` continues in
    the middle, unless the epoch had ended there: `limit` is how many batches of an epoch the trainer takes (None:
    all). It is no ``torch.utils.data.DataLoader``, so Lightning puts no sampler into it.
    """

    def __init__(self, batch: Callable[[int], Batch], length: int, position: int = 0, limit: int | None = None) -> None:
        self._batch = batch
        self._length = length
        self._limit = length if limit is None else limit
        self._exact = False
        self.position = position

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Batch]:
        start = self.position if self._exact else -(-self.position // self._length) * self._length
        self._exact = False
        return self._run(start)

    def _run(self, start: int) -> Iterator[Batch]:
        for index in range(start, (start // self._length + 1) * self._length):
            batch = self._batch(index)
            # Before the yield: the code after the last one never runs.
            self.position = index + 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """The number of batches handed out since the start of training."""
        return {"position": self.position}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Let the next iteration continue exactly where the one that was saved stood."""
        self.position = state_dict["position"]
        self._exact = self.position % self._length < self._limit


class EvaluationLoader:
    """The same batches in the same order at every iteration. It has no state, so there is nothing to resume."""

    def __init__(self, batches: Sequence[Batch]) -> None:
        self._batches = batches

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        return iter(self._batches)
