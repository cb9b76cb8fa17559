"""The implicit gradient equals the one by the dense inverse; its solvers on matrices."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from nastricks.errors import InputError
from nastricks.estimators import FirstOrder, ImplicitGradient
from nastricks.estimators.hessian import HessianProduct, dense_hessian, flat
from nastricks.estimators.implicit import conjugate_gradient, neumann
from nastricks.policies import Softmax
from nastricks.rng import generator
from nastricks.spaces import Tiny64


def drawn(*shape: int, key: object = 0) -> Tensor:
    return torch.randn(*shape, generator=generator("implicit", key), dtype=torch.float64)


def matrix(*eigenvalues: float) -> Tensor:
    axes, _ = torch.linalg.qr(drawn(len(eigenvalues), len(eigenvalues)))
    return axes @ torch.diag(torch.tensor(eigenvalues, dtype=torch.float64)) @ axes.T


def acting(h: Tensor) -> Callable[[list[Tensor]], list[Tensor]]:
    """A matrix on vectors that come in two parts."""

    def apply(parts: list[Tensor]) -> list[Tensor]:
        image = h @ torch.cat(parts)
        return [image[:2], image[2:]]

    return apply


# Solvers.


def test_both_solvers_invert_a_positive_definite_matrix() -> None:
    h, b = matrix(0.5, 1.0, 1.5, 2.0), drawn(4, key=1)
    exact = torch.linalg.solve(h, b)
    parts = [b[:2], b[2:]]
    torch.testing.assert_close(torch.cat(conjugate_gradient(acting(h), parts, 4)), exact)
    torch.testing.assert_close(torch.cat(neumann(acting(h), parts, 120, 0.5)), exact, rtol=1e-6, atol=1e-8)
    assert not torch.allclose(torch.cat(neumann(acting(h), parts, 5, 0.5)), exact, rtol=1e-2)


@pytest.mark.parametrize("terms", [1, 2, 5])
def test_the_series_is_its_sum(terms: int) -> None:
    h, b = matrix(-0.5, 1.0, 1.5, 2.0), drawn(4, key=1)
    step = torch.eye(4, dtype=torch.float64) - 0.3 * h
    exact = 0.3 * sum((torch.linalg.matrix_power(step, i) @ b for i in range(terms)), torch.zeros(4))
    torch.testing.assert_close(torch.cat(neumann(acting(h), [b[:2], b[2:]], terms, 0.3)), exact)


def test_conjugate_gradients_stop_when_they_are_done_and_before_what_is_not_positive() -> None:
    asked = []

    def apply(parts: list[Tensor]) -> list[Tensor]:
        asked.append(parts)
        return acting(h)(parts)

    h, b = matrix(2.0, 2.0, 2.0, 2.0), drawn(4, key=1)
    torch.testing.assert_close(torch.cat(conjugate_gradient(apply, [b[:2], b[2:]], 50)), b / 2)
    assert len(asked) == 1  # in one step where all eigenvalues are the same
    h = matrix(-1.0, -2.0, -1.0, -1.0)
    assert not any(bool(part.any()) for part in conjugate_gradient(apply, [b[:2], b[2:]], 50))
    assert len(asked) == 2
    h = matrix(3.0, 2.0, 1.0, -0.1)  # indefinite: an answer to as far as it is positive
    assert all(bool(part.isfinite().all()) for part in conjugate_gradient(apply, [b[:2], b[2:]], 50))
    zeros = [torch.zeros(2), torch.zeros(2)]
    assert not any(bool(part.any()) for part in conjugate_gradient(apply, zeros, 50))


# In a supernet.


def exactly(step: Any, damping: float) -> dict[str, Tensor]:
    """By the dense Hessian of the training loss by all weights, and its inverse."""
    weights, alpha = list(step.network.parameters()), dict(step.policy.named_parameters())

    def loss(batch: Any) -> Tensor:
        return F.cross_entropy(step.network(batch.images, step.propose()[0]), batch.labels)

    hessian = dense_hessian(HessianProduct(loss(step.train), weights), flat(weights).detach())
    direct = torch.autograd.grad(loss(step.search), [*alpha.values(), *weights])
    solved = torch.linalg.solve(hessian + damping * torch.eye(len(hessian)), flat(direct[len(alpha) :]))
    slope = flat(torch.autograd.grad(loss(step.train), weights, create_graph=True))
    implied = torch.autograd.grad(slope @ solved, list(alpha.values()))
    return {name: d - i for name, d, i in zip(alpha, direct, implied, strict=False)}


def apart(found: dict[str, Tensor], exact: dict[str, Tensor]) -> float:
    assert found.keys() == exact.keys()
    scale = max(float(gradient.abs().max()) for gradient in exact.values())
    return max(float((found[key] - exact[key]).abs().max()) for key in exact) / scale


def spectrum(step: Any) -> tuple[float, float]:
    """The least and the largest eigenvalue of the training loss's Hessian by the weights."""
    weights = list(step.network.parameters())
    train = F.cross_entropy(step.network(step.train.images, step.propose()[0]), step.train.labels)
    values = torch.linalg.eigvalsh(dense_hessian(HessianProduct(train, weights), flat(weights).detach()))
    return float(values[0]), float(values[-1])


