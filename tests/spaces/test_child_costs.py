"""Costs of many children, and what they take off a reward."""

import pytest

from nastricks.data import ImageSpec
from nastricks.errors import InputError
from nastricks.rng import generator
from nastricks.spaces import DARTS, ChildCosts, Cost, Mobile, NASNet, Resource, Slimmable, Space, Tiny64

SPEC = ImageSpec(1, 8, 10)
SPACES: dict[str, Space] = {
    "tiny64": Tiny64(),
    "mobile": Mobile(),
    "darts": DARTS(channels=4, cells=3),
    "nasnet": NASNet(),  # its costs do not add up over choices, nor do those of sizes
    "slimmable": Slimmable(),
}


@pytest.mark.parametrize("name", SPACES)
def test_they_are_those_of_the_space(name: str) -> None:
    space, rng = SPACES[name], generator("child costs")
    costs = ChildCosts(space, SPEC)
    for architecture in [space.sample(rng) for _ in range(4)]:
        expected = space.cost(architecture, SPEC)
        assert costs.of(architecture)[:2] == expected[:2]
        assert costs.of(architecture) is costs.of(architecture)


def test_what_a_cost_takes_off() -> None:
    cost = Cost(params=300, flops=1000)
    assert Resource(800, weight=0.1).term(cost) == pytest.approx(0.025)
    assert Resource(2000, weight=0.1).term(cost) == 0.0
    assert Resource(2000, weight=0.1, kind="absolute").term(cost) == pytest.approx(0.05)
    assert Resource(100, weight=0.5, cost="params").term(cost) == pytest.approx(1.0)
    with pytest.raises(InputError, match=r"resource.target is 0: expected a number above 0"):
        Resource(0)
    with pytest.raises(InputError, match=r"resource.weight is -1: expected at least 0"):
        Resource(1, weight=-1)
