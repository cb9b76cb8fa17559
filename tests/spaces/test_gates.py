"""Gated operations against sums by hand: weights an option, weights an option and sample, and the bypass."""

import pytest
import torch
from torch import Tensor, nn

from nastricks.data import ImageSpec
from nastricks.rng import forked_rng, generator
from nastricks.spaces import Architecture, Choice, Gate, GatedOps, Option, Tiny64, WeightSharing64


class Times(nn.Module):
    """Multiplies, and counts how often it ran."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor, self.runs = factor, 0

    def forward(self, x: Tensor) -> Tensor:
        self.runs += 1
        return self.factor * x


def gated() -> tuple[GatedOps, list[Times]]:
    ops = [Times(1.0), Times(10.0), Times(100.0)]
    choice = Choice("c", tuple(Option(n) for n in "abc"))
    return GatedOps(choice, range(3), lambda index, channels: ops[index], channels=1), ops


X = torch.arange(1.0, 9.0).view(2, 1, 2, 2)


def test_only_active_options_run() -> None:
    module, ops = gated()
    assert torch.equal(module(X, Gate(active=(1,))), 10 * X)
    assert [op.runs for op in ops] == [0, 1, 0]


def test_options_without_weights_are_added() -> None:
    module, _ = gated()
    assert torch.equal(module(X, Gate(active=(0, 2))), 101 * X)


def test_weights_belong_to_the_active_options_in_their_order() -> None:
    module, _ = gated()
    weights = torch.tensor([0.5, 0.25])
    assert torch.equal(module(X, Gate(active=(0, 2), weights=weights)), 25.5 * X)
    assert torch.equal(module(X, Gate(active=(2, 0), weights=weights)), 50.25 * X)


def test_weights_an_option_and_sample() -> None:
    module, _ = gated()
    weights = torch.tensor([[1.0, 0.0], [0.0, 2.0]])  # (active, samples)
    y = module(X, Gate(active=(0, 1), weights=weights))
    assert torch.equal(y[0], X[0])
    assert torch.equal(y[1], 20 * X[1])


@pytest.mark.parametrize(("bypass", "factors"), [(torch.tensor(2.0), (12, 12)), (torch.tensor([0.0, 1.0]), (10, 11))])
def test_the_bypass_adds_the_choices_own_input(bypass: Tensor, factors: tuple[int, int]) -> None:
    module, _ = gated()
    y = module(X, Gate(active=(1,), bypass=bypass))
    assert torch.equal(y, torch.stack([f * x for f, x in zip(factors, X, strict=True)]))


def test_a_bypass_alone_is_an_output_and_nothing_is_none() -> None:
    module, ops = gated()
    assert torch.equal(module(X, Gate(active=(), bypass=torch.tensor(3.0))), 3 * X)
    assert not any(op.runs for op in ops)
    with pytest.raises(ValueError, match="without active options"):
        module(X, Gate(active=()))


@pytest.mark.parametrize("outputs", [1, 2, 3])
def test_the_bypass_has_the_outputs_channels(outputs: int) -> None:
    ops = GatedOps(Choice("c", (Option("a"),)), (0,), lambda i, c: nn.Conv2d(c, outputs, 1), 2, outputs=outputs)
    x = torch.cat([X, -X], dim=1)
    y = ops(x, Gate(active=(), bypass=torch.tensor(3.0)))
    assert y.shape == ops(x, Gate(active=(0,))).shape
    assert torch.equal(y, 3 * torch.cat([x, torch.zeros_like(X)], dim=1)[:, :outputs])


def test_gradients_reach_the_weights_of_gates() -> None:
    module, _ = gated()
    weights = torch.tensor([0.5, 0.25], requires_grad=True)
    module(X, Gate(active=(0, 2), weights=weights)).sum().backward()
    assert weights.grad is not None
    torch.testing.assert_close(weights.grad, torch.tensor([1.0, 100.0]) * X.sum())


def test_one_hot_weights_over_all_options_equal_the_single_path() -> None:
    """In eval mode, where batch norms of idle options do not see the batch."""
    for space, spec in ((Tiny64(4), ImageSpec(1, 8, 10)), (WeightSharing64(4, 1, 6), ImageSpec(3, 8, 10))):
        with forked_rng("one-hot"):
            network = space.supernet(spec).eval()
        images = torch.randn(3, spec.channels, 8, 8, generator=generator("one-hot"))
        architecture: Architecture = (2, 1, 0)
        gates = {
            c.name: Gate(active=(0, 1, 2, 3), weights=torch.eye(4)[i])
            for c, i in zip(space.choices, architecture, strict=True)
        }
        with torch.no_grad():
            torch.testing.assert_close(network(images, gates), network(images, space.gates(architecture)))
