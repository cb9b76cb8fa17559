"""DARTS with other operations, without its rules, and with an auxiliary head."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from nastricks.data import Batch, ImageSpec
from nastricks.errors import InputError
from nastricks.moment import Moment
from nastricks.policies import Softmax, UniformPath
from nastricks.ranking.evaluate import score_children
from nastricks.rng import forked_rng, generator
from nastricks.spaces import DARTS, Architecture, Gate, Network, Space

CIFAR = ImageSpec(3, 32, 10)
Build = Callable[[Space], Network]
Cut = Callable[[Network, Space, Architecture], Network]
V2 = (
    "Genotype(normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('sep_conv_3x3', 1), "
    "('sep_conv_3x3', 1), ('skip_connect', 0), ('skip_connect', 0), ('dil_conv_3x3', 2)], normal_concat=range(2, 6), "
    "reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1), ('skip_connect', 2), ('max_pool_3x3', 1), ('max_pool_3x3', 0), "
    "('skip_connect', 2), ('skip_connect', 2), ('max_pool_3x3', 1)], reduce_concat=range(2, 6))"
)
VARIANTS: dict[str, dict[str, Any]] = {
    "s1": {"operations": "s1"},
    "s2": {"operations": "s2"},
    "s3": {"operations": "s3"},
    "s4": {"operations": "s4"},
    "any operations": {"ops_per_edge": None, "nodes": 2},
    "any inputs": {"inputs_per_node": None},
    "three cells": {"input_cells": 3},
    "own cells": {"shared_cells": False},
    "free": {
        "operations": ["skip_connect", "sep_conv_3x3"],
        "ops_per_edge": None,
        "inputs_per_node": None,
        "input_cells": 3,
        "shared_cells": False,
    },
}
in_every_variant = pytest.mark.parametrize("rules", VARIANTS.values(), ids=VARIANTS)


def made(rules: dict[str, Any]) -> DARTS:
    return DARTS(**{"channels": 2, "cells": 4, **rules})


def sampled(space: DARTS, n: int) -> list[Architecture]:
    rng = generator("architectures", len(space.choices))
    return [space.sample(rng) for _ in range(n)]


def images(n: int = 4) -> torch.Tensor:
    return torch.randn(n, 1, 8, 8, generator=generator("images"))


@in_every_variant
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_a_child_with_copied_weights_equals_its_path(
    rules: dict[str, Any], training: bool, supernet_of: Build, child_of: Cut
) -> None:
    space = made(rules)
    supernet = supernet_of(space).train(training)
    before = {key: value.clone() for key, value in supernet.state_dict().items()}
    seen = []
    with torch.no_grad():
        for architecture in sampled(space, 3):
            supernet.load_state_dict(before)
            child = child_of(supernet, space, architecture).train(training)
            with forked_rng("noise"):
                path = supernet(images(), space.gates(architecture))
            with forked_rng("noise"):
                torch.testing.assert_close(child(images()), path, atol=1e-5, rtol=0)
            seen.append(path)
    assert all(not torch.allclose(a, b, atol=1e-3) for a, b in itertools.combinations(seen, 2))


@in_every_variant
def test_sizes_and_draws_agree_with_the_rules(rules: dict[str, Any]) -> None:
    space = made(rules)
    for architecture in sampled(space, 20):
        assert space.check(architecture) == architecture
        for nodes in space.cells_of(architecture).values():
            for number, pairs in enumerate(nodes):
                sources = [source for _, source in pairs]
                assert all(0 <= source < space.input_cells + number for source in sources)
                assert len(set(sources)) == space.inputs_per_node or (space.inputs_per_node is None and sources)
                assert space.ops_per_edge is None or len(set(sources)) == len(sources)


@pytest.mark.parametrize("rules", [{}, {"ops_per_edge": None}, {"inputs_per_node": None}, {"inputs_per_node": 1}])
def test_the_number_of_architectures_is_that_of_the_list(rules: dict[str, Any]) -> None:
    space = DARTS(nodes=2, operations=["skip_connect", "noise"], **rules)
    normal = list(dict.fromkeys(a[: len(a) // 2] for a in itertools.islice(space.architectures(), 40_000)))
    half = len(space.choices) // 2
    listed = {(*a, *normal[0]) for a in normal}
    assert all(space.check(a) for a in listed)
    every = [range(len(choice.options)) for choice in space.choices[:half]]
    legal = 0
    for options in itertools.product(*every):
        nodes: dict[str, dict[str, bool]] = {}
        for choice, index in zip(space.choices[:half], options, strict=True):
            edge = "_".join(choice.name.split("_")[:3])
            there = nodes.setdefault(str(choice.node), {})
            there[edge] = there.get(edge, False) or not choice.options[index].absent
        wanted = space.inputs_per_node
        legal += all(sum(n.values()) == wanted or (wanted is None and any(n.values())) for n in nodes.values())
    assert space.size == legal**2


def test_each_rule_alone_enlarges_the_space() -> None:
    published = DARTS(operations="s3").size
    assert published == (180 * 2**8) ** 2
    nodes = [(2 ** (2 * edges) - 1) for edges in (2, 3, 4, 5)]
    free = DARTS(operations="s3", ops_per_edge=None, inputs_per_node=None, shared_cells=False)
    assert free.size == (nodes[0] * nodes[1] * nodes[2] * nodes[3]) ** 8
    assert DARTS(operations="s3", inputs_per_node=None).size == (8 * 26 * 80 * 242) ** 2
    assert DARTS(operations="s3", shared_cells=False).size == (180 * 2**8) ** 8
    assert DARTS(operations="s3", ops_per_edge=None).size == (180 * 3**8) ** 2
    assert DARTS(operations="s3", input_cells=3).size == (3 * 6 * 10 * 15 * 2**8) ** 2


def test_none_is_searched_where_the_set_names_it() -> None:
    """RobustDARTS's S1, S2 and S4 mix two operations an edge, and leave edges out all the same."""
    for name, mixed in {"s1": 2, "s2": 2, "s3": 3, "s4": 2}.items():
        space = DARTS(operations=name)  # type: ignore[arg-type]
        assert {len(choice.options) for choice in space.choices} == {3}
        policy = Softmax(space)
        assert {len(gate.active) for gate in policy.propose(Moment("weights", 0))[0].values()} == {mixed}
        assert all(0 in options for options in policy.derivable.values())
        assert all(0 in options for options in UniformPath(space).allowed.values())


