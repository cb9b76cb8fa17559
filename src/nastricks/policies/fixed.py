"""A policy that always runs one architecture: how a child is trained by the same loop as a supernet."""

from collections.abc import Sequence

import torch
from torch import Tensor

from nastricks.moment import Moment
from nastricks.policies.base import Policy
from nastricks.spaces import Architecture, Gates, Space


class Fixed(Policy):
    """One architecture, always.

    Args:
        space: The space of the architecture.
        architecture: Its string.
    """

    def __init__(self, space: Space, architecture: str) -> None:
        super().__init__(space)
        self.architecture: Architecture = space.parse(architecture)
        for choice, index in zip(space.choices, self.architecture, strict=True):
            self.restrict(choice.name, (index,))

    def propose(self, moment: Moment) -> Sequence[Gates]:
        return [self.space.gates(self.architecture)]

    def log_prob(self, architecture: Architecture) -> Tensor:
        return torch.tensor(0.0 if architecture == self.architecture else -torch.inf)
