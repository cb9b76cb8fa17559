"""NASNet as a space: children equal their paths, names nest, strings are safe, sizes match a count by hand."""

import itertools
import re

import pytest
import torch
from torch import nn

from nastricks.data import Batch, ImageSpec
from nastricks.errors import InputError
from nastricks.ranking.evaluate import score_children
from nastricks.rng import forked_rng, generator
from nastricks.spaces import Architecture, NASNet, Network

SPEC = ImageSpec(1, 8, 10)
SPACES = {
    "small": NASNet(3, "small", channels=4, cells=2, reductions=1, stem_channels=6),
    "small, two reductions": NASNet(2, "small", channels=4, reductions=2, stem_channels=6),
    "published": NASNet(2, "published", channels=4, reductions=1, stem_channels=6),
    "published, two reductions": NASNet(2, "published", channels=4, reductions=2, stem_channels=6, bn_affine=False),
}
TINY = NASNet(1, "small", channels=4, reductions=1, stem_channels=6)
in_every_setting = pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)


def sampled(space: NASNet, n: int) -> list[Architecture]:
    """Random architectures, and one whose normal cells pass by the cell before them."""
    rng = generator("architectures", space.blocks, len(space.choices))
    passing_by = [0 if "normal" in c.name and c.kind == "inputs" else len(c.options) - 1 for c in space.choices]
    return [tuple(passing_by), *(space.sample(rng) for _ in range(n - 1))]


def fresh(network: Network, *key: object) -> Network:
    """The network with random batch-norm statistics and affine parameters, as after training."""
    rng = generator(*key)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.normal_(generator=rng)
                module.running_var.uniform_(0.5, 2.0, generator=rng)
                if module.affine:
                    module.weight.uniform_(0.5, 1.5, generator=rng)
                    module.bias.normal_(generator=rng)
    return network


def supernet_of(space: NASNet) -> Network:
    with forked_rng("supernet"):
        return fresh(space.supernet(SPEC), "statistics")


def child_of(supernet: Network, space: NASNet, architecture: Architecture) -> Network:
    child = space.child(SPEC, architecture)
    whole = supernet.state_dict()
    child.load_state_dict({key: whole[key].clone() for key in child.state_dict()})
    return child


def images(n: int = 4) -> torch.Tensor:
    return torch.randn(n, 1, 8, 8, generator=generator("images"))


def leaves(network: Network) -> dict[str, nn.Module]:
    """The modules without modules inside, empty containers apart."""
    modules = {name: m for name, m in network.named_modules() if not list(m.children())}
    return {name: m for name, m in modules.items() if not isinstance(m, nn.ModuleDict)}


def ran(network: Network, architecture: Architecture, space: NASNet) -> set[str]:
    """The leaves that run on a path."""
    names: set[str] = set()
    hooks = [m.register_forward_hook(lambda *_, n=name: names.add(n)) for name, m in leaves(network).items()]
    with torch.no_grad():
        network(images(), space.gates(architecture))
    for hook in hooks:
        hook.remove()
    return names


@in_every_setting
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_a_child_with_copied_weights_equals_its_path(space: NASNet, training: bool) -> None:
    supernet, seen = supernet_of(space).train(training), []
    before = {key: value.clone() for key, value in supernet.state_dict().items()}
    with torch.no_grad():
        for architecture in sampled(space, 6):
            supernet.load_state_dict(before)
            child = child_of(supernet, space, architecture).train(training)
            path = supernet(images(), space.gates(architecture))
            torch.testing.assert_close(child(images()), path, atol=1e-5, rtol=0)
            after = supernet.state_dict()
            for key, value in child.state_dict().items():
                torch.testing.assert_close(value, after[key], atol=1e-5, rtol=0)
            assert {key for key in before if not torch.equal(before[key], after[key])} <= set(child.state_dict())
            seen.append(path)
    assert all(not torch.allclose(a, b, atol=1e-3) for a, b in itertools.combinations(seen, 2))


@in_every_setting
def test_a_childs_parameters_are_the_supernets_and_all_of_them_learn(space: NASNet) -> None:
    supernet = supernet_of(space)
    whole = {key: p.shape for key, p in supernet.named_parameters()}
    for architecture in sampled(space, 6):
        child = child_of(supernet, space, architecture)
        own = {key: p.shape for key, p in child.named_parameters()}
        assert own.items() <= whole.items()
        supernet.zero_grad()
        supernet(images(), space.gates(architecture)).square().sum().backward()
        assert {key for key, p in supernet.named_parameters() if p.grad is not None} == set(own)


