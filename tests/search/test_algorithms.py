"""Every search algorithm: legal proposals, keyed by the seed, continued by replaying, at ease with any rewards."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import ClassVar

import numpy as np
import pytest
import torch

from nastricks.data import ImageSpec
from nastricks.errors import InputError
from nastricks.rng import generator
from nastricks.search import (
    NSGA2,
    TPE,
    Hyperband,
    LocalSearch,
    Outcome,
    Proposal,
    RandomSearch,
    RegularizedEvolution,
    SearchAlgorithm,
    SuccessiveHalving,
)
from nastricks.search.moves import crossover, mutate, neighbours, repair, unseen
from nastricks.spaces import Allowed, Architecture, Choice, Network, Option, Space, Tiny64

OPTIONS = tuple(Option(f"option{i}") for i in range(4))


class Falling(Space):
    """Four choices, each at most the one before: 35 architectures, and after a 0 nothing is left to choose."""

    name: ClassVar[str] = "falling"
    choices = tuple(Choice(f"step{i}", OPTIONS) for i in range(4))

    def build(self, spec: ImageSpec, allowed: Allowed) -> Network:
        raise NotImplementedError

    def legal(self, prefix: Sequence[int]) -> tuple[int, ...]:
        return tuple(range(prefix[-1] + 1)) if prefix else (0, 1, 2, 3)

    def architectures(self) -> Iterator[Architecture]:
        return (a for a in super().architectures() if all(x >= y for x, y in pairwise(a)))


SPACES: dict[str, Callable[[], Space]] = {"tiny64": Tiny64, "falling": Falling}
MAKERS: dict[str, Callable[[Space, int], SearchAlgorithm]] = {
    "random": RandomSearch,
    "random_batch": partial(RandomSearch, batch=8),
    "random_repeating": partial(RandomSearch, without_repetition=False),
    "evolution": partial(RegularizedEvolution, population=8, sample=4),
    "evolution_spos": partial(
        RegularizedEvolution, population=8, sample=3, crossover=0.5, mutation_probability=0.3, batch=4
    ),
    "local": LocalSearch,
    "local_batch": partial(LocalSearch, batch=2),
    "tpe": partial(TPE, startup=5),
    "tpe_batch": partial(TPE, startup=5, batch=4),
    "nsga2": partial(NSGA2, population=6),
    "nsga2_batch": partial(NSGA2, population=6, batch=4, cost="params", mutation_probability=0.2),
    "halving": partial(SuccessiveHalving, max_epochs=9),
    "hyperband": partial(Hyperband, max_epochs=9),
}
LEARNING = sorted(set(MAKERS) - {"random", "random_batch", "random_repeating"})

Objective = Callable[[Proposal], float]


def separable(proposal: Proposal) -> float:
    """Best where every choice takes its last option, in [0, 1]; more epochs are a little better."""
    return sum(proposal.architecture) / (3 * len(proposal.architecture)) - 0.01 / (proposal.epochs or 1)


def outcome(proposal: Proposal, objective: Objective = separable) -> Outcome:
    cost = 10 + sum(proposal.architecture)
    return Outcome(proposal, objective(proposal), params=cost, flops=3 * cost)


def searched(
    algorithm: SearchAlgorithm, evaluations: int = 40, objective: Objective = separable
) -> list[list[Outcome]]:
    """What was told, ask by ask."""
    told: list[list[Outcome]] = []
    while (left := evaluations - sum(map(len, told))) > 0 and (asked := algorithm.ask()):
        told.append([outcome(proposal, objective) for proposal in asked[:left]])
        algorithm.tell(told[-1])
    return told


def proposals(told: Sequence[Sequence[Outcome]]) -> list[Proposal]:
    return [each.proposal for batch in told for each in batch]


@pytest.fixture(params=sorted(MAKERS))
def make(request: pytest.FixtureRequest) -> Callable[[Space, int], SearchAlgorithm]:
    return MAKERS[request.param]


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_only_legal_architectures(space: Callable[[], Space], make: Callable[[Space, int], SearchAlgorithm]) -> None:
    told = searched(make(space(), 0), 70)
    assert len(proposals(told)) >= 35
    for proposal in proposals(told):
        assert space().check(proposal.architecture) == proposal.architecture
        assert all(type(index) is int for index in proposal.architecture)


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_the_seed_alone_is_the_key(space: Callable[[], Space], make: Callable[[Space, int], SearchAlgorithm]) -> None:
    torch.manual_seed(1)
    np.random.seed(1)
    first = searched(make(space(), 0))
    torch.manual_seed(2)
    np.random.seed(2)
    algorithm = make(space(), 0)
    state = torch.get_rng_state()
    assert searched(algorithm) == first
    assert torch.equal(torch.get_rng_state(), state), "draws come from generators of its own"
    assert proposals(searched(make(space(), 1)))[:20] != proposals(first)[:20]


def test_an_interrupted_search_is_continued_by_replaying(make: Callable[[Space, int], SearchAlgorithm]) -> None:
    straight = searched(make(Tiny64(), 0), 60)
    half = len(straight) // 2
    algorithm = make(Tiny64(), 0)
    for batch in straight[:half]:
        kept = [replace(o, proposal=replace(o.proposal)) for o in batch]
        assert algorithm.ask() == [o.proposal for o in kept]
        algorithm.tell(kept)
    for batch in straight[half:]:
        assert algorithm.ask()[: len(batch)] == [o.proposal for o in batch]
        algorithm.tell(batch)


@pytest.mark.parametrize("name", LEARNING)
def test_rewards_matter(name: str) -> None:
    liked = proposals(searched(MAKERS[name](Tiny64(), 0), 60))
    disliked = proposals(searched(MAKERS[name](Tiny64(), 0), 60, lambda proposal: -separable(proposal)))
    assert liked[0] == disliked[0]
    assert liked != disliked


@pytest.mark.parametrize(("name", "least"), [("random", 10), ("local", 10), ("tpe", 9), ("evolution", 7)])
def test_the_optimum_within_the_size_of_the_space(name: str, least: int) -> None:
    """Of ten seeds; 64 uniform draws with repetition find it for 6.4 of them."""
    told = [searched(MAKERS[name](Tiny64(), seed), 64) for seed in range(10)]
    best = [max(each.reward for batch in batches for each in batch) for batches in told]
    assert best.count(separable(Proposal((3, 3, 3)))) >= least


def flat(proposal: Proposal) -> float:
    return 0.5


def diverging(proposal: Proposal) -> float:
    """Two thirds of the architectures get the stated reward, here the lowest there is."""
    return separable(proposal) if sum(proposal.architecture) % 3 == 0 else -math.inf


@pytest.mark.parametrize("objective", [flat, diverging])
def test_any_rewards(objective: Objective, make: Callable[[Space, int], SearchAlgorithm]) -> None:
    algorithm = make(Tiny64(), 0)
    asked = proposals(searched(algorithm, 60, objective))
    assert len({proposal.architecture for proposal in asked}) >= 9
    assert all(type(value) in (int, float) for value in algorithm.measures().values())


def test_a_batch_cut_by_the_budget(make: Callable[[Space, int], SearchAlgorithm]) -> None:
    algorithm = make(Tiny64(), 0)
    searched(algorithm, 12)
    asked = algorithm.ask()
    algorithm.tell([outcome(proposal) for proposal in asked[: len(asked) // 2]])
    assert not any(math.isnan(value) for value in algorithm.measures().values())


@pytest.mark.parametrize("name", ["random", "random_batch", "local", "local_batch"])
@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_without_repetition_the_space_is_exhausted(name: str, space: Callable[[], Space]) -> None:
    algorithm = MAKERS[name](space(), 0)
    asked = proposals(searched(algorithm, 1000))
    assert sorted(proposal.architecture for proposal in asked) == sorted(space().architectures())
    assert algorithm.ask() == []


def test_random_search_does_not_depend_on_its_batch() -> None:
    one, eight = (proposals(searched(MAKERS[name](Tiny64(), 0), 64)) for name in ("random", "random_batch"))
    assert one == eight


def test_random_search_is_uniform() -> None:
    asked = proposals(searched(RandomSearch(Tiny64(), 0, batch=1000, without_repetition=False), 1000))
    for position in range(3):
        counts = np.bincount([proposal.architecture[position] for proposal in asked], minlength=4)
        assert (np.abs(counts - 250) < 4 * math.sqrt(1000 * 0.25 * 0.75)).all()


def test_a_reward_is_a_number() -> None:
    with pytest.raises(InputError, match=r"reward of \(0, 1, 2\) is nan: expected a number"):
        Outcome(Proposal((0, 1, 2)), math.nan)


@pytest.mark.parametrize(
    ("make", "refusal"),
    [
        (partial(RandomSearch, batch=0), "batch is 0: expected at least 1"),
        (partial(LocalSearch, batch=0), "batch is 0: expected at least 1"),
        (partial(RegularizedEvolution, population=1), "population is 1: expected at least 2"),
        (partial(RegularizedEvolution, sample=0), "sample is 0: expected at least 1"),
        (partial(RegularizedEvolution, population=10), "sample is 25, of a population of 10: expected at most 10"),
        (partial(RegularizedEvolution, crossover=1.5), "crossover is 1.5: expected a probability"),
        (partial(RegularizedEvolution, mutation_probability=-0.1), "mutation_probability is -0.1"),
        (partial(RegularizedEvolution, batch=0), "batch is 0"),
        (partial(TPE, startup=0), "startup is 0"),
        (partial(TPE, candidates=0), "candidates is 0"),
        (partial(TPE, batch=0), "batch is 0"),
        (partial(NSGA2, population=1), "population is 1"),
        (partial(NSGA2, cost="flop"), "unknown cost 'flop': did you mean 'flops'"),
        (partial(NSGA2, crossover=-1), "crossover is -1"),
        (partial(NSGA2, mutation_probability=2), "mutation_probability is 2"),
        (partial(NSGA2, batch=0), "batch is 0"),
        (partial(SuccessiveHalving, eta=1), "eta is 1: expected at least 2"),
        (partial(SuccessiveHalving, min_epochs=0), "min_epochs is 0: expected at least 1"),
        (partial(SuccessiveHalving, min_epochs=5, max_epochs=4), "min_epochs is 5, max_epochs is 4"),
        (partial(SuccessiveHalving, max_epochs=9, architectures=8), "architectures is 8: expected at least 9"),
        (partial(Hyperband, eta=0), "eta is 0"),
        (partial(Hyperband, min_epochs=5, max_epochs=4), "min_epochs is 5, max_epochs is 4"),
        (partial(Hyperband, max_epochs=9, brackets=4), "brackets is 4: expected 1 to 3"),
        (partial(Hyperband, brackets=0), "brackets is 0"),
    ],
)
def test_bad_values_are_refused(make: Callable[[Space, int], SearchAlgorithm], refusal: str) -> None:
    with pytest.raises(InputError, match=refusal):
        make(Tiny64(), 0)


# The moves that they share.


def test_neighbours_are_repaired() -> None:
    space = Falling()
    for architecture in space.architectures():
        around = neighbours(space, architecture)
        assert around == neighbours(space, architecture)
        assert len(set(around)) == len(around)
        assert architecture not in around
        for other in around:
            space.check(other)
            first = next(p for p in range(4) if other[p] != architecture[p])
            kept = [p for p in range(first + 1, 4) if architecture[p] in space.legal(other[:p])]
            assert all(other[p] == architecture[p] for p in kept), "what stays legal stays"


def test_moves_stay_legal() -> None:
    space = Falling()
    pairs = [(space.sample(generator(n, "a")), space.sample(generator(n, "b"))) for n in range(200)]
    for number, (a, b) in enumerate(pairs):
        rng = generator(number)
        for probability in (None, 0.5):
            mutant = mutate(space, a, rng, probability)
            assert space.check(mutant) != a
        child = space.check(crossover(space, a, b, rng))
        for position, index in enumerate(child):
            legal = space.legal(child[:position])
            assert index in (a[position], b[position]) or not {a[position], b[position]} & set(legal)
        assert repair(space, a, rng) == a


def test_nothing_to_mutate() -> None:
    space = Falling()
    space.choices = space.choices[:1]
    space.legal = lambda prefix: (2,)  # type: ignore[method-assign]
    assert mutate(space, (2,), generator(0)) == (2,)
    assert neighbours(space, (2,)) == []


def test_unseen_finds_the_last_one() -> None:
    space = Falling()
    every = set(space.architectures())
    assert len(every) == 35
    for last in every:
        assert unseen(space, every - {last}, generator(0)) == last
    assert unseen(space, every, generator(0)) is None
