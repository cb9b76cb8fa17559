"""Costs of options add up to the costs of children, and their expectation is that of enumeration."""

import itertools

import pytest
import torch

from nastricks.data import ImageSpec
from nastricks.errors import InputError
from nastricks.rng import generator
from nastricks.spaces import (
    DARTS,
    Mobile,
    NASBench201,
    NASBenchMacro,
    NASNet,
    OptionCosts,
    SequenceSpace,
    Space,
    Tiny64,
    WeightSharing64,
    option_costs,
)

SPACES: dict[str, tuple[Space, ImageSpec]] = {
    "tiny64": (Tiny64(), ImageSpec(1, 8, 10)),
    "weight_sharing_64": (WeightSharing64(channels=4, cells=2), ImageSpec(3, 12, 10)),
    "nasbench201": (NASBench201(channels=4, cells=2, bn_affine=True), ImageSpec(3, 10, 10)),
    "nas_bench_macro": (NASBenchMacro(), ImageSpec(3, 9, 10)),
    "mobile": (Mobile((6, 8), (2, 1), (1, 2)), ImageSpec(3, 9, 10)),
    "darts": (DARTS(channels=4, cells=3, nodes=2, bn_affine=True), ImageSpec(3, 9, 10)),
}
in_every_space = pytest.mark.parametrize("name", SPACES)


@in_every_space
def test_they_add_up_to_the_cost_of_every_child(name: str) -> None:
    space, spec = SPACES[name]
    costs, rng = option_costs(space, spec), generator("children")
    for _ in range(12):
        architecture = space.sample(rng)
        whole = space.cost(architecture, spec)
        assert costs["params"].of(space, architecture) == whole.params
        assert costs["flops"].of(space, architecture) == whole.flops


@in_every_space
def test_options_differ_as_the_children_do(name: str) -> None:
    space, spec = SPACES[name]
    costs, first = option_costs(space, spec), space.sample(generator("first"))
    start = space.cost(first, spec)
    for place, choice in enumerate(space.choices):
        for index in range(len(choice.options)):
            try:
                other = space.check((*first[:place], index, *first[place + 1 :]))
            except InputError:  # with or without this edge, a node of darts has not two
                continue
            changed = space.cost(other, spec)
            for key in ("params", "flops"):
                own = costs[key].options[choice.name]
                assert own[index] - own[first[place]] == getattr(changed, key) - getattr(start, key)
            if not choice.options[index].learns and "pool" not in choice.options[index].name:
                assert costs["flops"].options[choice.name][index] == costs["params"].options[choice.name][index] == 0


def test_a_separable_convolution_by_hand() -> None:
    costs = option_costs(*SPACES["tiny64"])
    weights, pixels = 16 * 9 + 16 * 16, 64
    assert costs["flops"].options["layer1"][1] == 2 * pixels * weights
    assert costs["flops"].options["layer2"][1] == 2 * pixels / 4 * weights
    assert costs["params"].options["layer1"][1] == weights + 32
    assert costs["params"].base == 16 * 9 + 32 + 170


def made() -> OptionCosts:
    return OptionCosts("FLOPs", 5.0, {"layer1": (1, 2, 3, 4), "layer2": (0, 0, 7, 0), "layer3": (2, 2, 2, 10)})


def test_the_expectation_is_that_of_enumeration() -> None:
    space, costs = Tiny64(), made()
    allowed = {"layer1": (0, 1, 3), "layer2": (2, 3), "layer3": (3,)}
    rng = generator("strengths")
    strengths = {n: torch.rand(len(o), generator=rng, dtype=torch.float64) for n, o in allowed.items()}
    shares = {name: strength / strength.sum() for name, strength in strengths.items()}
    expected = 0.0
    for places in itertools.product(*(range(len(options)) for options in allowed.values())):
        architecture = tuple(options[i] for options, i in zip(allowed.values(), places, strict=True))
        chance = torch.stack([share[i] for share, i in zip(shares.values(), places, strict=True)]).prod()
        expected += float(chance) * costs.of(space, architecture)
    assert costs.expected(strengths, allowed).item() == pytest.approx(expected, rel=1e-12)


def test_the_mean_is_the_expectation_of_equal_strengths() -> None:
    space, costs = Tiny64(), made()
    equal = {c.name: torch.full((4,), 0.3, dtype=torch.float64) for c in space.choices}
    assert costs.expected(equal, space.all_options()).item() == pytest.approx(costs.mean, rel=1e-12)
    assert costs.mean == pytest.approx(sum(costs.of(space, a) for a in space.architectures()) / 64, rel=1e-12)


def test_strengths_of_nothing_cost_nothing_and_stay_finite() -> None:
    zero = {c.name: torch.zeros(4, requires_grad=True) for c in Tiny64().choices}
    total = made().expected(zero, Tiny64().all_options())
    total.backward()
    assert total.item() == 5.0
    assert all(s.grad is not None and s.grad.isfinite().all() for s in zero.values())


@pytest.mark.parametrize(
    ("space", "words"),
    [(NASNet(2, channels=4, reductions=1), "normal_block0_input1 of nasnet"), (SequenceSpace(), "sequence")],
)
def test_spaces_whose_costs_do_not_add_up_are_refused(space: Space, words: str) -> None:
    with pytest.raises(InputError, match=words):
        option_costs(space, ImageSpec(1, 8, 10))