@pytest.mark.parametrize("operations", ["small", "published"])
def test_every_option_runs_where_it_is_active_and_nothing_else_does(operations: str) -> None:
    space = NASNet(2, operations, channels=4, reductions=1, stem_channels=6)  # type: ignore[arg-type]
    supernet = supernet_of(space).eval()
    ops, seen = len(space.choices[2].options), set[str]()
    for step in range(3 * ops):  # every operation on every node; the two sides of a block read different nodes
        turn, op = divmod(step, ops)
        index = {"input1": turn, "input2": turn + 1, "op1": op, "op2": op + 1, "combine": step}
        architecture = tuple(index[c.name.split("_")[2]] % len(c.options) for c in space.choices)
        own = set(leaves(space.child(SPEC, architecture)))
        assert ran(supernet, architecture, space) == own
        seen |= own
    assert seen == set(leaves(supernet))


def test_a_sub_supernet_holds_the_allowed_options_alone() -> None:
    space = SPACES["small"]
    for number in range(4):
        rng = generator("sub-supernet", number)
        allowed = {c.name: (i,) for c, i in zip(space.choices, space.sample(rng), strict=True)}
        for place in torch.randperm(len(space.choices), generator=rng)[:4].tolist():
            choice = space.choices[place]
            allowed[choice.name] = tuple(torch.randperm(len(choice.options), generator=rng)[:2].sort().values.tolist())
        children = itertools.product(*(allowed[c.name] for c in space.choices))
        names = set(space.build(SPEC, allowed).state_dict())
        assert names == {key for a in children for key in space.child(SPEC, a).state_dict()}


# Strings and numbers.


@in_every_setting
def test_architectures_print_and_parse(space: NASNet) -> None:
    for architecture in sampled(space, 100):
        text = space.format(architecture)
        assert re.fullmatch(r"[0-9ac._-]+", text)
        assert space.parse(text) == architecture


NO_ARCHITECTURES = """0.1.0.0.a 0.1.0.0.a_0.1.0.0.a_0.1.0.0.a 0.1.0.0.a-0.1.0.0.a 0.1.0.0.b_0.1.0.0.a
    0.1.0.3.a_0.1.0.0.a 0.2.0.0.a_0.1.0.0.a 00.1.0.0.a_0.1.0.0.a 0-1.0.0.a_0.1.0.0.a 0.1.0.a.a_0.1.0.0.a
    0.1.0.0.0_0.1.0.0.a ٠.1.0.0.a_0.1.0.0.a 0.1.0.0._0.1.0.0.a"""


@pytest.mark.parametrize("text", ["", *NO_ARCHITECTURES.split(), "0.1.0.0.a_0.1.0.0.a\n"])
def test_strings_that_do_not_parse(text: str) -> None:
    with pytest.raises(InputError, match=r"is no architecture of nasnet: expected 1 blocks .* '0.0.0.0.a_0.0.0.0.a'"):
        TINY.parse(text)


def test_the_number_of_architectures() -> None:
    everything = list(TINY.architectures())
    assert len(everything) == len(set(everything)) == len(TINY) == (2 * 2 * 3 * 3 * 2) ** 2
    assert everything == sorted(everything)
    # Too many for the built-in len, which stops at 2 ** 63.
    assert NASNet(5, "published").__len__() == (2 * 3 * 4 * 5 * 6) ** 4 * 13**20 * 2**10


@in_every_setting
def test_an_input_choice_lists_what_stands_before_its_block(space: NASNet) -> None:
    everything = ["input0", "input1", *(f"block{b}" for b in range(space.blocks))]
    for choice in space.choices:
        if choice.kind == "inputs":
            block = int(choice.name.split("block")[1].split("_")[0])
            assert [option.name for option in choice.options] == everything[: 2 + block]


# The same network in two spellings.


@in_every_setting
def test_canonical_sorts_the_sides_and_the_network_stays_the_same(space: NASNet) -> None:
    moved = 0
    for number, architecture in enumerate(sampled(space, 5)):
        twin = space.canonical(architecture)
        assert space.canonical(twin) == twin
        if number < 2:
            assert space.cost(twin, SPEC) == space.cost(architecture, SPEC)
        with forked_rng("child", number):
            child, other = fresh(space.child(SPEC, architecture), number).eval(), space.child(SPEC, twin).eval()
        state = child.state_dict()
        for start in range(0, len(architecture), 5):
            if architecture[start : start + 5] == twin[start : start + 5]:
                continue
            moved += 1
            kind, block = space.choices[start].name.split("_")[:2]
            cells = [f"cell{i}" for i, k in enumerate(space.chain.kinds, start=1) if k == kind]
            state = {swapped(key, cells, block): turned(key, v, cells, block) for key, v in state.items()}
        other.load_state_dict(state)
        with torch.no_grad():
            torch.testing.assert_close(other(images()), child(images()), atol=1e-5, rtol=0)
    assert moved > 0


