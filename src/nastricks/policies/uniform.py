"""Uniform single paths: SPOS (Guo et al. 2020, "Single Path One-Shot NAS with Uniform Sampling", section 3.2)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from nastricks.moment import Moment
from nastricks.policies.base import Policy
from nastricks.spaces import Architecture, Gate, Gates


class UniformPath(Policy):
    """One architecture a step, each choice uniform over its allowed options. It has no parameters."""

    def propose(self, moment: Moment) -> Sequence[Gates]:
        rng = moment.generator("path")
        gates: dict[str, Gate] = {}
        prefix: Architecture = ()
        for choice in self.space.choices:
            options = self._options(prefix)
            index = options[int(torch.randint(len(options), (), generator=rng))]
            gates[choice.name] = Gate(active=(index,))
            prefix += (index,)
        return [gates]

    def log_prob(self, architecture: Architecture) -> Tensor:
        total = 0.0
        for position, index in enumerate(architecture):
            options = self._options(architecture[:position])
            total -= math.log(len(options)) if index in options else math.inf
        return torch.tensor(total)

    def _options(self, prefix: Architecture) -> list[int]:
        allowed = self.allowed[self.space.choices[len(prefix)].name]
        return [index for index in self.space.legal(prefix) if index in allowed]
