"""What holds in every space: children equal their paths, strings and samples are right, sizes match a count by hand."""

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from torch import nn

from nastricks.data import ImageSpec
from nastricks.errors import InputError
from nastricks.ranking.tables import load_table
from nastricks.rng import forked_rng, generator
from nastricks.spaces import Architecture, Network, Space, Tiny64, WeightSharing64
from nastricks.spaces.hollow import hollow

SPEC = ImageSpec(1, 8, 10)
SPACES: dict[str, tuple[Space, ImageSpec]] = {
    "tiny64": (Tiny64(channels=4), ImageSpec(1, 8, 10)),
    "weight_sharing_64": (WeightSharing64(channels=4, cells=2, stem_channels=6), ImageSpec(3, 8, 10)),
}
in_every_space = pytest.mark.parametrize("name", SPACES)


def test_every_space_is_tested() -> None:
    elsewhere = {
        "darts",
        "elastic",
        "mobile",
        "nas_bench_macro",
        "nasbench201",
        "nasnet",
        "sequence",
        "slimmable",
        "tabular",
    }  # each in a file of its own
    shipped = {s.name for s in Space.__subclasses__() if s.__module__.startswith("nastricks.")}
    assert shipped == set(SPACES) | elsewhere, "name a new space in SPACES"


def worn(network: Network, *key: object) -> Network:
    """The network with random batch-norm buffers and affine parameters, as after training."""
    rng = generator(*key)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
                module.running_mean.normal_(generator=rng)
                assert module.running_var is not None
                module.running_var.uniform_(0.5, 2.0, generator=rng)
                if module.affine:
                    module.weight.uniform_(0.5, 1.5, generator=rng)
                    module.bias.normal_(generator=rng)
    return network


def fresh_supernet(space: Space, spec: ImageSpec) -> Network:
    with forked_rng("supernet"):
        return worn(space.supernet(spec), "statistics")


def child_of(supernet: Network, space: Space, spec: ImageSpec, architecture: Architecture) -> Network:
    """The child alone, with the supernet's weights and buffers under the same names."""
    with forked_rng("child", architecture):
        child = space.child(spec, architecture)
    whole = supernet.state_dict()
    child.load_state_dict({key: whole[key].clone() for key in child.state_dict()})
    return child


def images_of(spec: ImageSpec, n: int = 6) -> torch.Tensor:
    return torch.randn(n, spec.channels, spec.size, spec.size, generator=generator("images"))


def picked(space: Space) -> list[Architecture]:
    """All of tiny64; of the others sixteen, with every option of every choice among them."""
    everything = list(space.architectures())
    return everything if space.name == "tiny64" else [*everything[::5], everything[-1], everything[21], everything[42]]


@in_every_space
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_a_child_with_copied_weights_equals_its_path(name: str, training: bool) -> None:
    space, spec = SPACES[name]
    images, seen = images_of(spec), []
    supernet = fresh_supernet(space, spec).train(training)
    before = {key: value.clone() for key, value in supernet.state_dict().items()}
    with torch.no_grad():
        for architecture in picked(space):
            supernet.load_state_dict(before)
            child = child_of(supernet, space, spec, architecture).train(training)
            path = supernet(images, space.gates(architecture))
            torch.testing.assert_close(child(images), path, atol=1e-5, rtol=0)
            # Train mode moved the buffers of both alike, and of the path alone.
            after = supernet.state_dict()
            for key, value in child.state_dict().items():
                torch.testing.assert_close(value, after[key], atol=1e-5, rtol=0)
            moved = {key for key in before if not torch.equal(before[key], after[key])}
            assert moved <= set(child.state_dict())
            assert bool(moved) == training
            seen.append(path)
    # Were the gates ignored, every path would be the same.
    assert any(not torch.allclose(seen[0], other, atol=1e-3) for other in seen[1:])


@in_every_space
def test_gradients_of_a_path_are_those_of_its_child(name: str) -> None:
    space, spec = SPACES[name]
    architecture = space.parse("231")
    supernet = fresh_supernet(space, spec).double()
    child = child_of(supernet, space, spec, architecture).double()
    images = images_of(spec).double()
    supernet(images, space.gates(architecture)).square().sum().backward()
    child(images).square().sum().backward()
    whole = dict(supernet.named_parameters())
    for key, parameter in child.named_parameters():
        torch.testing.assert_close(parameter.grad, whole[key].grad, atol=1e-8, rtol=1e-8)
    idle = [key for key in whole if key not in dict(child.named_parameters())]
    assert idle
    assert all(whole[key].grad is None for key in idle)


