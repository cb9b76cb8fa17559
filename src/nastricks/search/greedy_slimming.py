"""Greedy slimming: from the largest network, again and again the layer shrinks that loses least.

Paper: Yu and Huang 2019, "AutoSlim: Towards One-Shot Architecture Search for Channel Numbers" (1903.11728),
section 3.3.
"""

import math
from collections.abc import Sequence
from typing import ClassVar

from nastricks.errors import InputError
from nastricks.search.algorithm import Outcome, Proposal, SearchAlgorithm, at_least
from nastricks.search.constraints import CostName
from nastricks.search.optuna_search import cost_of, known_cost
from nastricks.spaces import Architecture, Space


class GreedySlimming(SearchAlgorithm):
    """Evaluates every network that is one step smaller in one choice, and goes on from the best of them.

    The best is the one that loses the least reward for what it saves of the cost, or the least reward, as the paper has
    it. It ends at the first network that meets the constraints, without constraints at the smallest; all networks on
    the way are outcomes, so that their front is what one search gives for every budget. Meant for rewards out of shared
    weights: from one network to the next it asks as many questions as there are choices.

    Args:
        per_cost: Whether a loss is divided by the cost that it saves.
        cost: What is saved: `flops`, `params` or `latency`.
        step: By how many options a choice shrinks at a time, at least 1; the last step of a choice may be shorter.

    Raises:
        InputError: the space has no order of sizes, a step below 1, or an unknown cost.
    """

    needs_cost: ClassVar[bool] = True

    def __init__(
        self, space: Space, seed: int, *, per_cost: bool = True, cost: CostName = "flops", step: int = 1
    ) -> None:
        super().__init__(space, seed)
        unordered = next((choice.name for choice in space.choices if choice.kind != "nested"), None)
        if unordered is not None:
            raise InputError(
                f"GreedySlimming shrinks one size after another, and the options of {unordered} of {space.name} have "
                "no order of sizes: take a space such as slimmable or elastic, or another algorithm"
            )
        self.per_cost, self.cost, self.step = per_cost, known_cost(cost), at_least("step", step, 1)
        self._current: Architecture = space.largest(space.all_options())
        self._outcome: Outcome | None = None
        self._steps = 0

    def ask(self) -> list[Proposal]:
        if self._outcome is None:
            return [Proposal(self._current)]
        if self.constraints is not None and self.admits(self._current):
            return []
        return [Proposal(architecture) for architecture in self._smaller()]

    def tell(self, outcomes: Sequence[Outcome]) -> None:
        if self._outcome is not None:
            if len(outcomes) < len(self._smaller()):  # the budget ended inside the step
                return
            self._steps += 1
        self._outcome = min(outcomes, key=self._price)
        self._current = self._outcome.proposal.architecture

    def measures(self) -> dict[str, float]:
        if self._outcome is None:
            return {}
        return {"steps": self._steps, "current_reward": self._outcome.reward, "current_cost": self._cost(self._outcome)}

    def _smaller(self) -> list[Architecture]:
        """The networks one step smaller, without those that fall below a lower bound or are the same network."""
        own = self.space.canonical(self._current)
        found = []
        for place, index in enumerate(self._current):
            wanted = (*self._current[:place], max(0, index - self.step), *self._current[place + 1 :])
            same = index == 0 or self.space.canonical(wanted) == own
            if not same and not (self.constraints is not None and self.constraints.too_small(wanted)):
                found.append(wanted)
        return found

    def _price(self, outcome: Outcome) -> float:
        """What is lost a unit of what is saved."""
        if self._outcome is None:
            return 0.0
        lost = self._outcome.reward - outcome.reward
        saved = self._cost(self._outcome) - self._cost(outcome)
        if not self.per_cost:
            return lost
        return lost / saved if saved > 0 else math.inf

    def _cost(self, outcome: Outcome) -> float:
        return cost_of(outcome, self.cost)
