"""Hidden channels of a block in another order: what is computed stays, and a narrower path keeps other channels.

Once-for-all (Cai et al. 2020, 1908.09791, section 3.3) sorts channels by importance before narrower paths are trained.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from nastricks.spaces.choices import Allowed


@runtime_checkable
class Reorderable(Protocol):
    """A block with channels inside that may stand in any order."""

    def hidden_sizes(self, allowed: Allowed) -> Sequence[int]:
        """The numbers of hidden channels that paths with allowed options run, each once, rising."""
        ...

    def importance(self) -> Tensor:
        """How much each hidden channel matters (hidden,), at least 0."""
        ...

    def hidden_axes(self) -> dict[str, int]:
        """The axis along which each tensor of the state has the hidden channels; {} where there are none."""
        ...


def by_importance(importance: Tensor, sizes: Sequence[int]) -> Tensor:
    """The order (hidden,) of channels, most important first, that leaves paths of these sizes the channels they have.

    Channels between two sizes are sorted among themselves; ties keep their order.

    Args:
        importance: (hidden,).
        sizes: Numbers of channels that are trained already, rising; the last is all of them.
    """
    parts = []
    for start, end in pairwise((0, *sizes)):
        parts.append(start + importance[start:end].argsort(descending=True, stable=True))
    return torch.cat(parts)


@torch.no_grad()
def reorder(block: nn.Module, axes: Mapping[str, int], order: Tensor, state: Mapping[Any, Mapping[str, Any]]) -> None:
    """Put the hidden channels of a block into an order, and what an optimizer remembers of them with them.

    Args:
        block: The block.
        axes: Of its tensors; those that it has not [statistics, where another normalisation took their place] are
            passed over.
        order: (hidden,) indices.
        state: Of the optimizer, by parameter; every tensor of a parameter's shape moves along [momentum].
    """
    tensors = dict(block.named_parameters()) | dict(block.named_buffers())
    for name, axis in axes.items():
        tensor = tensors.get(name)
        if tensor is None:
            continue
        own = state.get(tensor, {}).values()
        for moved in (tensor, *(t for t in own if isinstance(t, Tensor) and t.shape == tensor.shape)):
            moved.copy_(moved.index_select(axis, order.to(moved.device)))