def test_s1_by_two_of_its_edges() -> None:
    names = {c.name: [o.name for o in c.options] for c in DARTS(operations="s1").choices}
    assert names["normal_4_0"] == ["none", "max_pool_3x3", "skip_connect"]
    assert names["normal_5_3"] == ["none", "dil_conv_3x3", "dil_conv_5x5"]
    assert names["reduce_2_1"] == ["none", "max_pool_3x3", "dil_conv_3x3"]
    assert names["reduce_4_1"] == ["none", "max_pool_3x3", "sep_conv_3x3"]


def test_noise_is_standard_normal_and_keyed(supernet_of: Build) -> None:
    space = DARTS(channels=4, cells=3, nodes=1, operations=["noise"])
    network = supernet_of(space).eval()
    gates = {c.name: Gate((1,), torch.tensor([1.0])) for c in space.choices}
    normal, halved = (network.segments[f"cell{n}"].edges[name] for n, name in ((1, "normal_2_0"), (2, "reduce_2_0")))
    x = torch.full((64, 4, 8, 8), 7.0)
    with forked_rng("noise"):
        drawn = normal(x, gates["normal_2_0"])
        again = normal(x, gates["normal_2_0"])
    assert abs(float(drawn.mean())) < 0.05
    assert abs(float(drawn.std()) - 1) < 0.05
    assert not torch.equal(drawn, again)
    with forked_rng("noise"):
        assert torch.equal(normal(x, gates["normal_2_0"]), drawn)
    assert halved(torch.ones(2, 8, 7, 7), gates["reduce_2_0"]).shape == (2, 8, 4, 4)


