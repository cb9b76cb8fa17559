"""Greedy slimming against the same walk written out, and where it ends."""

from typing import ClassVar

import pytest

from nastricks.data import ImageSpec
from nastricks.errors import InputError
from nastricks.search import GreedySlimming, Outcome, Proposal
from nastricks.search.constraints import Constraints, CostName, Costs
from nastricks.spaces import Allowed, Architecture, Choice, Network, Option, Space, Tiny64

PRICES = ((0, 10, 30), (0, 5, 50), (0, 40, 45))  # of each size of each layer
WORTH = ((0.0, 0.05, 0.3), (0.0, 0.02, 0.08), (0.0, 0.3, 0.31))


class Layers(Space):
    """Three layers of three widths."""

    name: ClassVar[str] = "layers"
    choices = tuple(
        Choice(f"layer{i}", tuple(Option(f"w{j}") for j in range(3)), kind="nested", dimension="width")
        for i in range(3)
    )

    def build(self, spec: ImageSpec, allowed: Allowed) -> Network:
        raise NotImplementedError


class Prices(Costs):
    def of(self, architecture: Architecture) -> dict[CostName, float]:
        return {"flops": float(price(architecture))}


def price(architecture: Architecture) -> int:
    return 100 + sum(PRICES[layer][size] for layer, size in enumerate(architecture))


def worth(architecture: Architecture) -> float:
    return sum(WORTH[layer][size] for layer, size in enumerate(architecture))


def walked(algorithm: GreedySlimming) -> list[Architecture]:
    """The networks that the walk goes through."""
    path: list[Architecture] = []
    while asked := algorithm.ask():
        algorithm.tell([Outcome(p, worth(p.architecture), flops=price(p.architecture)) for p in asked])
        path.append(algorithm._current)
    return path


def by_hand(per_cost: bool) -> list[Architecture]:
    path = [(2, 2, 2)]
    while any(path[-1]):
        now = path[-1]
        smaller = [(*now[:i], size - 1, *now[i + 1 :]) for i, size in enumerate(now) if size]

        def loss(other: Architecture, now: Architecture = now) -> float:
            lost = worth(now) - worth(other)
            return lost / (price(now) - price(other)) if per_cost else lost

        path.append(min(smaller, key=loss))
    return path


@pytest.mark.parametrize("per_cost", [True, False])
def test_the_walk_is_the_one_by_hand(per_cost: bool) -> None:
    path = walked(GreedySlimming(Layers(), 0, per_cost=per_cost))
    assert path == by_hand(per_cost)
    assert (path[0], path[-1], len(path)) == ((2, 2, 2), (0, 0, 0), 7)


def test_the_two_rules_differ() -> None:
    assert by_hand(True)[1] == (2, 1, 2)  # 0.06 for 45
    assert by_hand(False)[1] == (2, 2, 1)  # 0.01, for 5


def test_a_longer_step() -> None:
    assert walked(GreedySlimming(Layers(), 0, step=2))[1] == (2, 0, 2)


def test_it_ends_where_the_constraints_are_met() -> None:
    algorithm = GreedySlimming(Layers(), 0)
    algorithm.constrain(Constraints({"flops": 120.0}, {"flops": 190.0}, Prices(Layers(), ImageSpec(1, 2, 8))))
    path = walked(algorithm)
    assert path == [a for a in by_hand(True) if price(a) > 190] + [next(a for a in by_hand(True) if price(a) <= 190)]
    assert all(price(a) >= 120 for a in path)


def test_what_would_fall_below_a_lower_bound_is_not_asked() -> None:
    algorithm = GreedySlimming(Layers(), 0)
    algorithm.constrain(Constraints({"flops": 200.0}, {"flops": 201.0}, Prices(Layers(), ImageSpec(1, 2, 8))))
    assert all(price(a) >= 200 for a in walked(algorithm))


def test_sizes_of_what_is_skipped_are_not_asked() -> None:
    class Skips(Layers):
        def canonical(self, architecture: Architecture) -> Architecture:
            return (architecture[0], architecture[1], architecture[2] if architecture[0] else 0)

    algorithm = GreedySlimming(Skips(), 0)
    algorithm._current, algorithm._outcome = (0, 1, 2), Outcome(Proposal((0, 1, 2)), 0.0, flops=1)
    assert [p.architecture for p in algorithm.ask()] == [(0, 0, 2)]


def test_a_step_that_the_budget_cuts_changes_nothing() -> None:
    algorithm = GreedySlimming(Layers(), 0)
    algorithm.tell([Outcome(algorithm.ask()[0], 1.0, flops=9)])
    asked = algorithm.ask()
    algorithm.tell([Outcome(asked[0], 1.0, flops=1)])
    assert algorithm.ask() == asked


def test_bad_input() -> None:
    with pytest.raises(
        InputError, match=r"the options of layer1 of tiny64 have no order of sizes: take a space such as"
    ):
        GreedySlimming(Tiny64(), 0)
    with pytest.raises(InputError, match="step is 0: expected at least 1"):
        GreedySlimming(Layers(), 0, step=0)
    with pytest.raises(InputError, match="unknown cost 'flop'"):
        GreedySlimming(Layers(), 0, cost="flop")  # type: ignore[arg-type]
