"""Gates over the inputs of a node beside those over its operations: PC-DARTS (Xu et al. 2020, equation 3)."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from nastricks.errors import InputError
from nastricks.moment import Moment
from nastricks.policies.alpha import AlphaPolicy
from nastricks.policies.base import Policy
from nastricks.policies.softmax import Softmax
from nastricks.rng import generator, inherited_seed
from nastricks.spaces import Allowed, Gates, Space


class EdgeNormalised(Policy):
    """Weighs every edge into a node, with all that passes it, by softmax(beta) over the edges into that node.

    Another policy weighs the operations of the edge. The strength of an option, and what a derivation reads, is the
    product.

    Args:
        space: A space whose nodes have several inputs (`Choice.node`).
        operations: Makes the policy over operations; None takes `Softmax`.
        init_std: Standard deviation of beta's normal start around zero, at least 0; the official code uses 1e-3.
        seed: Key of beta's start; None takes the run's own.

    Attributes:
        beta: (edges,) for each node with more than one edge, in the order of the space's choices.

    Raises:
        InputError: no node of the space has several inputs, or the other policy has no weights an option.
    """

    weighted = True

    def __init__(
        self,
        space: Space,
        operations: Callable[[Space], Policy] | None = None,
        init_std: float = 1e-3,
        seed: int | None = None,
    ) -> None:
        super().__init__(space)
        if not 0 <= init_std < float("inf"):
            raise InputError(f"policy.init_std is {init_std}: expected at least 0")
        nodes: dict[str, list[str]] = {}
        for choice in space.choices:
            if choice.node is not None:
                nodes.setdefault(choice.node, []).append(choice.name)
        self.edges = {node: edges for node, edges in nodes.items() if len(edges) > 1}
        if not self.edges:
            raise InputError(
                f"policy EdgeNormalised weighs the inputs of a node, and no node of {space.name} has several: "
                "use the policy over operations alone"
            )
        made = Softmax(space) if operations is None else operations(space)
        if not isinstance(made, AlphaPolicy):
            raise InputError(f"policy.operations is {type(made).__name__}: expected one over alpha, such as Softmax")
        self.operations = made
        self.mixed, self.allowed = made.mixed, dict(made.allowed)
        rng = generator(inherited_seed(seed), "beta")
        self.beta = nn.ParameterDict(
            {node: nn.Parameter(init_std * torch.randn(len(e), generator=rng)) for node, e in self.edges.items()}
        )

    def propose(self, moment: Moment) -> Sequence[Gates]:
        edges, proposed = self._edge_weights(), self.operations.propose(moment)
        return [{name: replace(gate, scale=edges.get(name)) for name, gate in gates.items()} for gates in proposed]

    def strengths(self) -> dict[str, Tensor]:
        edges = self._edge_weights()
        return {n: s if n not in edges else s * edges[n] for n, s in self.operations.strengths().items()}

    def updated(self, moment: Moment) -> None:
        self.operations.updated(moment)

    def restrict(self, choice: str, options: Sequence[int]) -> None:
        super().restrict(choice, options)
        self.operations.restrict(choice, options)

    def allow(self, choice: str, options: Sequence[int]) -> None:
        super().allow(choice, options)
        self.operations.allow(choice, options)

    def settle(self, choice: str, option: int) -> None:
        super().settle(choice, option)
        self.operations.settle(choice, option)

    def derivable_of(self, allowed: Allowed) -> dict[str, tuple[int, ...]]:
        return self.operations.derivable_of(allowed)

    def set_extra_state(self, state: Any) -> None:
        super().set_extra_state(state)
        self.operations.set_extra_state(state)

    def _edge_weights(self) -> dict[str, Tensor]:
        """The weight () of each edge that shares its node."""
        weights: dict[str, Tensor] = {}
        for node, edges in self.edges.items():
            weights.update(zip(edges, torch.softmax(self.beta[node], 0).unbind(), strict=True))
        return weights