def swapped(key: str, cells: list[str], block: str) -> str:
    parts = key.split(".")
    if parts[1] in cells and parts[2:4] == ["blocks", block] and parts[4].startswith("side"):
        parts[4] = {"side1": "side2", "side2": "side1"}[parts[4]]
    return ".".join(parts)


def turned(key: str, value: torch.Tensor, cells: list[str], block: str) -> torch.Tensor:
    """The weight of the convolution over the two sides with its halves of input channels exchanged."""
    parts = key.split(".")
    if parts[1] in cells and parts[2:6] == ["blocks", block, "concat", "0"]:
        return torch.cat(value.chunk(2, dim=1)[::-1], dim=1)
    return value


# Sizes.


def test_the_size_of_a_child_by_hand() -> None:
    architecture = TINY.parse("0.1.1.0.a_1.1.2.0.c")
    cost = TINY.cost(architecture, SPEC)
    stem = 1 * 6 * 9
    align, separable = 6 * 4, 2 * (4 * 9 + 4 * 4)  # cell 1: 4 channels, both inputs are the stem
    wider, halving, concat = 4 * 8, 8 * 8, 16 * 8  # cell 2: 8 channels, reads cell 1; a pool, a factorized reduction
    skip, align3, separable3 = 4 * 8, 8 * 8, 2 * (8 * 9 + 8 * 8)  # cell 3: cell 1 is twice as large
    norms = 2 * (6 + 4 + 4 + 2 * 4 + 8 + 8 + 8 + 8 + 8 + 2 * 8)
    weights = stem + 2 * align + separable + wider + halving + concat + skip + align3 + separable3
    assert cost.params == weights + norms + 8 * 10 + 10
    at64, at16 = stem + 2 * align + separable + wider, halving + concat + skip + align3 + separable3
    assert cost.flops == 2 * (64 * at64 + 16 * at16 + 8 * 10)


@in_every_setting
def test_cost_is_the_child_that_is_trained(space: NASNet) -> None:
    for architecture in sampled(space, 2):
        child = space.child(SPEC, architecture)
        assert space.cost(architecture, SPEC).params == sum(p.numel() for p in child.parameters())


def test_the_drawing_names_every_operation_and_the_loose_ends() -> None:
    space = SPACES["small"]
    edges = space.graph(space.parse("0.1.1.0.a-1.2.2.1.c-0.1.0.0.a_0.0.1.1.a-2.2.0.0.a-3.0.0.1.a"))
    normal = [e for e in edges if e.source.startswith("normal")]
    assert ("normal input1", "normal 1 concat", "max_pool_3x3") in normal
    assert ("normal 0 add", "normal 1 concat", "sep_conv_3x3") in normal
    assert {e.source for e in normal if e.target == "normal output"} == {"normal 1 concat", "normal 2 add"}
    assert {e.source for e in edges if e.target == "reduce output"} == {"reduce 2 add"}
    assert len(edges) == 2 * 2 * 3 + 2 + 1


def test_children_are_scored_alike_with_and_without_shared_prefixes() -> None:
    space = SPACES["small, two reductions"]
    supernet = supernet_of(space)
    batches = [Batch(images(8) + shift, torch.arange(8)) for shift in (0.0, 1.0)]
    children = []
    for start in sampled(space, 3):  # the first has cells that nothing reads
        for place in (3, 5, 10, 13, 16, 19):  # neighbours share cells
            other = (start[place] + 1) % len(space.choices[place].options)
            children.append((*start[:place], other, *start[place + 1 :]))
    shared, alone = (
        score_children(space, supernet, children, batches, batches, share_prefixes=share) for share in (True, False)
    )
    for architecture in children:
        assert shared[architecture].loss == pytest.approx(alone[architecture].loss, abs=1e-5)
    assert len({round(score.loss, 4) for score in shared.values()}) > len(shared) // 2


# Bad input.


@pytest.mark.parametrize("key", ["blocks", "channels", "cells", "reductions", "stem_channels"])
def test_sizes_that_cannot_be(key: str) -> None:
    with pytest.raises(InputError, match=f"space.{key} is 0: expected at least"):
        NASNet(**{key: 0})


def test_operations_and_images_that_cannot_be() -> None:
    with pytest.raises(InputError, match="operations is 'all': expected small or published"):
        NASNet(operations="all")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="reductions is 4 and images have 8 pixels a side: expected at most 3"):
        NASNet(reductions=4).supernet(SPEC)
    with pytest.raises(InputError, match="options, nasnet has"):
        TINY.child(SPEC, (0, 0))