@in_every_space
def test_a_childs_names_are_the_supernets(name: str) -> None:
    space, spec = SPACES[name]
    whole = {key: p.shape for key, p in space.supernet(spec).named_parameters()}
    together: set[str] = set()
    for architecture in space.architectures():
        own = {key: p.shape for key, p in space.child(spec, architecture).named_parameters()}
        assert own.items() <= whole.items()
        together |= set(own)
    assert together == set(whole)


@in_every_space
def test_a_sub_supernet_holds_the_allowed_options_alone(name: str) -> None:
    space, spec = SPACES[name]
    allowed = {**space.all_options(), space.choices[0].name: (0, 2)}
    names = set(space.build(spec, allowed).state_dict())
    children = [a for a in space.architectures() if a[0] in (0, 2)]
    assert names == {key for a in children for key in space.child(spec, a).state_dict()}


@in_every_space
def test_architectures_are_all_different_and_print_and_parse(name: str) -> None:
    space, _ = SPACES[name]
    everything = list(space.architectures())
    assert len(everything) == len(set(everything)) == len(space) == 64
    assert everything == sorted(everything)
    texts = [space.format(a) for a in everything]
    assert (texts[0], texts[-1], len(set(texts))) == ("111", "444", 64)
    assert [space.parse(text) for text in texts] == everything
    assert space.parse("213") == (1, 0, 2)


@in_every_space
@pytest.mark.parametrize("text", ["", "11", "1111", "115", "011", "abc", "11 ", "-11", "1.1", "１１１", "1\n1", "²11"])
def test_strings_that_do_not_parse(name: str, text: str) -> None:
    space, _ = SPACES[name]
    with pytest.raises(InputError, match=f"is no architecture of {name}: expected 3 digits from 1 to 4, such as '111'"):
        space.parse(text)


@in_every_space
@pytest.mark.parametrize("indices", [(0, 0), (0, 0, 0, 0), (0, 0, 4), (-1, 0, 0)])
def test_indices_that_are_no_architecture(name: str, indices: Architecture) -> None:
    space, spec = SPACES[name]
    with pytest.raises(InputError, match=name):
        space.check(indices)
    with pytest.raises(InputError, match=name):
        space.child(spec, indices)


@in_every_space
def test_samples_are_uniform_and_keyed(name: str) -> None:
    space, _ = SPACES[name]
    rng = generator("sample", 1)
    drawn = [space.sample(rng) for _ in range(6400)]
    counts = Counter(drawn)
    assert chisquare([counts[a] for a in space.architectures()]).pvalue > 1e-4
    again = generator("sample", 1)
    assert [space.sample(again) for _ in range(20)] == drawn[:20]
    other = generator("sample", 2)
    assert [space.sample(other) for _ in range(20)] != drawn[:20]


@in_every_space
def test_a_network_with_choices_needs_gates(name: str) -> None:
    space, spec = SPACES[name]
    with pytest.raises(ValueError, match="pass gates"):
        space.supernet(spec)(images_of(spec))


def test_sizes_that_cannot_be() -> None:
    with pytest.raises(InputError, match="channels is 0"):
        Tiny64(channels=0)
    for key in ("channels", "cells", "stem_channels"):
        with pytest.raises(InputError, match=f"space.{key} is 0"):
            WeightSharing64(**{key: 0})
    for momentum in (0.0, 1.5):
        with pytest.raises(InputError, match=f"bn_momentum is {momentum}"):
            WeightSharing64(bn_momentum=momentum)


def test_settings_of_weight_sharing_64_reach_its_batch_norms() -> None:
    spec = ImageSpec(3, 8, 10)
    for affine, momentum in ((False, 0.1), (True, 0.4)):
        network = WeightSharing64(4, 1, 6, bn_affine=affine, bn_momentum=momentum).supernet(spec)
        norms = {key: m for key, m in network.named_modules() if isinstance(m, nn.BatchNorm2d)}
        assert {m.momentum for m in norms.values()} == {momentum}
        assert {m.affine for key, m in norms.items() if "cell1" in key} == {affine}
        assert all(m.affine for key, m in norms.items() if "stem" in key)


def test_weight_sharing_64_without_outer_relus_has_those_of_its_cells_alone() -> None:
    """As in the released code: the weights stay, and a cell's entry and its operations alone begin with one."""
    spec = ImageSpec(3, 8, 10)
    networks = [WeightSharing64(4, 2, 6, outer_relu=outer).supernet(spec) for outer in (True, False)]
    assert networks[0].state_dict().keys() == networks[1].state_dict().keys()
    counts = [
        {part: sum(isinstance(m, nn.ReLU) for m in n.segments[part].modules()) for part in n.segments} for n in networks
    ]
    assert (counts[0].pop("stem"), counts[0].pop("head")) == (1, 1)
    assert (counts[1].pop("stem"), counts[1].pop("head")) == (0, 0)
    assert counts[0] == counts[1]
    assert min(counts[0].values()) > 1


