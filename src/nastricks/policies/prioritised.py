"""Paths drawn by a score an option: what paths through it earned lately."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from nastricks.errors import InputError
from nastricks.policies.rewarded import RewardedPolicy
from nastricks.spaces import Architecture, Space


class Prioritised(RewardedPolicy):
    """Each choice draws an option in proportion to exp(score / temperature), whatever the other choices are.

    The score is a moving average of what the paths through the option earned: the reward of an operation in
    Monte-Carlo tree sampling (Su et al. 2021, section 3.2, node communication) without the tree. Scores start at 1,
    what an average path earns.

    Args:
        space: The space to draw from.
        temperature: Above 0; small ones draw the best option nearly always.
        decay: What a score keeps at each reward, in [0, 1).

    Raises:
        InputError: a value is out of its range.
    """

    def __init__(self, space: Space, temperature: float = 0.2, decay: float = 0.9) -> None:
        super().__init__(space)
        self.temperature, self.decay = checked(temperature, decay)
        self.scores = {choice.name: [1.0] * len(choice.options) for choice in space.choices}

    def _odds(self, prefix: Architecture) -> Mapping[int, float]:
        scores = self.scores[self.space.choices[len(prefix)].name]
        return softened(super()._odds(prefix), scores, self.temperature)

    def observe(self, architecture: Architecture, reward: float) -> None:
        for choice, index in zip(self.space.choices, architecture, strict=True):
            scores = self.scores[choice.name]
            scores[index] = self.decay * scores[index] + (1 - self.decay) * reward

    def preferences(self) -> dict[str, Tensor]:
        """Each choice's probabilities over its allowed options, before the space's `legal` has its say."""
        found: dict[str, Tensor] = {}
        for choice in self.space.choices:
            allowed = self.allowed[choice.name]
            odds = softened(dict.fromkeys(allowed, 1.0), self.scores[choice.name], self.temperature)
            own = torch.full((len(choice.options),), -torch.inf)
            own[list(allowed)] = torch.tensor([odds[index] / sum(odds.values()) for index in allowed])
            found[choice.name] = own
        return found

    def memory(self) -> dict[str, Tensor]:
        return {name: torch.tensor(scores, dtype=torch.float64) for name, scores in self.scores.items()}

    def recall(self, memory: Mapping[str, Tensor]) -> None:
        self.scores = {name: scores.tolist() for name, scores in memory.items()}


def checked(temperature: float, decay: float) -> tuple[float, float]:
    """Both, where they are in their ranges.

    Raises:
        InputError: one is not.
    """
    if not 0 < temperature < math.inf:
        raise InputError(f"policy.temperature is {temperature}: expected a number above 0, such as 0.2")
    if not 0 <= decay < 1:
        raise InputError(f"policy.decay is {decay}: expected a number in [0, 1), such as 0.9")
    return temperature, decay


def softened(
    odds: Mapping[int, float], scores: Mapping[int, float] | list[float], temperature: float
) -> dict[int, float]:
    """Odds times exp(score / temperature), up to a common factor; the odds as they are where all scores are equal."""
    top = max(scores[index] for index in odds)
    return {index: own * math.exp((scores[index] - top) / temperature) for index, own in odds.items()}
