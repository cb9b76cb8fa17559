"""Uniform single paths: SPOS (Guo et al. 2020, "Single Path One-Shot NAS with Uniform Sampling", section 3.2)."""

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from nastricks.errors import InputError
from nastricks.moment import Moment
from nastricks.policies.base import Policy
from nastricks.spaces import Architecture, Gate, Gates, Space
from nastricks.spaces.base import drawn


class UniformPath(Policy):
    """One architecture a step, each as likely as another among those that the mask leaves. It has no parameters.

    Args:
        space: The space whose choices are gated.
        paths: Architectures a step, at least 1; the gradients of several are added up.

    Raises:
        InputError: `paths` is below 1.
    """

    keepable: ClassVar[bool] = True

    def __init__(self, space: Space, paths: int = 1) -> None:
        super().__init__(space)
        if paths < 1:
            raise InputError(f"policy.paths is {paths}: expected at least 1")
        self.paths = paths

    def propose(self, moment: Moment) -> Sequence[Gates]:
        return [
            self._path(moment.at(gate_set=moment.gate_set + number) if number else moment)
            for number in range(self.paths)
        ]

    def _path(self, moment: Moment) -> Gates:
        rng = moment.generator("path")
        if self.kept is not None:
            return self.space.gates(self.kept[int(torch.randint(len(self.kept), (), generator=rng))])
        gates: dict[str, Gate] = {}
        prefix: Architecture = ()
        for choice in self.space.choices:
            index = drawn(self._odds(prefix), rng)
            gates[choice.name] = Gate(active=(index,))
            prefix += (index,)
        return gates

    def log_prob(self, architecture: Architecture) -> Tensor:
        if self.kept is not None:
            return torch.tensor(-math.log(len(self.kept)) if self.leaves(architecture) else -math.inf)
        total = 0.0
        for position, index in enumerate(architecture):
            odds = self._odds(architecture[:position])
            if index not in odds:
                return torch.tensor(-math.inf)
            total += math.log(odds[index] / sum(odds.values()))
        return torch.tensor(total)

    def _odds(self, prefix: Architecture) -> Mapping[int, float]:
        odds = self.space.odds(prefix, self.allowed)
        if not odds:
            name = self.space.choices[len(prefix)].name
            raise InputError(f"after {prefix} no option of {name} is both legal and allowed: allow more of its options")
        return odds
