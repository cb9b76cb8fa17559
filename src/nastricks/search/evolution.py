"""Regularized evolution: the oldest of a population dies, whatever it is worth.

Papers: Real et al. 2019, "Regularized Evolution for Image Classifier Architecture Search", algorithm 1. Crossover and
a mutation of each choice with a probability are the operators of Guo et al. 2020 (SPOS), algorithm 1.
"""

from collections import deque
from collections.abc import Sequence

import torch

from nastricks.errors import InputError
from nastricks.rng import generator
from nastricks.search.algorithm import Outcome, Proposal, SearchAlgorithm, at_least, probability
from nastricks.search.moves import TRIES, mutate
from nastricks.search.moves import crossover as combine
from nastricks.spaces import Architecture, Space


class RegularizedEvolution(SearchAlgorithm):
    """A random population; then each child comes from the best of a random sample, and the oldest dies.

    With `batch` above 1 the children of an ask are bred from the same population, so that they can be evaluated in
    parallel. A child may be an architecture that was proposed before. Under constraints children are bred anew until
    one meets them, as in SPOS.

    Args:
        population: Architectures alive, at least 2.
        sample: Candidates of a tournament, drawn with replacement; from 1 to `population`.
        mutation_probability: None changes one choice; a number in [0, 1] changes each choice with that probability,
            and at least one.
        crossover: Probability in [0, 1] that a child combines the winners of two tournaments in place of mutating
            one; it is mutated only where it would equal a parent.
        batch: Architectures an ask, at least 1.

    Raises:
        InputError: a value outside its range.
    """

    def __init__(
        self,
        space: Space,
        seed: int,
        *,
        population: int = 100,
        sample: int = 25,
        mutation_probability: float | None = None,
        crossover: float = 0.0,
        batch: int = 1,
    ) -> None:
        super().__init__(space, seed)
        self.population = at_least("population", population, 2)
        self.sample = at_least("sample", sample, 1)
        if sample > population:
            raise InputError(
                f"sample is {sample}, of a population of {population}: expected at most {population}, such as "
                f"{max(1, population // 4)}"
            )
        if mutation_probability is not None:
            probability("mutation_probability", mutation_probability)
        self.mutation_probability = mutation_probability
        self.crossover = probability("crossover", crossover)
        self.batch = at_least("batch", batch, 1)
        self._alive: deque[Outcome] = deque(maxlen=population)
        self._told = 0

    def ask(self) -> list[Proposal]:
        missing = self.population - len(self._alive)
        numbers = range(self._told, self._told + min(self.batch, missing or self.batch))
        rngs = [generator(self.seed, "regularized_evolution", number) for number in numbers]
        return [Proposal(self.draw(rng) if missing else self._admitted(rng)) for rng in rngs]

    def tell(self, outcomes: Sequence[Outcome]) -> None:
        self._alive.extend(outcomes)  # the oldest fall out on the left
        self._told += len(outcomes)

    def measures(self) -> dict[str, float]:
        if not self._alive:
            return {}
        rewards = [outcome.reward for outcome in self._alive]
        return {"population_best": max(rewards), "population_mean": sum(rewards) / len(rewards)}

    def _admitted(self, rng: torch.Generator) -> Architecture:
        """A child that meets the constraints, bred anew until one does; a random one where a hundred do not."""
        for _ in range(TRIES):
            child = self._child(rng)
            if self.admits(child):
                return child
        return self.draw(rng)

    def _child(self, rng: torch.Generator) -> Architecture:
        parent = self._winner(rng)
        if float(torch.rand((), generator=rng)) < self.crossover:
            other = self._winner(rng)
            child = combine(self.space, parent, other, rng)
            if child not in (parent, other):
                return child
            parent = child
        return mutate(self.space, parent, rng, self.mutation_probability)

    def _winner(self, rng: torch.Generator) -> Architecture:
        drawn = torch.randint(len(self._alive), (self.sample,), generator=rng).tolist()
        best = max((self._alive[index] for index in drawn), key=lambda outcome: outcome.reward)
        return best.proposal.architecture
