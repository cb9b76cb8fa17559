"""Regularized evolution: the oldest dies, tournaments are won by the best, and smooth objectives are climbed."""

import math
from collections import Counter
from typing import ClassVar

import numpy as np
import pytest

from nastricks.data import ImageSpec
from nastricks.rng import generator
from nastricks.search import Outcome, Proposal, RandomSearch, RegularizedEvolution, SearchAlgorithm
from nastricks.search.moves import crossover, mutate, neighbours
from nastricks.spaces import Allowed, Architecture, Choice, Network, Option, Space, Tiny64


class Wide(Space):
    """Eight choices of four options."""

    name: ClassVar[str] = "wide"
    choices = tuple(Choice(f"choice{i}", tuple(Option(f"option{j}") for j in range(4))) for i in range(8))

    def build(self, spec: ImageSpec, allowed: Allowed) -> Network:
        raise NotImplementedError


def distance(first: Architecture, second: Architecture) -> int:
    return sum(a != b for a, b in zip(first, second, strict=True))


def test_the_oldest_dies_whatever_its_reward() -> None:
    algorithm = RegularizedEvolution(Tiny64(), 0, population=5, sample=3)
    rewards = [1.0, *np.random.default_rng(0).uniform(0, 0.9, 40).tolist()]
    for told in range(1, len(rewards) + 1):
        (proposal,) = algorithm.ask()
        algorithm.tell([Outcome(proposal, rewards[told - 1])])
        alive = rewards[max(0, told - 5) : told]
        assert algorithm.measures() == {"population_best": max(alive), "population_mean": pytest.approx(np.mean(alive))}


def test_no_child_of_the_dead() -> None:
    algorithm = RegularizedEvolution(Wide(), 0, population=4, sample=4)
    told: list[Architecture] = []
    for number in range(60):
        (proposal,) = algorithm.ask()
        if number >= 4:
            assert 1 in {distance(proposal.architecture, parent) for parent in told[-4:]}
        algorithm.tell([Outcome(proposal, -number)])  # the oldest are the best
        told.append(proposal.architecture)


def test_tournaments() -> None:
    """The r-th best of P wins a tournament of S draws with probability ((P - r + 1)^S - (P - r)^S) / P^S."""
    size, sample, children = 8, 3, 2000
    algorithm = RegularizedEvolution(Wide(), 3, population=size, sample=sample, batch=children)
    parents = [proposal.architecture for proposal in algorithm.ask()]
    assert len(parents) == size
    assert min(distance(a, b) for a in parents for b in parents if a != b) > 2, "each child has one parent"
    rewards = [3, 1, 4, 0, 7, 6, 2, 5]
    algorithm.tell([Outcome(Proposal(a), r) for a, r in zip(parents, rewards, strict=True)])
    ranked = [parents[rewards.index(reward)] for reward in sorted(rewards, reverse=True)]
    wins = Counter[int]()
    for proposal in algorithm.ask():
        (winner,) = (rank for rank, parent in enumerate(ranked) if distance(parent, proposal.architecture) == 1)
        wins[winner] += 1
    assert sum(wins.values()) == children
    for rank in range(size):
        chance = ((size - rank) ** sample - (size - rank - 1) ** sample) / size**sample
        assert abs(wins[rank] - children * chance) < 4 * math.sqrt(children * chance * (1 - chance)) + 1


def test_a_batch_never_goes_past_the_first_population() -> None:
    algorithm = RegularizedEvolution(Tiny64(), 0, population=10, sample=2, batch=4)
    sizes = []
    for _ in range(4):
        asked = algorithm.ask()
        sizes.append(len(asked))
        algorithm.tell([Outcome(proposal, 0.0) for proposal in asked])
    assert sizes == [4, 4, 2, 4]


def test_crossover_combines_two_parents() -> None:
    algorithm = RegularizedEvolution(Wide(), 3, population=2, sample=1, crossover=1.0, batch=200)
    parents = [proposal.architecture for proposal in algorithm.ask()]
    algorithm.tell([Outcome(Proposal(a), 0.0) for a in parents])
    children = [proposal.architecture for proposal in algorithm.ask()]
    mixed = [c for c in children if all(x in pair for x, pair in zip(c, zip(*parents, strict=True), strict=True))]
    assert not set(children) & set(parents)
    # Two different winners half the time; otherwise the one parent is mutated, which can land on a mixture as well.
    assert 70 < len(mixed) < 160


def best(algorithm: SearchAlgorithm, target: Architecture, evaluations: int) -> float:
    reached = -math.inf
    for _ in range(evaluations):
        (proposal,) = algorithm.ask()
        reward = -float(sum(abs(a - b) for a, b in zip(proposal.architecture, target, strict=True)))
        algorithm.tell([Outcome(proposal, reward)])
        reached = max(reached, reward)
    return reached


def test_beats_random_search_on_a_smooth_objective() -> None:
    """20 seeds, each with a target of its own, 120 evaluations: the mean paired gain is above four standard errors."""
    space = Wide()
    gains = []
    for seed in range(20):
        target = space.sample(generator(seed, "target"))
        evolved = best(RegularizedEvolution(space, seed, population=20, sample=5), target, 120)
        gains.append(evolved - best(RandomSearch(space, seed), target, 120))
    assert np.mean(gains) > 4 * np.std(gains, ddof=1) / math.sqrt(len(gains))


def test_mutation_of_one_choice_is_uniform_over_the_neighbours() -> None:
    space = Tiny64()
    counts = dict.fromkeys(neighbours(space, (0, 1, 2)), 0)
    for number in range(900):
        counts[mutate(space, (0, 1, 2), generator(number))] += 1
    assert max(abs(count - 100) for count in counts.values()) < 4 * math.sqrt(900 * (1 / 9) * (8 / 9))


@pytest.mark.parametrize(("probability", "expected"), [(0.0, 1.0), (0.3, 0.9 + 0.7**3), (1.0, 3.0)])
def test_mutation_of_each_choice(probability: float, expected: float) -> None:
    mutants = [mutate(Tiny64(), (0, 1, 2), generator(number), probability) for number in range(1000)]
    changes = [sum(x != y for x, y in zip(a, (0, 1, 2), strict=True)) for a in mutants]
    assert min(changes) >= 1
    assert np.mean(changes) == pytest.approx(expected, abs=0.1)


def test_crossover_takes_each_choice_from_either_parent() -> None:
    children = {crossover(Tiny64(), (0, 0, 0), (3, 3, 3), generator(number)) for number in range(100)}
    assert children == {(a, b, c) for a in (0, 3) for b in (0, 3) for c in (0, 3)}
