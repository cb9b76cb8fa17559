"""The curvature of a loss in a few parameters: products with its Hessian, and its dominant eigenvalue.

Zela et al. 2020 (RobustDARTS, section 4) follow the largest eigenvalue of the search loss's Hessian by alpha, whose
entries their code computes one by one. Here a Hessian is only ever multiplied with vectors, by double backward
(Pearlmutter 1994).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from nastricks.errors import InputError

Product = Callable[[Tensor], Tensor]
"""A symmetric matrix (n, n) as what it does to a vector: (n,) -> (n,)."""


def flat(tensors: Sequence[Tensor]) -> Tensor:
    """All entries in one vector (n,)."""
    return torch.cat([t.reshape(-1) for t in tensors])


class HessianProduct:
    """Products with the Hessian of a loss () by some parameters, in their order; it keeps the loss's graph.

    Args:
        loss: Twice differentiable, in its graph.
        parameters: What it is differentiated by; those that have no part in it have zeros.
    """

    def __init__(self, loss: Tensor, parameters: Sequence[Tensor]) -> None:
        self.parameters = list(parameters)
        self._slope = self.flat(torch.autograd.grad(loss, self.parameters, create_graph=True, allow_unused=True))

    def __call__(self, vector: Tensor, create_graph: bool = False) -> Tensor:
        """(n,) -> (n,); with `create_graph` the product is differentiable itself."""
        if not self._slope.requires_grad:  # the loss is a plane in the parameters
            return torch.zeros_like(vector)
        settings = {"retain_graph": True, "create_graph": create_graph, "allow_unused": True}
        return self.flat(torch.autograd.grad(self._slope, self.parameters, vector, **settings))

    def flat(self, gradients: Sequence[Tensor | None]) -> Tensor:
        """Gradients by the parameters as one vector (n,); None is zero."""
        return flat([torch.zeros_like(p) if g is None else g for p, g in zip(self.parameters, gradients, strict=True)])


def dense_hessian(product: Product, like: Tensor) -> Tensor:
    """The matrix (n, n) itself, by n products; `like` (n,) says its size, type and device."""
    return torch.stack([product(row) for row in torch.eye(len(like), dtype=like.dtype, device=like.device)])


@dataclass(frozen=True)
class Eigenpair:
    """An eigenvalue, its vector (n,) of length 1, |H v - value v|, and how many products it took."""

    value: float
    vector: Tensor
    residual: float
    products: int


def dominant_eigenpair(
    product: Product,
    start: Tensor,
    which: Literal["magnitude", "largest"] = "magnitude",
    iterations: int = 40,
    tolerance: float = 1e-3,
) -> Eigenpair:
    """The eigenvalue of largest magnitude, or the largest one, by power iteration.

    As in power iteration the matrix is applied again and again to what it gave before; the eigenvalue is then read off
    the space of all vectors so far rather than off the last one (Lanczos 1950, with full orthogonalisation). That takes
    the same products and fewer of them, finds both ends of the spectrum, so that no shift is needed for a matrix whose
    largest magnitude is negative, and does not stall where two eigenvalues are close, or differ in sign alone.

    Args:
        product: The matrix.
        start: Where to start (n,), not zero; draw it, so that no eigenvector is missed.
        which: `magnitude` (its sign is kept) or `largest`.
        iterations: Most products to take, at least 1.
        tolerance: Enough where the residual is at most this part of the largest magnitude found; an eigenvalue is
            within the residual of the value then, and the error is of its square where others are far.

    Raises:
        InputError: an argument out of its range, or a product that is not finite.
    """
    if which not in ("magnitude", "largest"):
        raise InputError(f"which is {which!r}: expected magnitude or largest")
    if iterations < 1:
        raise InputError(f"iterations is {iterations}: expected at least 1")
    basis = [start / start.norm()]
    images: list[Tensor] = []
    while True:
        images.append(product(basis[-1]))
        q, image = torch.stack(basis), torch.stack(images)
        small = (q @ image.T).double().cpu()
        if not bool(small.isfinite().all()):
            raise InputError("the Hessian is not finite: the loss has diverged; lower the learning rates")
        values, vectors = torch.linalg.eigh((small + small.T) / 2)
        at = int(values.abs().argmax()) if which == "magnitude" else len(values) - 1
        value, weights = float(values[at]), vectors[:, at].to(q)
        residual = float((weights @ image - value * (weights @ q)).norm())
        enough = residual <= tolerance * float(values.abs().max())
        rest = images[-1]
        for _ in range(2):  # once leaves the rounding of the largest component behind
            rest = rest - (q @ rest) @ q
        length = float(rest.norm())
        done = length <= 10 * torch.finfo(q.dtype).eps * float(
            images[-1].norm()
        )  # nothing outside the space is reached
        if enough or done or len(images) == min(iterations, len(start)):
            vector = weights @ q
            return Eigenpair(value, vector / vector.norm(), residual, len(images))
        basis.append(rest / length)


def gradient_of_curvature(product: HessianProduct, vector: Tensor) -> Tensor:
    """d(v' H v)/d parameters (n,) for a constant vector v (n,) of length 1.

    At an eigenvector it is the gradient of its eigenvalue: that the vector moves as well adds nothing to first order.
    The loss must be differentiable three times; torch's own batch norm is not.
    """
    vector = vector.detach()
    curvature = vector @ product(vector, create_graph=True)
    if not curvature.requires_grad:  # the loss is a plane or a parabola
        return torch.zeros_like(vector)
    found = torch.autograd.grad(curvature, product.parameters, retain_graph=True, allow_unused=True)
    return product.flat(found)
