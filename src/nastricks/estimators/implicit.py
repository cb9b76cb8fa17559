"""The implicit gradient: alpha moves the weights' optimum, and that moves the search loss.

Where the weights stand at an optimum w*(alpha) of the training loss, the implicit function theorem gives

    dL_search/d alpha - d2 L_train/(d alpha dw) [d2 L_train/dw2]^-1 dL_search/dw

The inverse is applied by a Neumann series (Lorraine et al. 2020, "Optimizing Millions of Hyperparameters by Implicit
Differentiation", algorithm 3) or by conjugate gradients (Pedregosa 2016, "Hyperparameter optimization with approximate
gradient"; Rajeswaran et al. 2019, iMAML, section 3).
"""

import math
from collections.abc import Callable, Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor

from nastricks.errors import InputError
from nastricks.estimators.base import Estimator, Step, gradients
from nastricks.policies import Policy

Vector = list[Tensor]
"""A tensor a weight."""
Apply = Callable[[Vector], Vector]
"""A symmetric matrix over all weights, as what it does to a vector."""


def inner(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """The inner product () of two vectors."""
    return torch.stack([(x * y).sum() for x, y in zip(a, b, strict=True)]).sum()


def plus(a: Vector, b: Vector, scale: float = 1.0) -> Vector:
    """a + scale b."""
    return list(torch._foreach_add(a, b, alpha=scale))


def neumann(apply: Apply, b: Vector, terms: int, step_size: float) -> Vector:
    """step_size * sum over i < terms of (I - step_size H)^i b, which goes to H^-1 b where |I - step_size H| < 1.

    That is 0 < step_size * eigenvalue < 2 for each eigenvalue of H. With few terms it is what differentiation through
    as many steps of gradient descent at that rate would give, whatever H is.

    Args:
        apply: H.
        b: What H^-1 is applied to.
        terms: At least 1; one product with H each but the first.
        step_size: Above 0.
    """
    term, total = list(b), list(b)
    for _ in range(terms - 1):
        term = plus(term, apply(term), -step_size)
        total = plus(total, term)
    return list(torch._foreach_mul(total, step_size))


def conjugate_gradient(apply: Apply, b: Vector, iterations: int, tolerance: float = 1e-6) -> Vector:
    """H^-1 b for a positive definite H, from zero.

    It ends where the residual is at most `tolerance` times b, and before a direction along which H is not positive,
    with what it has by then: zero where that is the first one.

    Args:
        apply: H.
        b: What H^-1 is applied to.
        iterations: Most products with H, at least 1.
        tolerance: At least 0.
    """
    x, residual, direction = [torch.zeros_like(t) for t in b], list(b), list(b)
    squared = start = float(inner(residual, residual))
    for _ in range(iterations):
        if squared <= tolerance**2 * start:
            break
        image = apply(direction)
        curvature = float(inner(direction, image))
        if not curvature > 0:
            break
        length = squared / curvature
        x, residual = plus(x, direction, length), plus(residual, image, -length)
        before, squared = squared, float(inner(residual, residual))
        direction = plus(residual, direction, squared / before)
    return x


class ImplicitGradient(Estimator):
    """Gradient by alpha of the search loss at the weights' optimum, from the weights as they are.

    The training loss is that of the training batch at the gates proposed, differentiated twice; the weights do not
    move. `damping` is added to its Hessian: the optimizer's weight decay belongs there, since it is part of what the
    weights minimise, and conjugate gradients need as much as makes the sum positive definite.

    Args:
        policy: The policy to update.
        solver: `neumann` or `conjugate_gradient`.
        iterations: Terms of the series, or steps of conjugate gradients, at least 1.
        step_size: Of the series, above 0: below 2 over the Hessian's largest eigenvalue it converges.
        damping: Added to the Hessian's diagonal, at least 0.
        every: Update in every this many training steps, at least 1.
        order: Update before or after the weight step of the same batch; None is before.

    Raises:
        InputError: a value out of its range.
    """

    through_gates: ClassVar[bool] = True

    def __init__(
        self,
        policy: Policy,
        solver: Literal["neumann", "conjugate_gradient"] = "neumann",
        iterations: int = 5,
        step_size: float = 0.01,
        damping: float = 0.0,
        every: int = 1,
        order: Literal["before", "after"] | None = None,
    ) -> None:
        super().__init__(policy, every, order)
        if solver not in ("neumann", "conjugate_gradient"):
            raise InputError(f"estimator.solver is {solver!r}: expected neumann or conjugate_gradient")
        if iterations < 1:
            raise InputError(f"estimator.iterations is {iterations}: expected at least 1")
        if not 0 < step_size < math.inf:
            raise InputError(f"estimator.step_size is {step_size}: expected a number above 0, such as 0.01")
        if not 0 <= damping < math.inf:
            raise InputError(f"estimator.damping is {damping}: expected at least 0, such as the weight decay")
        self.solver, self.iterations, self.step_size, self.damping = solver, iterations, step_size, damping

    def update(self, step: Step) -> None:
        alpha = [p for p in self.policy.parameters() if p.requires_grad]
        train = torch.stack([step.loss(gates, step.train) for gates in step.propose()]).sum()
        slopes = torch.autograd.grad(train, step.weights, create_graph=True, allow_unused=True)
        weights = [w for w, slope in zip(step.weights, slopes, strict=True) if slope is not None]
        slopes_used = [slope for slope in slopes if slope is not None]

        def apply(vector: Vector) -> Vector:
            found = torch.autograd.grad(slopes_used, weights, vector, retain_graph=True, allow_unused=True)
            product = [torch.zeros_like(w) if f is None else f for w, f in zip(weights, found, strict=True)]
            return plus(step.average(product), vector, self.damping)

        search = torch.stack([step.objective(gates) for gates in step.propose()]).sum()
        found = gradients(search, [*alpha, *weights])
        direct, b = found[: len(alpha)], step.average(found[len(alpha) :])
        if self.solver == "neumann":
            solved = neumann(apply, b, self.iterations, self.step_size)
        else:
            solved = conjugate_gradient(apply, b, self.iterations)
        if not math.isfinite(float(inner(solved, solved))):
            raise InputError(
                f"the implicit gradient is not finite: lower estimator.step_size ({self.step_size}), or take fewer "
                f"estimator.iterations ({self.iterations})"
            )
        implied = torch.autograd.grad(slopes_used, alpha, solved, allow_unused=True)
        total = [d if i is None else d - i for d, i in zip(direct, implied, strict=True)]
        self.give(step, alpha, total)
