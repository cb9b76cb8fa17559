"""The space of inverted residuals: published networks to the last parameter, children, skips, what cannot be."""

import itertools
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nastricks.data import ImageSpec
from nastricks.errors import InputError
from nastricks.rng import forked_rng, generator
from nastricks.spaces import Architecture, Gate, GatedOps, Mobile, Network
from nastricks.spaces.primitives import InvertedResidual

IMAGENET = ImageSpec(3, 224, 1000)
SPEC = ImageSpec(1, 9, 10)
SMALL = Mobile(
    widths=(6, 8, 8),
    depths=(2, 2, 1),
    strides=(1, 2, 1),
    kernels=(3, 5),
    expansions=(1, 2),
    dilations=(1, 2),
    stem_channels=4,
    stem_stride=1,
    first_channels=6,
    head_channels=12,
)


# The four networks that ProxylessNAS published: widths, blocks and parameters as in osmr/imgclsmob
# (pytorchcv/models/proxylessnas.py), which holds the authors' weights.
MOBILE = "k5e3-k3e3-skip-skip_k7e3-k3e3-k5e3-k5e3_k7e6-k5e3-k5e3-k5e3_k5e6-k5e3-k5e3-k5e3_k7e6-k7e6-k7e3-k7e3_k7e6"
CPU = "k3e6-k3e3-k3e3-k3e3_k3e6-k3e3-k3e3-k5e3_k3e6-skip-skip-k3e3_k5e6-k3e3-k3e3-k3e3_k5e6-k5e3-k5e3-k3e3_k5e6"
GPU = "k5e3-skip-skip-skip_k7e3-skip-skip-k3e3_k7e6-skip-skip-k5e3_k5e6-skip-k3e3-k5e3_k7e6-k7e6-k7e6-k5e6_k7e6"


@pytest.mark.parametrize(
    ("text", "widths", "stem", "first", "head", "params"),
    [
        (MOBILE, (32, 40, 80, 96, 192, 320), 32, 16, 1280, 4080512),
        (MOBILE, (40, 56, 112, 136, 256, 448), 48, 24, 1792, 6857568),
        (CPU, (32, 48, 88, 104, 216, 360), 40, 24, 1432, 4361648),
        (GPU, (32, 56, 112, 128, 256, 432), 40, 24, 1728, 7119848),
    ],
    ids=["mobile", "mobile 1.4", "cpu", "gpu"],
)
def test_published_networks_have_their_size(
    text: str, widths: tuple[int, ...], stem: int, first: int, head: int, params: int
) -> None:
    space = Mobile(widths, stem_channels=stem, first_channels=first, head_channels=head)
    cost = space.cost(space.parse(text), IMAGENET)
    assert cost.params == params
    if first == 16:
        assert round(cost.flops / 2e6) == 320  # million multiply-adds (Cai et al. 2019, table 4)


def test_the_published_space() -> None:
    space = Mobile()
    assert len(space.choices) == 21
    assert space.size == 7**15 * 6**6
    assert [len(c.options) for c in space.choices] == [6, 7, 7, 7] * 5 + [6]


# Networks.


def worn(network: Network) -> Network:
    """Random batch-norm statistics and affine parameters, as after training."""
    rng = generator("worn")
    with torch.no_grad():
        for norm in network.modules():
            if isinstance(norm, nn.BatchNorm2d):
                assert norm.running_mean is not None
                assert norm.running_var is not None
                norm.running_mean.normal_(generator=rng)
                norm.running_var.uniform_(0.5, 2.0, generator=rng)
                norm.weight.uniform_(0.5, 1.5, generator=rng)
                norm.bias.normal_(generator=rng)
    return network


def supernet() -> Network:
    with forked_rng("supernet"):
        return worn(SMALL.supernet(SPEC))


def child(network: Network, architecture: Architecture) -> Network:
    made, whole = SMALL.child(SPEC, architecture), network.state_dict()
    made.load_state_dict({key: whole[key].clone() for key in made.state_dict()})
    return made


def images() -> Tensor:
    return torch.randn(4, 1, 9, 9, generator=generator("images"))


def sampled(n: int) -> list[Architecture]:
    rng = generator("architectures")
    return [SMALL.sample(rng) for _ in range(n)]


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_a_child_with_copied_weights_equals_its_path(training: bool) -> None:
    network, seen = supernet().train(training), []
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with torch.no_grad():
        for architecture in sampled(8):
            network.load_state_dict(before)
            alone = child(network, architecture).train(training)
            seen.append(network(images(), SMALL.gates(architecture)))
            torch.testing.assert_close(alone(images()), seen[-1], atol=1e-5, rtol=0)
            after = network.state_dict()
            for key, value in alone.state_dict().items():
                torch.testing.assert_close(value, after[key], atol=1e-5, rtol=0)
    assert all(not torch.allclose(a, b, atol=1e-4) for a, b in itertools.combinations(seen, 2))


def test_a_childs_parameters_are_the_supernets() -> None:
    whole = {key: p.shape for key, p in supernet().named_parameters()}
    together: set[str] = set()
    for index in range(8):
        own = {key: p.shape for key, p in SMALL.child(SPEC, (index,) * 5).named_parameters()}
        assert own.items() <= whole.items()
        together |= set(own)
    assert together == set(whole)


def test_a_block_by_hand() -> None:
    with forked_rng("block"):
        block = InvertedResidual(4, 4, 3, expansion=2, dilation=2, activation=nn.ReLU6, eps=1e-3).eval()
    expand, _, _, depthwise, _, _, project, _ = block.body
    x = torch.randn(2, 4, 7, 7, generator=generator("x"))
    scale = (1 + 1e-3) ** -0.5  # of a batch norm that has seen nothing
    hidden = nn.functional.conv2d(x, expand.weight).mul(scale).clamp(0, 6)
    hidden = nn.functional.conv2d(hidden, depthwise.weight, padding=2, dilation=2, groups=8).mul(scale).clamp(0, 6)
    torch.testing.assert_close(block(x), x + nn.functional.conv2d(hidden, project.weight).mul(scale))


