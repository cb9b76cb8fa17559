"""DARTS as a space: golden sizes, the wiring of cells, children equal their paths, exactly two edges a node."""

from collections import Counter
from collections.abc import Callable, Mapping

import pytest
import torch
from scipy.stats import chisquare

from nastricks.data import ImageSpec
from nastricks.errors import InputError
from nastricks.moment import Moment
from nastricks.policies import UniformPath
from nastricks.rng import generator
from nastricks.spaces import DARTS, Architecture, Gate, Network, Space

CIFAR = ImageSpec(3, 32, 10)
SPEC = ImageSpec(1, 8, 10)
NAMES = ["none", "max_pool_3x3", "avg_pool_3x3", "skip_connect"]
NAMES += ["sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5"]
Build = Callable[[Space], Network]
Cut = Callable[[Network, Space, Architecture], Network]
Pairs = list[tuple[str, int]]
V2: dict[str, Pairs] = {  # the architecture that the paper's second-order search found
    "normal": [
        ("sep_conv_3x3", 0),
        ("sep_conv_3x3", 1),
        ("sep_conv_3x3", 0),
        ("sep_conv_3x3", 1),
        ("sep_conv_3x3", 1),
        ("skip_connect", 0),
        ("skip_connect", 0),
        ("dil_conv_3x3", 2),
    ],
    "reduce": [
        ("max_pool_3x3", 0),
        ("max_pool_3x3", 1),
        ("skip_connect", 2),
        ("max_pool_3x3", 1),
        ("max_pool_3x3", 0),
        ("skip_connect", 2),
        ("skip_connect", 2),
        ("max_pool_3x3", 1),
    ],
}
SPACES = {
    "search": DARTS(channels=4, cells=5),
    "child": DARTS(channels=4, cells=3, bn_affine=True, pool_bn=False),
    "two nodes": DARTS(channels=2, cells=3, nodes=2, bn_affine=True),
}
in_every_setting = pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)


def architecture_of(space: DARTS, pairs: Mapping[str, Pairs]) -> Architecture:
    """Options by name, from pairs of operation and input, two a node."""
    named = {
        f"{kind}_{2 + number // 2}_{source}": operation
        for kind, listed in pairs.items()
        for number, (operation, source) in enumerate(listed)
    }
    names = [[option.name for option in choice.options] for choice in space.choices]
    return tuple(own.index(named.get(c.name, "none")) for c, own in zip(space.choices, names, strict=True))


def sampled(space: DARTS, n: int) -> list[Architecture]:
    rng = generator("architectures", len(space.choices))
    return [space.sample(rng) for _ in range(n)]


def images(n: int = 4) -> torch.Tensor:
    return torch.randn(n, 1, 8, 8, generator=generator("images"))


# Sizes.


def test_the_published_search_network_to_the_last_parameter() -> None:
    space = DARTS()
    with torch.device("meta"):
        assert sum(p.numel() for p in space.supernet(CIFAR).parameters()) == 1_930_618
    assert (len(space.choices), sum(len(choice.options) for choice in space.choices)) == (28, 224)


def test_the_published_child_to_the_last_parameter() -> None:
    space = DARTS(channels=36, cells=20, bn_affine=True, pool_bn=False)
    assert space.cost(architecture_of(space, V2), CIFAR).params == 3_349_342


def test_the_options_are_the_published_ones_in_their_order() -> None:
    normal, reduce = DARTS().choices[0], DARTS().choices[14]
    for choice in DARTS().choices:
        assert [option.name for option in choice.options] == NAMES
    assert (normal.name, normal.node, normal.cell) == ("normal_2_0", "normal_node2", "normal")
    assert (reduce.name, reduce.node, reduce.cell) == ("reduce_2_0", "reduce_node2", "reduce")
    for choice in DARTS().choices:
        none, skip = choice.options[0], choice.options[3]
        halves = choice.cell == "reduce" and int(choice.name.split("_")[2]) < 2
        assert (none.absent, none.learns) == (True, False)
        assert (skip.skip, skip.identity, skip.learns) == (True, not halves, halves)
        assert [option.learns for option in choice.options[1:3]] == [False, False]


@in_every_setting
def test_an_option_learns_where_it_has_weights(space: DARTS) -> None:
    network = space.supernet(SPEC)
    for module in network.modules():
        for name, op in getattr(module, "ops", {}).items():
            choice = next(c for c in space.choices if c.name == module.choice_name)
            (option,) = (o for o in choice.options if o.name == name)
            assert option.learns == bool(list(op.parameters())), (choice.name, name)


# Networks.