def test_children_with_noise_are_scored_alike_each_time(supernet_of: Build) -> None:
    space = DARTS(channels=4, cells=3, nodes=1, operations="s4")
    network = supernet_of(space)
    batches = [Batch(images(8), torch.arange(8))]
    children = sampled(space, 3)
    first = score_children(space, network, children, batches)
    torch.rand(3)  # whatever was drawn before
    assert score_children(space, network, children, batches) == first


def test_a_cell_may_read_cells_of_four_times_its_size(supernet_of: Build) -> None:
    space = DARTS(channels=2, cells=3, input_cells=4, nodes=1)
    network = supernet_of(space).eval()
    for size in (8, 7, 5):
        x = torch.randn(2, 1, size, size)
        for architecture in sampled(space, 3):
            assert network(x, space.gates(architecture)).shape == (2, 10)


# The auxiliary head.


def test_the_auxiliary_head_to_the_last_parameter_is_apart_from_the_childs_size() -> None:
    settings: dict[str, Any] = {"channels": 36, "cells": 20, "bn_affine": True, "pool_bn": False}
    plain, headed = DARTS(**settings), DARTS(**settings, auxiliary_head=True)
    architecture = plain.parse(V2)
    cost, with_head = plain.cost(architecture, CIFAR), headed.cost(architecture, CIFAR)
    assert with_head[:2] == cost[:2]
    assert with_head.params + with_head.auxiliary == 3_825_768
    assert cost.auxiliary == 0


def test_the_auxiliary_head_reads_the_cell_at_two_thirds(supernet_of: Build) -> None:
    space = DARTS(channels=2, cells=7, auxiliary_head=True)
    network, architecture = supernet_of(space).eval(), sampled(space, 1)[0]
    seen: dict[str, torch.Tensor] = {}
    network.segments["cell5"].register_forward_hook(lambda m, args, out: seen.update(cell=out[-1]))
    assert network.auxiliary is not None
    network.auxiliary.register_forward_pre_hook(lambda m, args: seen.update(head=args[0][-1]))
    with torch.no_grad():
        logits, extra = network.with_auxiliary(images(), space.gates(architecture))
        assert seen["head"] is seen["cell"]
        torch.testing.assert_close(logits, network(images(), space.gates(architecture)))
    assert extra.shape == logits.shape
    assert not torch.allclose(extra, logits)


@pytest.mark.parametrize("size", [5, 8, 13, 16, 28, 32, 64])
def test_the_auxiliary_head_fits_images_of_any_size(size: int) -> None:
    space = DARTS(channels=2, cells=3, nodes=1, auxiliary_head=True)
    spec = ImageSpec(1, size, 10)
    network = space.supernet(spec).eval()
    x = torch.randn(2, 1, size, size, generator=generator("size", size))
    with torch.no_grad():
        assert network.with_auxiliary(x, space.gates(sampled(space, 1)[0]))[1].shape == (2, 10)
    (pool,) = (m for m in network.auxiliary.modules() if isinstance(m, nn.AvgPool2d))  # type: ignore[union-attr]
    if size == 32:
        assert (pool.kernel_size, pool.stride) == (5, 3)


def test_images_too_small_for_the_auxiliary_head() -> None:
    with pytest.raises(InputError, match="auxiliary_head reads 2 pixels a side and images of 4 pixels leave 1"):
        DARTS(auxiliary_head=True).supernet(ImageSpec(1, 4, 10))


@pytest.mark.parametrize(
    ("rules", "reason"),
    [
        ({"ops_per_edge": 2}, "space.ops_per_edge is 2: expected 1, or null"),
        ({"inputs_per_node": 0}, "space.inputs_per_node is 0: expected from 1 to the 2 inputs"),
        ({"inputs_per_node": 3}, "space.inputs_per_node is 3: expected from 1 to the 2 inputs"),
        ({"input_cells": 1}, "space.input_cells is 1: expected at least 2"),
    ],
)
def test_rules_that_cannot_be(rules: dict[str, Any], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        DARTS(**rules)
