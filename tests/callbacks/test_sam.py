"""SAM on a quadratic, where the gradient anywhere is known."""

from collections.abc import Callable
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nastricks.callbacks.sam import SAM, ascent
from nastricks.errors import InputError
from nastricks.moment import Moment
from nastricks.run import Run

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
]

NOW = Moment(role="weights", seed=0)


class Quadratic(nn.Module):
    """0.5 w'Aw of w = (a, b), two parameters of 2 and 3 entries."""

    def __init__(self) -> None:
        super().__init__()
        root = torch.randn(5, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        self.matrix = root @ root.T
        self.a = nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
        self.b = nn.Parameter(torch.tensor([0.5, 0.0, 3.0], dtype=torch.float64))
        self.passes = 0

    @property
    def w(self) -> Tensor:
        return torch.cat([self.a, self.b])

    def compute(self) -> Tensor:
        self.passes += 1
        self.zero_grad()
        loss = self.w @ self.matrix @ self.w / 2
        loss.backward()
        return loss.detach()


def sharpness_aware(trick: SAM, function: Quadratic) -> Tensor:
    module: Any = SimpleNamespace(networks=function, frozen_statistics=nullcontext)
    return trick.around_gradients(function.compute, module, NOW)()


@pytest.mark.parametrize("rho", [0.05, 1.0])
def test_gradient_is_that_at_the_worst_point_nearby(rho: float) -> None:
    function, trick = Quadratic(), SAM(rho=rho)
    w = function.w.detach().clone()
    gradient = function.matrix @ w
    expected = function.matrix @ (w + rho * gradient / gradient.norm())
    loss = sharpness_aware(trick, function)
    assert function.a.grad is not None
    assert function.b.grad is not None
    torch.testing.assert_close(torch.cat([function.a.grad, function.b.grad]), expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(function.w, w)  # the step starts from the original weights
    torch.testing.assert_close(loss, w @ function.matrix @ w / 2)
    assert (function.passes, trick.acts) == (2, 1)


def test_adaptive_gradient_by_hand() -> None:
    function, trick = Quadratic(), SAM(adaptive=True)
    assert trick.rho == 2.0
    w = function.w.detach().clone()
    gradient = function.matrix @ w
    scale = w.abs() + 0.01
    expected = function.matrix @ (w + 2.0 * scale**2 * gradient / (scale * gradient).norm())
    sharpness_aware(trick, function)
    assert function.a.grad is not None
    assert function.b.grad is not None
    torch.testing.assert_close(torch.cat([function.a.grad, function.b.grad]), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("adaptive", [False, True])
def test_ascent_has_length_rho(adaptive: bool) -> None:
    weights = [torch.randn(4, 3), torch.randn(7)]
    steps = ascent(weights, [torch.randn(4, 3), torch.randn(7)], 0.3, adaptive)
    scaled = [s / (w.abs() + 0.01) if adaptive else s for s, w in zip(steps, weights, strict=True)]
    assert float(torch.cat([s.flatten() for s in scaled]).norm()) == pytest.approx(0.3, rel=1e-5)


@pytest.mark.parametrize("adaptive", [False, True])
def test_no_gradient_no_step(adaptive: bool) -> None:
    (step,) = ascent([torch.ones(3)], [torch.zeros(3)], 0.05, adaptive)
    assert torch.equal(step, torch.zeros(3))


def test_statistics_are_counted_once(make: Callable[..., Run]) -> None:
    counts = []
    for tricks in ({}, {"sam": {"rho": 0.05}}):
        run = make("spos", tricks)
        run.fit()
        names = [n for n in run.module.state_dict() if n.endswith("num_batches_tracked")]
        counts.append([int(run.module.state_dict()[n]) for n in names])
    assert counts[0] == counts[1]
    assert counts[0][0] == 8  # the stem sees every batch


def test_negative_radius_is_refused() -> None:
    with pytest.raises(InputError, match=r"sam.rho is -0.1: expected at least 0"):
        SAM(rho=-0.1)