def as_published(network: Network, space: DARTS, architecture: Architecture, swap: bool = False) -> torch.Tensor:
    """The forward pass of the official child, with this network's layers: s0 is cell k - 2, s1 is cell k - 1."""
    gates = space.gates(architecture)
    segments = dict(network.segments.items())
    s0 = s1 = segments["stem"].layers(images())
    for place in range(space.cells):
        cell = segments[f"cell{place + 1}"]
        states = [cell.align["input0"](s0), cell.align["input1"](s1)]
        kind = "reduce" if place in (space.cells // 3, 2 * space.cells // 3) else "normal"
        for node in range(2, 2 + space.nodes):
            total = []
            for source in range(node):
                gate = gates[f"{kind}_{node}_{source}"]
                edge = cell.edges[f"{kind}_{node}_{source}"]
                if gate.active != (0,):
                    total.append(edge.ops[NAMES[gate.active[0]]](states[source]))
            assert len(total) == 2
            states.append(total[0] + total[1])
        s0, s1 = (torch.cat(states[2:], dim=1), s1) if swap else (s1, torch.cat(states[2:], dim=1))
    return segments["head"].layers(s1)


@in_every_setting
def test_cells_are_wired_as_published(space: DARTS, supernet_of: Build) -> None:
    network = supernet_of(space).eval()
    with torch.no_grad():
        for architecture in sampled(space, 4):
            torch.testing.assert_close(
                network(images(), space.gates(architecture)), as_published(network, space, architecture)
            )


def test_a_swap_of_the_two_inputs_shows(supernet_of: Build) -> None:
    """Every cell's inputs are as wide, so that no parameter count and no shape can tell."""
    space = DARTS(channels=4, cells=7, stem_multiplier=4)
    network, architecture = supernet_of(space).eval(), sampled(space, 1)[0]
    seen: dict[str, torch.Tensor] = {}
    for name, segment in network.segments.items():
        for part, module in getattr(segment, "align", {}).items():
            module.register_forward_pre_hook(lambda m, args, key=f"{name} {part}": seen.update({key: args[0]}))
        segment.register_forward_hook(lambda m, args, out, key=name: seen.update({key: out[-1]}))
    with torch.no_grad():
        network(images(), space.gates(architecture))
    assert seen["cell1 input0"] is seen["stem"]
    assert seen["cell1 input1"] is seen["stem"]
    assert seen["cell2 input0"] is seen["stem"]
    for k in range(3, 8):
        assert seen[f"cell{k} input0"] is seen[f"cell{k - 2}"]
        assert seen[f"cell{k} input1"] is seen[f"cell{k - 1}"]


@in_every_setting
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_a_child_with_copied_weights_equals_its_path(
    space: DARTS, training: bool, supernet_of: Build, child_of: Cut
) -> None:
    supernet, seen = supernet_of(space).train(training), []
    before = {key: value.clone() for key, value in supernet.state_dict().items()}
    with torch.no_grad():
        for architecture in sampled(space, 5):
            supernet.load_state_dict(before)
            child = child_of(supernet, space, architecture).train(training)
            path = supernet(images(), space.gates(architecture))
            torch.testing.assert_close(child(images()), path, atol=1e-5, rtol=0)
            after = supernet.state_dict()
            for key, value in child.state_dict().items():
                torch.testing.assert_close(value, after[key], atol=1e-5, rtol=0)
            moved = {key for key in before if not torch.equal(before[key], after[key])}
            assert moved <= set(child.state_dict())
            assert bool(moved) == training
            seen.append(path)
    assert all(not torch.allclose(seen[0], other, atol=1e-3) for other in seen[1:])


@in_every_setting
def test_a_childs_parameters_are_the_supernets(space: DARTS) -> None:
    whole = {key: p.shape for key, p in space.supernet(SPEC).named_parameters()}
    for architecture in sampled(space, 5):
        own = {key: p.shape for key, p in space.child(SPEC, architecture).named_parameters()}
        assert own.items() < whole.items()


def test_a_sub_supernet_holds_the_allowed_options_alone() -> None:
    space = SPACES["two nodes"]
    allowed = {**space.all_options(), "normal_3_1": (0,), "normal_2_0": (3, 4), "reduce_3_2": (1, 2)}
    names = space.build(SPEC, allowed).state_dict()
    assert not any("normal_3_1" in name for name in names)
    assert {name.split(".")[5] for name in names if "normal_2_0" in name} == {"sep_conv_3x3"}
    assert {name.split(".")[5] for name in names if "reduce_3_2" in name} == {"max_pool_3x3", "avg_pool_3x3"}


def test_a_node_without_an_edge_is_zero_and_a_bypass_is_the_edges_input(supernet_of: Build) -> None:
    space = SPACES["two nodes"]
    network, x = supernet_of(space).eval(), images()
    none = {choice.name: Gate((0,), torch.ones(1)) for choice in space.choices}
    halved = {**none, "reduce_2_1": Gate((0,), bypass=torch.tensor(1.0))}
    with torch.no_grad():
        cell, reduction = network.segments["cell1"], network.segments["cell2"]
        state = cell(network.segments["stem"](x, none), none)
        assert state[-1].shape == (4, 4, 8, 8)
        assert torch.equal(state[-1], torch.zeros(4, 4, 8, 8))
        assert torch.equal(reduction(state, none)[-1], torch.zeros(4, 8, 4, 4))
        own = reduction.align["input1"](state[-1])  # type: ignore[union-attr, operator, index]
        first = reduction(state, halved)[-1][:, :4]
        torch.testing.assert_close(first, torch.nn.functional.avg_pool2d(own, 2))


def test_none_takes_its_weight_and_adds_nothing(supernet_of: Build) -> None:
    space = SPACES["two nodes"]
    network, gates = supernet_of(space).eval(), space.gates(sampled(space, 1)[0])
    both = {**gates, "normal_3_2": Gate((0, 4), torch.tensor([0.3, 0.7]))}
    alone = {**gates, "normal_3_2": Gate((4,), torch.tensor([0.7]))}
    with torch.no_grad():
        torch.testing.assert_close(network(images(), both), network(images(), alone))
        assert not torch.allclose(network(images(), both), network(images(), gates), atol=1e-3)


# Architectures.


@in_every_setting
def test_exactly_two_edges_a_node(space: DARTS) -> None:
    for architecture in sampled(space, 50):
        edges = Counter(c.node for c, i in zip(space.choices, architecture, strict=True) if not c.options[i].absent)
        assert set(edges.values()) == {2}
        assert len(edges) == 2 * space.nodes
        assert space.check(architecture) == architecture


def test_legal_says_what_can_still_be_reached() -> None:
    space = DARTS()
    everything, ops = tuple(range(8)), tuple(range(1, 8))
    assert space.legal(()) == ops  # node 2 has two edges, and needs both
    assert space.legal((4,)) == ops
    assert space.legal((4, 4)) == everything  # node 3 has three
    assert space.legal((4, 4, 0)) == ops
    assert space.legal((4, 4, 3, 3)) == (0,)
    assert space.legal((4, 4, 3, 0)) == ops
    with pytest.raises(InputError, match="option 1 is not legal for choice normal_3_2 of darts"):
        space.check((4, 4, 3, 3, 1, *([0] * 23)))


def test_the_number_of_architectures() -> None:
    """Pairs of a node's inputs, and one of seven operations on both."""
    assert DARTS().size == (1 * 3 * 6 * 10 * 7**8) ** 2
    small = DARTS(channels=2, cells=3, nodes=2, operations="s3")
    listed = list(small.architectures())
    assert len(listed) == len(set(listed)) == small.size == (1 * 3 * 2**4) ** 2
    assert listed == sorted(listed)
    assert all(small.check(architecture) == architecture for architecture in listed)


def test_samples_and_uniform_paths_are_uniform() -> None:
    space = DARTS(channels=2, cells=3, nodes=2, operations="s3")
    normal = sorted({a[:5] for a in space.architectures()})
    rng = generator("uniform")
    drawn = Counter(space.sample(rng)[:5] for _ in range(4800))
    assert chisquare([drawn[a] for a in normal]).pvalue > 1e-3
    policy, paths = UniformPath(space), Counter[Architecture]()
    for step in range(2400):
        gates = policy.propose(Moment("weights", 0, step=step))[0]
        paths[tuple(gates[c.name].active[0] for c in space.choices[:5])] += 1
    assert chisquare([paths[a] for a in normal]).pvalue > 1e-3
    for architecture in list(space.architectures())[::500]:
        assert float(policy.log_prob(architecture).exp()) == pytest.approx(1 / space.size)


def test_uniform_paths_are_uniform_over_what_is_allowed() -> None:
    space = DARTS(channels=2, cells=3, nodes=2, operations="s3")
    policy = UniformPath(space)
    policy.restrict("normal_3_0", (0, 1))
    policy.restrict("normal_3_2", (1, 2))
    left = [a for a in space.architectures() if a[2] in (0, 1) and a[4] in (1, 2)]
    assert {round(float(policy.log_prob(a).exp()) * len(left), 4) for a in left} == {1.0}
    assert float(policy.log_prob((1, 1, 2, 0, 1, 1, 1, 1, 1, 0)).exp()) == 0
    policy.restrict("normal_3_1", (1, 2))
    policy.restrict("normal_3_0", (1,))
    with pytest.raises(InputError, match="no option of normal_3_0 is both legal and allowed"):
        policy.propose(Moment("weights", 0))


# Bad input.


@pytest.mark.parametrize("key", ["channels", "cells", "nodes", "stem_multiplier"])
def test_sizes_that_cannot_be(key: str) -> None:
    with pytest.raises(InputError, match=f"space.{key} is 0: expected at least"):
        DARTS(**{key: 0})


def test_operations_and_images_that_cannot_be() -> None:
    with pytest.raises(InputError, match="unknown operation 'sep_conv_7x7'"):
        DARTS(operations=["none", "sep_conv_7x7"])
    with pytest.raises(InputError, match="unknown set of operations 's5'"):
        DARTS(operations="s5")  # type: ignore[arg-type]
    for few in (["none"], [], ["noise", "noise"]):
        with pytest.raises(InputError, match="expected operations other than none, each once"):
            DARTS(operations=few)
    with pytest.raises(InputError, match="s1 names the operations of 14 edges and the cells have 9"):
        DARTS(nodes=3, operations="s1")
    with pytest.raises(InputError, match="images have 2 pixels a side"):
        DARTS().supernet(ImageSpec(1, 2, 10))
