"""Costs and bounds: what children cost, what meets the bounds, and what is refused before anything is scored."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import ClassVar

import pytest

from nastricks.data import ImageSpec
from nastricks.errors import InputError
from nastricks.rng import generator
from nastricks.search import (
    NSGA2,
    TPE,
    Constraints,
    Costs,
    Hyperband,
    LocalSearch,
    Outcome,
    PolicySearch,
    RandomSearch,
    RegularizedEvolution,
    SearchAlgorithm,
)
from nastricks.search.constraints import CostName
from nastricks.spaces import (
    Allowed,
    Architecture,
    Choice,
    NASBenchMacro,
    Network,
    Option,
    Slimmable,
    SlimStage,
    Space,
    Tiny64,
    measure_latency,
    write_latency,
)
from nastricks.spaces.latency import Stopwatch

SPEC = ImageSpec(channels=1, classes=10, size=8)
SLIM = Slimmable(stages=(SlimStage(8, 1), SlimStage(16, 1, stride=2)), widths=(0.5, 1.0))


class Wide(Space):
    """Ten choices of four options, of which nobody lists all."""

    name: ClassVar[str] = "wide"
    choices = tuple(Choice(f"choice{i}", tuple(Option(f"option{j}") for j in range(4))) for i in range(10))

    def build(self, spec: ImageSpec, allowed: Allowed) -> Network:
        raise NotImplementedError


class Falling(Wide):
    """Choices that are at most the one before."""

    name: ClassVar[str] = "falling"

    def legal(self, prefix: Sequence[int]) -> tuple[int, ...]:
        return tuple(range(prefix[-1] + 1)) if prefix else (0, 1, 2, 3)


class Added(Costs):
    """An option costs its number; counted one by one, with nothing known of the ends."""

    summed = None  # type: ignore[assignment]

    def __init__(self, space: Space) -> None:
        super().__init__(space, SPEC)

    def of(self, architecture: Architecture) -> Mapping[CostName, float]:
        return {"flops": 1.0 + sum(architecture), "params": 10.0 - architecture[0], "latency": 0.5 + architecture[-1]}

    def ends(self) -> tuple[Mapping[CostName, float], Mapping[CostName, float]]:
        return {}, {}


@pytest.mark.parametrize("space", [Tiny64(), NASBenchMacro(), SLIM], ids=lambda space: space.name)
def test_costs_are_those_of_whole_children(space: Space) -> None:
    costs, rng = Costs(space, SPEC), generator(space.name, "test")
    assert (costs.summed is not None) == (space.name == "tiny64")
    for architecture in [space.sample(rng) for _ in range(4)]:
        whole = space.cost(architecture, SPEC)
        assert costs.of(architecture) == {"flops": whole.flops, "params": whole.params}


def test_the_ends_hold_every_child() -> None:
    for space in (Tiny64(), SLIM):
        costs = Costs(space, SPEC)
        low, high = costs.ends()
        every: list[Mapping[CostName, float]] = [costs.of(a) for a in space.architectures()]
        for name in ("flops", "params"):
            assert low[name] == min(cost[name] for cost in every)
            assert high[name] == max(cost[name] for cost in every)


def test_latency_is_read_from_a_table(tmp_path: Path) -> None:
    space = Tiny64()
    measured = measure_latency(space, SPEC, Stopwatch(repeats=1, warmup=0)).costs
    write_latency(tmp_path / "ms.csv", space, measured)
    costs = Costs(space, SPEC, str(tmp_path / "ms.csv"))
    assert costs.of((0, 1, 2))["latency"] == pytest.approx(measured.of(space, (0, 1, 2)))


def test_a_witness_is_found_where_one_exists() -> None:
    space = Tiny64()
    costs = Costs(space, SPEC)
    values = sorted({costs.of(a)["params"] for a in space.architectures()})
    for value in (values[0], values[len(values) // 2], values[-1]):
        exact = Constraints({"params": value}, {"params": value}, costs)
        assert costs.of(exact.witness)["params"] == value
    between = Constraints({"params": values[3] + 1}, {"params": values[4] - 1}, costs)
    with pytest.raises(
        InputError, match=r"no architecture of tiny64 meets search.least.params .* and search.most.params"
    ):
        between.witness  # noqa: B018


@pytest.mark.parametrize("most", [1.0, 2.0, 3.0])
@pytest.mark.parametrize("space", [Wide(), Falling()], ids=lambda space: space.name)
def test_a_rare_architecture_is_found_by_coming_nearer(space: Space, most: float) -> None:
    assert Added(space).of(Constraints({}, {"flops": most}, Added(space)).witness)["flops"] <= most


def test_what_nothing_meets_is_refused_with_the_nearest() -> None:
    sentence = r"no architecture of slimmable meets search.most.flops 10: the nearest, 1111, has [\d,]+ FLOPs; loosen"
    with pytest.raises(InputError, match=sentence):
        Constraints({}, {"flops": 10.0}, Costs(SLIM, SPEC)).witness  # noqa: B018
    with pytest.raises(InputError, match=r"meets search.least.params 1e\+09: the nearest, 2222, has"):
        Constraints({"params": 1e9}, {}, Costs(SLIM, SPEC)).witness  # noqa: B018
    with pytest.raises(
        InputError, match=r"no architecture of wide was found among \d+ that meets search.most.flops 0.5"
    ):
        Constraints({}, {"flops": 0.5}, Added(Wide())).witness  # noqa: B018


@pytest.mark.parametrize(
    ("least", "most", "words"),
    [
        ({}, {"flops": 0.0}, "search.most.flops is 0: expected a number above 0"),
        ({"params": -1.0}, {}, "search.least.params is -1: expected a number above 0"),
        ({"flops": 5.0}, {"flops": 4.0}, "search.least.flops is 5 and search.most.flops 4: expected the least"),
    ],
)
def test_bad_bounds(least: dict[CostName, float], most: dict[CostName, float], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Constraints(least, most, Added(Wide()))


@pytest.mark.parametrize(
    "make",
    [
        RandomSearch,
        partial(RandomSearch, without_repetition=False, batch=3),
        partial(RegularizedEvolution, population=6, sample=3, batch=2),
        partial(RegularizedEvolution, population=6, sample=3, crossover=0.5, mutation_probability=0.5),
        LocalSearch,
        partial(Hyperband, max_epochs=4, eta=2),
        partial(TPE, startup=5),
        partial(NSGA2, population=6, batch=3),
    ],
)
@pytest.mark.parametrize(
    ("space", "least", "most"),
    [(Wide(), 1.0, 6.0), (Wide(), 1.0, 14.0), (Falling(), 0.1, 8.0)],
    ids=["6", "14", "falling"],
)
def test_nothing_outside_the_bounds_is_proposed(
    make: Callable[[Space, int], SearchAlgorithm], space: Space, least: float, most: float
) -> None:
    """At most 6 is met by one architecture of `wide` in hundreds, so that uniform draws seldom do."""
    constraints = Constraints({"latency": least}, {"flops": most}, Added(space))
    proposed: list[list[Architecture]] = []
    for seed in (0, 0):
        algorithm = make(space, seed)
        algorithm.constrain(constraints)
        own: list[Architecture] = []
        while len(own) < 24:
            asked = algorithm.ask()
            own += [proposal.architecture for proposal in asked]
            cost = [constraints.costs.of(p.architecture) for p in asked]
            algorithm.tell(
                [Outcome(p, p.architecture[0] / 3, flops=int(c["flops"])) for p, c in zip(asked, cost, strict=True)]
            )
        proposed.append(own)
    assert proposed[0] == proposed[1]
    assert all(constraints.met(architecture) for architecture in proposed[0])
    assert len(set(proposed[0])) > 3


def test_a_policy_takes_no_constraints() -> None:
    assert not PolicySearch.takes_constraints
    algorithm = PolicySearch.__new__(PolicySearch)
    with pytest.raises(InputError, match="PolicySearch takes no constraints"):
        algorithm.constrain(Constraints({}, {"flops": 1.0}, Added(Wide())))
