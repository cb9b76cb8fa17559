"""Local search: every neighbour once, to the best of them, and elsewhere from a local optimum."""

from collections.abc import Callable

import pytest

from nastricks.search import LocalSearch, Outcome
from nastricks.search.moves import neighbours
from nastricks.spaces import Architecture, Tiny64

Objective = Callable[[Architecture], float]


def told(algorithm: LocalSearch, objective: Objective) -> list[Architecture]:
    """One turn of ask and tell."""
    asked = algorithm.ask()
    algorithm.tell([Outcome(proposal, objective(proposal.architecture)) for proposal in asked])
    return [proposal.architecture for proposal in asked]


def slope(architecture: Architecture) -> float:
    """One optimum, and no two neighbours alike."""
    return architecture[0] + 10 * architecture[1] + 100 * architecture[2]


def two_hills(architecture: Architecture) -> float:
    """(0, 0, 0) is a local optimum, (3, 3, 3) the global one."""
    return max(3 - sum(architecture), 2 * sum(architecture) - 12)


def test_climbs_by_the_best_neighbour() -> None:
    space = Tiny64()
    algorithm = LocalSearch(space, 5)
    (current,) = told(algorithm, slope)
    assert current[2] < 3, "a start that has to climb"
    known = {current}
    while current != (3, 3, 3):
        around = neighbours(space, current)
        assert set(told(algorithm, slope)) == set(around) - known, "each once, all in one ask"
        known |= set(around)
        best = max(around, key=slope)
        assert slope(best) > slope(current)
        current = best
        if current != (3, 3, 3):
            assert algorithm.measures() == {"local_optima": 0, "current_reward": slope(current)}


def test_starts_again_from_a_local_optimum() -> None:
    space = Tiny64()
    algorithm = LocalSearch(space, 0)
    optima = 0
    known: list[Architecture] = []
    while algorithm.ask():
        asked = told(algorithm, two_hills)
        if algorithm.measures()["local_optima"] > optima:
            optima += 1
            start = [proposal.architecture for proposal in algorithm.ask()]
            assert len(start) <= 1
            assert not set(start) & {*known, *asked}
        known += asked
    assert optima > 1
    assert len(known) == len(set(known)) == 64
    assert {(0, 0, 0), (3, 3, 3)} <= set(known)


def test_both_optima_are_recognised() -> None:
    """From (0, 0, 1) it climbs the lower hill, stops there, and goes elsewhere."""
    seed = next(s for s in range(1000) if LocalSearch(Tiny64(), s).ask()[0].architecture == (0, 0, 1))
    algorithm = LocalSearch(Tiny64(), seed)
    assert told(algorithm, two_hills) == [(0, 0, 1)]
    told(algorithm, two_hills)
    assert algorithm.measures() == {"local_optima": 0, "current_reward": 3}
    told(algorithm, two_hills)
    assert algorithm.measures()["local_optima"] == 1
    assert len(algorithm.ask()) == 1


def test_on_a_plateau_it_moves_nowhere() -> None:
    algorithm = LocalSearch(Tiny64(), 0)
    (start,) = told(algorithm, lambda architecture: 0.0)
    assert set(told(algorithm, lambda architecture: 0.0)) == set(neighbours(Tiny64(), start))
    assert algorithm.measures()["local_optima"] == 1


@pytest.mark.parametrize("batch", [1, 2, 5, 9])
def test_the_batch_changes_no_move(batch: int) -> None:
    orders = []
    for size in (None, batch):
        algorithm = LocalSearch(Tiny64(), 1, batch=size)
        order: list[Architecture] = []
        while algorithm.ask():
            asked = told(algorithm, two_hills)
            assert len(asked) <= (size or 9)
            order += asked
        orders.append(order)
    assert orders[0] == orders[1]


def test_neighbours_are_one_change_away() -> None:
    around = neighbours(Tiny64(), (0, 1, 2))
    assert len(around) == len(set(around)) == 9
    assert all(sum(x != y for x, y in zip(a, (0, 1, 2), strict=True)) == 1 for a in around)
