"""Strict fairness: after every step each option of a choice has been trained equally often (FairNAS)."""

import math

import torch

from nastricks.errors import InputError
from nastricks.moment import Moment
from nastricks.policies.base import Policy
from nastricks.spaces import Gate, Gates, Space

MOST_PATHS = 64


class StrictFairness(Policy):
    """m paths a step whose gradients are added up: a choice's options in a keyed order, each equally often.

    m is the number of options; where choices have different numbers, their least common multiple, and an option of a
    smaller choice runs several times (Chu et al. 2021, algorithm 1, has equal numbers).

    Args:
        space: A space whose choices do not constrain one another.

    Raises:
        InputError: a step would need more than 64 paths, or what is legal depends on other choices.
    """

    def __init__(self, space: Space) -> None:
        super().__init__(space)
        if type(space).legal is not Space.legal:
            raise InputError(
                f"policy StrictFairness permutes each choice on its own, and in {space.name} one choice limits "
                "another: use UniformPath"
            )
        self._paths()

    def propose(self, moment: Moment) -> list[Gates]:
        rng, paths = moment.generator("fair paths"), self._paths()
        chosen: dict[str, list[int]] = {}
        for choice in self.space.choices:
            options = self.allowed[choice.name]
            rounds = [torch.randperm(len(options), generator=rng).tolist() for _ in range(paths // len(options))]
            chosen[choice.name] = [options[i] for order in rounds for i in order]
        return [{name: Gate((order[path],)) for name, order in chosen.items()} for path in range(paths)]

    def _paths(self) -> int:
        paths = math.lcm(*(len(options) for options in self.allowed.values()))
        if paths > MOST_PATHS:
            raise InputError(
                f"policy StrictFairness would run {paths} paths a step in {self.space.name}, whose choices have "
                f"different numbers of options: expected at most {MOST_PATHS}; use UniformPath"
            )
        return paths
