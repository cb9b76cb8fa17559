"""Elastic layers equal torch's own on the part that runs."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nastricks.callbacks.ghost_batch_norm import GhostBatchNorm2d, use_ghost_batch_norm
from nastricks.errors import InputError
from nastricks.modules.normalisation import cumulative_statistics, frozen_statistics
from nastricks.rng import generator
from nastricks.spaces import Gate
from nastricks.spaces.elastic_layers import (
    ElasticBatchNorm2d,
    ElasticConv2d,
    ElasticDepthwise,
    ElasticLinear,
    conv,
    depthwise,
    linear,
    narrow_kernel,
    narrowed,
    norm,
)
from nastricks.spaces.sizes import Sizes, divisible, sizes, sole


def drawn(*shape: int, key: object = "x") -> Tensor:
    return torch.randn(*shape, generator=generator("layers", key, shape), dtype=torch.float64)


def test_a_layer_of_one_size_is_torchs_own() -> None:
    for layer, kind in (
        (conv([4], [6], 3), nn.Conv2d),
        (depthwise([4], [5], 2), nn.Conv2d),
        (norm([4, 4]), nn.BatchNorm2d),
        (linear([4], 3), nn.Linear),
    ):
        assert type(layer) is kind
    for layer, elastic in (
        (conv([4, 8], [6]), ElasticConv2d),
        (conv([4], [6, 8]), ElasticConv2d),
        (depthwise([4], [3, 5]), ElasticDepthwise),
        (depthwise([4, 8], [3]), ElasticDepthwise),
        (norm([4, 8]), ElasticBatchNorm2d),
        (linear([4, 8], 3), ElasticLinear),
    ):
        assert type(layer) is elastic


@pytest.mark.parametrize(("inputs", "outputs"), [(8, 12), (8, 4), (3, 12), (5, 7)])
def test_dense_layers(inputs: int, outputs: int) -> None:
    layer, x = conv([3, 5, 8], [4, 7, 12], 3, 2, bias=True).double(), drawn(2, inputs, 6, 6)
    assert isinstance(layer, ElasticConv2d)
    assert layer.bias is not None
    by_hand = F.conv2d(x, layer.weight[:outputs, :inputs], layer.bias[:outputs], 2, 1)
    torch.testing.assert_close(layer(x, outputs), by_hand)
    last = linear([3, 5, 8], 4).double()
    torch.testing.assert_close(last(x[:, :, 0, 0]), F.linear(x[:, :, 0, 0], last.weight[:, :inputs], last.bias))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [3, 5, 7])
def test_a_cropped_kernel_is_the_middle_of_the_largest(kernel: int, stride: int) -> None:
    layer, x = ElasticDepthwise(6, (3, 5, 7), stride).double(), drawn(2, 4, 9, 9)
    margin = (7 - kernel) // 2
    middle = layer.weight[:4, :, margin : margin + kernel, margin : margin + kernel]
    by_hand = F.conv2d(x, middle, stride=stride, padding=kernel // 2, groups=4)
    torch.testing.assert_close(layer(x, kernel), by_hand)
    learned = ElasticDepthwise(6, (3, 5, 7), stride, learned=True).double()
    learned.weight = layer.weight
    torch.testing.assert_close(learned(x, kernel), by_hand)  # the matrices are the identity at first


def test_a_learned_kernel_goes_from_size_to_size() -> None:
    layer, x = ElasticDepthwise(6, (3, 5, 7), learned=True).double(), drawn(2, 6, 9, 9)
    first, second = drawn(25, 25, key="first"), drawn(9, 9, key="second")
    with torch.no_grad():
        layer.kernel_7_to_5.copy_(first)
        layer.kernel_5_to_3.copy_(second)
    five = torch.stack([first @ layer.weight[c, 0, 1:6, 1:6].reshape(25) for c in range(6)]).view(6, 1, 5, 5)
    three = torch.stack([second @ five[c, 0, 1:4, 1:4].reshape(9) for c in range(6)]).view(6, 1, 3, 3)
    torch.testing.assert_close(layer(x, 5), F.conv2d(x, five, padding=2, groups=6))
    torch.testing.assert_close(layer(x, 3), F.conv2d(x, three, padding=1, groups=6))
    torch.testing.assert_close(layer(x), F.conv2d(x, layer.weight, padding=3, groups=6))
    layer(x, 3).square().sum().backward()
    assert all(p.grad is not None and bool((p.grad != 0).any()) for p in layer.parameters())
    # Out of a state, as a subnet is taken out: also from a middle size on.
    state = {f"dw.{key}": value for key, value in layer.state_dict().items()}
    torch.testing.assert_close(narrowed("dw.weight", torch.Size((6, 1, 3, 3)), state), three.detach())
    torch.testing.assert_close(narrowed("dw.weight", torch.Size((2, 1, 5, 5)), state), five.detach()[:2])
    torch.testing.assert_close(narrow_kernel(five, 3, {"kernel_5_to_3": second}), three)


def test_the_beginning_of_a_smaller_tensor_is_refused() -> None:
    state = {"a.weight": torch.zeros(4, 2, 3, 3), "b.weight": torch.zeros(4)}
    assert narrowed("a.weight", torch.Size((2, 2, 1, 1)), state).shape == (2, 2, 1, 1)
    for name, shape in (("a.weight", (5, 2, 3, 3)), ("a.weight", (4, 2)), ("b.weight", (5,))):
        with pytest.raises(InputError, match=f"do not fit at {name}"):
            narrowed(name, torch.Size(shape), state)


# Batch norm.


def pair(count: int) -> tuple[ElasticBatchNorm2d, nn.BatchNorm2d]:
    """An elastic one of 6 channels, and torch's own with the first ones' parameters and statistics."""
    elastic = ElasticBatchNorm2d(6).double()
    with torch.no_grad():
        for tensor in (elastic.weight, elastic.bias, elastic.running_mean):
            tensor.copy_(drawn(6, key=id(tensor) % 3))  # type: ignore[union-attr]
        elastic.running_var.copy_(drawn(6, key="var").abs() + 0.5)  # type: ignore[union-attr]
    plain = nn.BatchNorm2d(count).double()
    plain.load_state_dict({k: v[:count] if v.dim() else v for k, v in elastic.state_dict().items()})
    return elastic, plain


def same_state(elastic: nn.BatchNorm2d, plain: nn.BatchNorm2d, before: dict[str, Tensor], count: int) -> None:
    after = elastic.state_dict()
    for key, value in plain.state_dict().items():
        torch.testing.assert_close(after[key][:count] if value.dim() else after[key], value)
        if value.dim():
            assert torch.equal(after[key][count:], before[key][count:])  # channels that did not run stay


@pytest.mark.parametrize("count", [2, 6])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_batch_norm_of_the_first_channels(count: int, momentum: float | None) -> None:
    elastic, plain = pair(count)
    elastic.momentum = plain.momentum = momentum
    before = {key: value.clone() for key, value in elastic.state_dict().items()}
    for number in range(3):
        x = drawn(4, count, 3, 3, key=number)
        torch.testing.assert_close(elastic.train()(x), plain.train()(x))
        torch.testing.assert_close(elastic.eval()(x), plain.eval()(x))
    same_state(elastic, plain, before, count)


def test_batch_norm_in_the_contexts_that_calibrate_and_freeze() -> None:
    elastic, plain = pair(2)
    x = drawn(4, 2, 3, 3)
    before = {key: value.clone() for key, value in elastic.state_dict().items()}
    with frozen_statistics([elastic, plain]):
        torch.testing.assert_close(elastic.train()(x), plain.train()(x))
    same_state(elastic, plain, before, 2)
    elastic.reset_running_stats()
    before = {key: value.clone() for key, value in elastic.state_dict().items()}
    with cumulative_statistics([elastic, plain]):
        for number in range(3):
            elastic(drawn(4, 2, 3, 3, key=number))
            plain(drawn(4, 2, 3, 3, key=number))
    same_state(elastic, plain, before, 2)


@pytest.mark.parametrize("momentum", [0.1, None])
def test_ghosts_of_the_first_channels(momentum: float | None) -> None:
    elastic, plain = pair(3)
    before = {key: value.clone() for key, value in elastic.state_dict().items()}
    both = nn.Sequential(elastic, plain)
    assert use_ghost_batch_norm(both, 2) == 2
    ghost, own = both
    assert isinstance(ghost, GhostBatchNorm2d)
    assert isinstance(own, GhostBatchNorm2d)
    ghost.momentum = own.momentum = momentum
    for number in range(2):
        x = drawn(5, 3, 3, 3, key=number)
        torch.testing.assert_close(ghost.train()(x), own.train()(x))
        torch.testing.assert_close(ghost.eval()(x), own.eval()(x))
    same_state(ghost, own, before, 3)


# Sizes and their gates.


def test_sizes_are_values_from_small_to_large() -> None:
    kernel = sizes("kernel", "kernel", (3, 5, 7), "k")
    assert kernel.choice is not None
    assert [o.name for o in kernel.choice.options] == ["k3", "k5", "k7"]
    assert (kernel.choice.kind, kernel.choice.dimension) == ("nested", "kernel")
    assert kernel.of({"kernel": Gate((1,))}) == 5
    assert kernel.kept({"kernel": (2, 0)}) == (3, 7)
    fixed = sizes("kernel", "kernel", (3,), "k")
    assert fixed == Sizes((3,))
    assert (fixed.of({}), fixed.kept({})) == (3, (3,))


@pytest.mark.parametrize("values", [(), (5, 3), (3, 3), (0, 3), (-1,)])
def test_sizes_that_cannot_be(values: Sequence[int]) -> None:
    with pytest.raises(InputError, match=r"the values of depth are .*: expected numbers above 0 from small to large"):
        sizes("depth", "depth", values, "d")


@pytest.mark.parametrize(
    "gate", [Gate((0, 1)), Gate(()), Gate((0,), torch.ones(1)), Gate((0,), None, torch.ones(()))], ids=str
)
def test_a_gate_of_a_size_runs_one_option_as_it_is(gate: Gate) -> None:
    kernel = sizes("kernel", "kernel", (3, 5), "k")
    assert kernel.choice is not None
    with pytest.raises(InputError, match="kernel is a size, and a network has one at a time"):
        sole(kernel.choice, gate)


def test_channels_are_multiples() -> None:
    for channels, nearest in ((1, 8), (11, 16), (12, 16), (19.2, 24), (20, 24), (26, 24), (96, 96), (15.6, 16)):
        assert divisible(channels) == nearest
        assert divisible(channels) >= 0.9 * channels
    assert [divisible(c, 4) for c in (1, 6, 10)] == [4, 8, 12]
