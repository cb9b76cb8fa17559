"""Paths drawn by a Monte-Carlo tree over the choices: MCT-NAS.

Su et al. 2021, "Prioritized Architecture Sampling with Monto-Carlo Tree Search", section 3.2. Their constants were not
found: those here are our own.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from nastricks.errors import InputError
from nastricks.policies.prioritised import checked, softened
from nastricks.policies.rewarded import RewardedPolicy
from nastricks.spaces import Architecture, Space


def uct(
    total: float, visits: int, parent_visits: int, operation: float, exploration: float, communication: float
) -> float:
    """The upper confidence bound of a node: mean reward + C1 sqrt(ln(parent's visits) / visits) + C2 operation.

    `visits` at least 1; `operation` is what the same option earned under any parent (node communication).
    """
    return total / visits + exploration * math.sqrt(math.log(parent_visits) / visits) + communication * operation


class MonteCarloTree(RewardedPolicy):
    """A node a prefix of options that was drawn; its children are the options of the next choice.

    Below a node, a child that was never visited comes first, one as likely as another by how many architectures it
    leads to; below it the path is uniform. Where all children were visited, one is drawn from softmax(UCT /
    temperature). A path's reward is added to all its nodes, and to a moving average of each of its options.

    Memory grows by at most a node a choice and step.

    Args:
        space: The space whose choices, in their order, are the levels of the tree.
        exploration: C1, at least 0.
        communication: C2, at least 0: how much a node counts what its option earned elsewhere in the tree.
        temperature: Above 0; small ones draw the child with the largest bound nearly always.
        decay: What the average of an option keeps at each reward, in [0, 1).

    Attributes:
        nodes: Visits and summed rewards of each prefix.
        operations: The average reward of each option, by its place and its index.

    Raises:
        InputError: a value is out of its range.
    """

    def __init__(
        self,
        space: Space,
        exploration: float = 0.5,
        communication: float = 0.2,
        temperature: float = 0.2,
        decay: float = 0.9,
    ) -> None:
        super().__init__(space)
        for name, value in (("exploration", exploration), ("communication", communication)):
            if not 0 <= value < math.inf:
                raise InputError(f"policy.{name} is {value}: expected at least 0, such as 0.1")
        self.exploration, self.communication = exploration, communication
        self.temperature, self.decay = checked(temperature, decay)
        self.nodes: dict[Architecture, tuple[int, float]] = {}
        self.operations: dict[tuple[int, int], float] = {}

    def _odds(self, prefix: Architecture) -> Mapping[int, float]:
        uniform = super()._odds(prefix)
        fresh = {index: own for index, own in uniform.items() if (*prefix, index) not in self.nodes}
        if fresh:
            return fresh
        bounds = {index: self._bound(prefix, index) for index in uniform}
        return softened(dict.fromkeys(uniform, 1.0), bounds, self.temperature)

    def _bound(self, prefix: Architecture, index: int) -> float:
        visits, total = self.nodes[*prefix, index]
        operation = self.operations[len(prefix), index]
        return uct(total, visits, self.nodes[prefix][0], operation, self.exploration, self.communication)

    def observe(self, architecture: Architecture, reward: float) -> None:
        for depth in range(len(architecture) + 1):
            visits, total = self.nodes.get(architecture[:depth], (0, 0.0))
            self.nodes[architecture[:depth]] = (visits + 1, total + reward)
        for option in enumerate(architecture):
            before = self.operations.get(option, reward)
            self.operations[option] = self.decay * before + (1 - self.decay) * reward

    def mean_visits(self, prefix: Architecture) -> float:
        """How often the children of a node were visited, on average over those that may be drawn."""
        children = self.uniform_odds(prefix)
        return sum(self.nodes.get((*prefix, index), (0, 0.0))[0] for index in children) / len(children)

    def memory(self) -> dict[str, Tensor]:
        """Nodes and options in lexicographic order; prefixes are filled up with -1 to the length of a path."""
        length, nodes, options = len(self.space.choices), sorted(self.nodes), sorted(self.operations)
        filled = [(*prefix, *[-1] * (length - len(prefix))) for prefix in nodes]
        return {
            "prefixes": torch.tensor(filled, dtype=torch.int16).view(-1, length),
            "visits": torch.tensor([self.nodes[prefix][0] for prefix in nodes], dtype=torch.int64),
            "totals": torch.tensor([self.nodes[prefix][1] for prefix in nodes], dtype=torch.float64),
            "options": torch.tensor(options, dtype=torch.int16).view(-1, 2),
            "averages": torch.tensor([self.operations[option] for option in options], dtype=torch.float64),
        }

    def recall(self, memory: Mapping[str, Tensor]) -> None:
        numbers = {key: tensor.tolist() for key, tensor in memory.items()}
        prefixes = [tuple(index for index in row if index >= 0) for row in numbers["prefixes"]]
        told = zip(numbers["visits"], numbers["totals"], strict=True)
        self.nodes = dict(zip(prefixes, told, strict=True))
        options = [(place, index) for place, index in numbers["options"]]
        self.operations = dict(zip(options, numbers["averages"], strict=True))
