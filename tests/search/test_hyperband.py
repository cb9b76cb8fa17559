"""Hyperband and successive halving: the paper's rungs, and promotion of the best of a whole rung."""

from typing import ClassVar

import pytest

from nastricks.data import ImageSpec
from nastricks.rng import generator
from nastricks.search import Hyperband, Outcome, SearchAlgorithm, SuccessiveHalving
from nastricks.spaces import Allowed, Architecture, Choice, Network, Option, Space, Tiny64

# Li et al. 2018, algorithm 1 for R = 81, eta = 3: (n_i, r_i) of the brackets s = 4, 3, 2, 1, 0.
TABLE = [
    [(81, 1), (27, 3), (9, 9), (3, 27), (1, 81)],
    [(34, 3), (11, 9), (3, 27), (1, 81)],
    [(15, 9), (5, 27), (1, 81)],
    [(8, 27), (2, 81)],
    [(5, 81)],
]


class Wide(Space):
    """Six choices of four options: 4,096 architectures."""

    name: ClassVar[str] = "wide"
    choices = tuple(Choice(f"choice{i}", tuple(Option(f"option{j}") for j in range(4))) for i in range(6))

    def build(self, spec: ImageSpec, allowed: Allowed) -> Network:
        raise NotImplementedError


def reward(architecture: Architecture, epochs: int) -> float:
    """Without order, and another one for every number of epochs."""
    return float(generator("reward", architecture, epochs).initial_seed() % 1000)


def rung(algorithm: SearchAlgorithm) -> list[Outcome]:
    """Ask for one rung and tell it."""
    asked = algorithm.ask()
    outcomes = [Outcome(p, reward(p.architecture, p.epochs or 0)) for p in asked]
    algorithm.tell(outcomes)
    return outcomes


def sizes(algorithm: SearchAlgorithm, rungs: int) -> list[tuple[int, int]]:
    found = []
    for _ in range(rungs):
        outcomes = rung(algorithm)
        (epochs,) = {outcome.proposal.epochs for outcome in outcomes}
        assert epochs is not None
        found.append((len(outcomes), epochs))
    return found


def test_the_rungs_of_the_paper_and_then_again() -> None:
    expected = [each for bracket in TABLE for each in bracket]
    algorithm = Hyperband(Wide(), 0, max_epochs=81)
    assert sizes(algorithm, 2 * len(expected)) == 2 * expected
    for bracket in TABLE:
        assert sum(n * r for n, r in bracket) <= 5 * 81, "a bracket spends at most B = (s_max + 1) R"


def test_fewer_brackets() -> None:
    expected = [each for bracket in TABLE[:2] for each in bracket]
    assert sizes(Hyperband(Wide(), 0, max_epochs=81, brackets=2), 2 * len(expected)) == 2 * expected


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"max_epochs": 27}, [(27, 1), (9, 3), (3, 9), (1, 27)]),
        ({"max_epochs": 100}, [(81, 1), (27, 3), (9, 11), (3, 33), (1, 100)]),
        ({"min_epochs": 5, "max_epochs": 50}, [(9, 5), (3, 16), (1, 50)]),
        ({"max_epochs": 8, "eta": 2, "architectures": 20}, [(20, 1), (10, 2), (5, 4), (2, 8)]),
        ({"min_epochs": 4, "max_epochs": 4}, [(1, 4)]),
        ({"min_epochs": 4, "max_epochs": 4, "architectures": 6}, [(6, 4)]),
    ],
)
def test_the_rungs_of_successive_halving(settings: dict[str, int], expected: list[tuple[int, int]]) -> None:
    assert sizes(SuccessiveHalving(Wide(), 0, **settings), 2 * len(expected)) == 2 * expected


def test_the_best_of_the_whole_rung_go_on() -> None:
    algorithm = Hyperband(Wide(), 0, max_epochs=81)
    for bracket in TABLE:
        below = rung(algorithm)
        assert len({outcome.proposal.architecture for outcome in below}) == bracket[0][0], "none twice in a bracket"
        for _ in bracket[1:]:
            above = rung(algorithm)
            kept = {outcome.proposal.architecture for outcome in above}
            best = sorted(below, key=lambda outcome: outcome.reward, reverse=True)[: len(above)]
            assert kept == {outcome.proposal.architecture for outcome in best}
            below = above


def test_a_rung_is_judged_as_a_whole() -> None:
    """The last one told can go on before the first; nothing is decided while the rung is out."""
    algorithm = SuccessiveHalving(Wide(), 0, max_epochs=9)
    asked = algorithm.ask()
    assert algorithm.ask() == asked
    algorithm.tell([Outcome(proposal, number) for number, proposal in enumerate(asked)])
    assert [p.architecture for p in algorithm.ask()] == [p.architecture for p in reversed(asked[-3:])]


def test_of_equal_rewards_the_first_go_on() -> None:
    algorithm = SuccessiveHalving(Wide(), 0, max_epochs=9)
    asked = algorithm.ask()
    algorithm.tell([Outcome(proposal, 0.5) for proposal in asked])
    assert [p.architecture for p in algorithm.ask()] == [p.architecture for p in asked[:3]]


def test_each_bracket_draws_anew() -> None:
    algorithm = SuccessiveHalving(Wide(), 0, max_epochs=9)
    first = {outcome.proposal.architecture for outcome in rung(algorithm)}
    rung(algorithm)
    rung(algorithm)
    assert first != {outcome.proposal.architecture for outcome in rung(algorithm)}


def test_a_space_smaller_than_the_bracket() -> None:
    """tiny64 has 64 of the 81 architectures: each is asked once, and a third goes on as ever."""
    algorithm = Hyperband(Tiny64(), 0, max_epochs=81)
    assert sizes(algorithm, 5) == [(64, 1), (21, 3), (7, 9), (2, 27), (1, 81)]


def test_measures_name_what_comes() -> None:
    algorithm = Hyperband(Wide(), 0, max_epochs=9)
    assert algorithm.measures() == {"bracket": 2, "rung": 0}
    rung(algorithm)
    assert algorithm.measures() == {"bracket": 2, "rung": 1}
    rung(algorithm)
    rung(algorithm)
    assert algorithm.measures() == {"bracket": 1, "rung": 0}