def test_sizes_and_kernels_reach_the_operations() -> None:
    places = [m for m in supernet().modules() if isinstance(m, GatedOps)]
    assert [(p.channels, p.outputs, p.stride) for p in places] == [
        (6, 6, 1), (6, 6, 1), (6, 8, 2), (8, 8, 1), (8, 8, 1)
    ]  # fmt: skip
    for place in places:
        for name, op in place.ops.items():
            if name != "skip":
                depthwise = next(m for m in op.modules() if isinstance(m, nn.Conv2d) and m.groups > 1)
                kernel, expansion, dilation = map(int, re.findall(r"\d+", name if "d" in name else f"{name}d1"))
                assert depthwise.kernel_size == (kernel, kernel)
                assert depthwise.groups == expansion * place.channels
                assert depthwise.dilation == (dilation, dilation)
                assert depthwise.stride == (place.stride, place.stride)
            else:
                assert place.stride == 1
                assert place.channels == place.outputs


def test_only_blocks_that_keep_the_shape_can_be_left_out_or_dropped() -> None:
    skips = [any(option.skip for option in choice.options) for choice in SMALL.choices]
    assert skips == [True, True, False, True, True]
    assert [choice.dropped for choice in SMALL.choices] == ["input" if skip else "never" for skip in skips]
    assert all(choice.options[-1].identity for choice, skip in zip(SMALL.choices, skips, strict=True) if skip)
    assert not any(o.skip for c in Mobile(skip=False).choices for o in c.options)


def test_the_bypass_of_a_block_that_changes_the_shape_has_its_shape() -> None:
    place = next(m for m in supernet().modules() if isinstance(m, GatedOps) and m.stride == 2)
    x = torch.randn(2, 6, 9, 9, generator=generator("x"))
    y = place(x, Gate(active=(), bypass=torch.tensor(2.0)))
    means = nn.functional.avg_pool2d(x, 2, ceil_mode=True)
    assert y.shape == place(x, Gate(active=(0,))).shape == (2, 8, 5, 5)
    torch.testing.assert_close(y, torch.cat([2 * means, torch.zeros(2, 2, 5, 5)], dim=1))
    with pytest.raises(InputError, match="makes 8 channels of 6"):
        place.narrow(2)


def test_the_same_network_in_two_spellings() -> None:
    text = "skip-k3e1_k5e1-skip_k3e2"
    twin = SMALL.canonical(SMALL.parse(text))
    assert SMALL.format(twin) == "k3e1-skip_k5e1-k3e2_skip"
    assert SMALL.canonical(twin) == twin
    assert SMALL.cost(twin, SPEC) == SMALL.cost(SMALL.parse(text), SPEC)
    one, other = worn(SMALL.child(SPEC, SMALL.parse(text))).eval(), SMALL.child(SPEC, twin).eval()
    weights = dict(zip(other.state_dict(), one.state_dict().values(), strict=True))  # blocks in their order
    other.load_state_dict(weights)
    with torch.no_grad():
        torch.testing.assert_close(one(images()), other(images()))


def test_two_shapes_are_no_row() -> None:
    text = "k3e1-skip_k5e1-k3e1_k3e2"
    assert SMALL.canonical(SMALL.parse(text)) == SMALL.parse(text)


# Notation and arguments.


def test_architectures_print_and_parse() -> None:
    for architecture in sampled(200):
        assert SMALL.parse(SMALL.format(architecture)) == architecture
    assert SMALL.parse("k3e1-skip_k5e2d2-k3e1d2_k3e2") == (0, 8, 7, 4, 1)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "11111",
        "k3e1-k3e1-k3e1-k3e1-k3e1",
        "k3e1-k3e1_k3e1-k3e1",
        "k3e1-k3e1_skip-k3e1_k3e1",
        "k3e1-k3e1_k7e1-k3e1_k3e1",
        "k3e1-k3e1_k3e1d1-k3e1_k3e1",
        "k3e1-k3e1_k3e1-k3e1_k3e1\n",
    ],
)
def test_strings_that_do_not_parse(text: str) -> None:
    with pytest.raises(
        InputError, match="is no architecture of mobile: expected 2, 2, 1 blocks a stage, such as 'k3e1-"
    ):
        SMALL.parse(text)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"widths": (8, 8)}, "have 2, 6 and 6 entries"),
        ({"widths": ()}, "space.widths is ()"),
        ({"depths": (4, 4, 4, 4, 4, 0)}, "space.depths is (4, 4, 4, 4, 4, 0): expected at least 1"),
        ({"strides": (2, 2, 3, 1, 2, 1)}, "space.strides is (2, 2, 3, 1, 2, 1): expected 1 or 2"),
        ({"stem_stride": 4}, "space.stem_stride is 4: expected 1 or 2"),
        ({"kernels": (3, 4)}, "space.kernels is [3, 4]: expected odd numbers, each once"),
        ({"kernels": ()}, "space.kernels is ()"),
        ({"expansions": (3, 3)}, "space.expansions is [3, 3]: expected each number once"),
        ({"dilations": (0,)}, "space.dilations is (0,): expected at least 1"),
        ({"head_channels": 0}, "space.head_channels is 0: expected at least 1"),
    ],
)
def test_values_that_cannot_be(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=re.escape(words)):
        Mobile(**arguments)