# Sizes.


def test_tiny64_by_hand() -> None:
    cost = Tiny64(channels=16).cost(Tiny64().parse("214"), ImageSpec(1, 8, 10))
    stem, stem_norm = 1 * 16 * 9, 2 * 16
    separable, norm, pool_norm = 16 * 9 + 16 * 16, 2 * 16, 2 * 16
    assert cost.params == stem + stem_norm + separable + norm + pool_norm + (16 * 10 + 10)
    assert cost.flops == 2 * (64 * stem + 64 * separable + 16 * 10)  # the first layer sees 8x8 images


def test_tiny64_counts_what_comes_after_the_pooling_at_a_quarter() -> None:
    space, spec = Tiny64(channels=16), ImageSpec(1, 8, 10)
    before, after = (space.cost(space.parse(text), spec) for text in ("244", "424"))
    assert before.params == after.params
    assert before.flops - after.flops == 2 * (64 - 16) * (16 * 9 + 16 * 16)


def test_weight_sharing_64_by_hand() -> None:
    space, spec = SPACES["weight_sharing_64"]
    cost = space.cost(space.parse("234"), spec)
    stem = 3 * 6 * 9 + 6 * 6 * 9
    edges = 2 * (4 * 9 + 16) + 2 * (4 * 25 + 16) + (4 * 25 + 16)  # separable ones are applied twice
    entries = 6 * 4 + 8 * 4
    assert cost.params == stem + 2 * 2 * 6 + entries + 2 * edges + (8 * 10 + 10)
    assert cost.flops == 2 * (64 * (stem + entries + 2 * edges) + 8 * 10)


@in_every_space
def test_cost_is_the_child_that_is_trained(name: str) -> None:
    space, spec = SPACES[name]
    for architecture in list(space.architectures())[::9]:
        child = space.child(spec, architecture)
        assert space.cost(architecture, spec).params == sum(p.numel() for p in child.parameters())


@pytest.mark.skipif("NASTRICKS_DATA" not in os.environ, reason="NASTRICKS_DATA does not name the folder of shared data")
def test_parameter_counts_of_weight_sharing_64_rank_as_published() -> None:
    """Kendall tau 0.650 of parameter counts against the published accuracies, ties broken at random."""
    space, spec = WeightSharing64(), ImageSpec(3, 32, 10)
    everything = list(space.architectures())
    params = np.array([space.cost(a, spec).params for a in everything], dtype=float)
    table = load_table(Path(os.environ["NASTRICKS_DATA"]) / "tables" / "weight_sharing_64_cifar10.csv", space.parse)
    truth = table.truth([space.format(a) for a in everything])
    # A tie broken at random is right as often as wrong, so the expectation counts it as nothing: tau-a.
    agreements = np.sign(params[:, None] - params) * np.sign(truth[:, None] - truth)
    assert agreements.sum() / (64 * 63) == pytest.approx(0.650, abs=0.005)


# tiny64's networks that are the same when trained alone.


def test_tiny64_has_52_distinct_networks() -> None:
    space = Tiny64(channels=4)
    everything = list(space.architectures())
    classes = {space.canonical(a) for a in everything}
    assert len(classes) == 52
    assert all(space.canonical(a) == a for a in classes)


def test_canonical_networks_of_tiny64_are_the_same_network() -> None:
    space, spec = SPACES["tiny64"]
    images, moved = images_of(spec), 0
    for architecture in space.architectures():
        twin = space.canonical(architecture)
        if twin == architecture:
            continue
        moved += 1
        assert space.cost(architecture, spec) == space.cost(twin, spec)
        child, other = worn(space.child(spec, architecture), "child"), space.child(spec, twin)
        state = {k.replace("segments.layer3", "segments.layer2"): v for k, v in child.state_dict().items()}
        other.load_state_dict(state)
        for training in (True, False):
            torch.testing.assert_close(child.train(training)(images), other.train(training)(images), atol=1e-6, rtol=0)
    assert moved == 12


def test_hollow_networks_have_the_shapes_of_real_ones_and_no_values() -> None:
    space = Tiny64(channels=4)
    with hollow():
        network = space.supernet(SPEC)
    real = space.supernet(SPEC)
    assert {name: t.shape for name, t in network.state_dict().items()} == {
        name: t.shape for name, t in real.state_dict().items()
    }
    assert {t.device.type for t in network.state_dict().values()} == {"meta"}
    norms = [module for module in real.modules() if isinstance(module, nn.BatchNorm2d)]
    assert all(bool((norm.weight == 1).all()) for norm in norms)  # outside the block layers are initialised as ever
    assert all(bool(p.abs().sum() > 0) for name, p in real.named_parameters() if p.dim() > 1)