def test_both_solvers_equal_the_dense_inverse(supernet: Any) -> None:
    step = supernet.supernet_step(history=2)
    least, largest = spectrum(step)
    assert least < -1e-3 < largest  # damping is what makes it positive definite
    damping = 2 * abs(least)
    exact = exactly(step, damping)
    by_cg = ImplicitGradient(step.policy, "conjugate_gradient", iterations=300, damping=damping)
    assert apart(supernet.left_by(by_cg, step), exact) < 1e-5
    damping = largest / 4 + abs(least)
    exact, size = exactly(step, damping), 1 / (largest + damping)
    by_series = ImplicitGradient(step.policy, "neumann", iterations=100, step_size=size, damping=damping)
    assert apart(supernet.left_by(by_series, step), exact) < 1e-6
    assert apart(supernet.left_by(FirstOrder(step.policy), step), exact) > 1e-3


@pytest.mark.parametrize("solver", ["neumann", "conjugate_gradient"])
def test_ranks_solve_as_one(solver: Any, supernet: Any) -> None:
    """Two ranks with a batch each leave what one process would leave whose losses are the means of both."""
    make = partial(ImplicitGradient, solver=solver, iterations=4, step_size=0.1, damping=1.0)
    found, steps = supernet.over_ranks(make, 2, history=2)
    both = supernet.supernet_step(history=2)
    both.train, both.search = ([getattr(s, part) for s in steps] for part in ("train", "search"))

    def loss(gates: Any, batches: Any, **more: Any) -> Tensor:
        return torch.stack([F.cross_entropy(both.network(b.images, gates), b.labels) for b in batches]).mean()

    both.loss = loss
    exact = supernet.left_by(make(both.policy), both)
    for rank in found:
        assert apart(rank, exact) < 1e-10
    steps[0].ranks = None
    assert apart(supernet.left_by(make(steps[0].policy), steps[0]), exact) > 1e-2


def test_a_series_that_diverges_is_told(supernet: Any) -> None:
    step = supernet.supernet_step()
    with pytest.raises(InputError, match=r"the implicit gradient is not finite: lower estimator.step_size \(1000.0\)"):
        ImplicitGradient(step.policy, iterations=200, step_size=1000.0).update(step)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"solver": "inverse"}, "estimator.solver is 'inverse': expected neumann or conjugate_gradient"),
        ({"iterations": 0}, "estimator.iterations is 0: expected at least 1"),
        ({"step_size": 0.0}, "estimator.step_size is 0.0: expected a number above 0"),
        ({"damping": -1e-3}, "estimator.damping is -0.001: expected at least 0"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        ImplicitGradient(Softmax(Tiny64()), **settings)
