"""Gates cut off from the policy, so that many backward passes can run before one through the policy.

A one-level algorithm teaches the policy by the weights' own backward pass. Several sets of gates, micro-batches and
second passes would each run through the policy's graph, which torch frees after the first. The weights of the gates
are therefore leaves that collect gradients, and are handed through the policy's graph once.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from nastricks.spaces import Gate, Gates


class LeafGates:
    """The leaves of proposed gates.

    Args:
        proposed: Sets of gates whose weights are differentiable in the policy's parameters.
    """

    def __init__(self, proposed: Sequence[Gates]) -> None:
        self._proposed = proposed
        self._pairs: list[tuple[Tensor, Tensor]] = []

    def renewed(self) -> list[Gates]:
        """The gates with fresh leaves: a second pass starts without the first one's gradients."""
        self._pairs = []
        return [{name: self._cut_off(gate) for name, gate in gates.items()} for gates in self._proposed]

    def _cut_off(self, gate: Gate) -> Gate:
        return Gate(gate.active, self._leaf(gate.weights), self._leaf(gate.bypass), self._leaf(gate.scale))

    def _leaf(self, tensor: Tensor | None) -> Tensor | None:
        if tensor is None or not tensor.requires_grad:
            return tensor
        leaf = tensor.detach().requires_grad_()
        self._pairs.append((tensor, leaf))
        return leaf

    def backward(self, average: Callable[[Sequence[Tensor]], list[Tensor]]) -> None:
        """Hand what the leaves collected to the policy's parameters, averaged over ranks by `average`."""
        used = [(tensor, leaf.grad) for tensor, leaf in self._pairs if leaf.grad is not None]
        if used:  # a trick may have replaced all of them
            torch.autograd.backward([tensor for tensor, _ in used], average([gradient for _, gradient in used]))
