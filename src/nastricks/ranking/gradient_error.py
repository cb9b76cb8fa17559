"""How far the first-order gradient by alpha is from those that know that the weights follow alpha."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from nastricks.data import TensorDataModule
from nastricks.errors import InputError
from nastricks.estimators import Estimator, FirstOrder, ImplicitGradient, SecondOrder
from nastricks.estimators.hessian import HessianProduct, dominant_eigenpair, flat
from nastricks.modules import SupernetModule
from nastricks.modules.step import TrainingStep
from nastricks.policies import Policy
from nastricks.rng import generator

TERMS = 20  # of the Neumann series
ITERATIONS = 12  # most products to find an end of the spectrum of the training loss


class Compared(NamedTuple):
    """A gradient beside the first-order one: their cosine, and how long the first-order one is in parts of it."""

    cosine: float
    length: float


class GradientError(NamedTuple):
    """What first order misses, over `batches` pairs of batches.

    `second_order` differentiates through one step of the weights at the recipe's first rate. `implicit` goes towards
    the weights' optimum: 20 terms of its Neumann series, each batch's loss damped by as much as makes it convex, since
    weights stand where it curves down too, and the series would have no end. `halves` compares the first-order
    gradients of one half of the batches with the other's, so that noise is known. Each gradient is a mean over batches.
    """

    second_order: Compared
    implicit: Compared
    halves: Compared
    batches: int


def compared(first: Tensor, other: Tensor) -> Compared:
    """Two gradients (n,); a gradient of zeros has cosine NaN with any."""
    lengths = float(first.norm()), float(other.norm())
    if not all(lengths):
        return Compared(math.nan, math.nan if not lengths[1] else 0.0)
    return Compared(float(first @ other) / (lengths[0] * lengths[1]), lengths[0] / lengths[1])


def gradient_error(module: SupernetModule, data: TensorDataModule, batches: int = 10) -> GradientError:
    """Gradients by the policy's parameters at the end of a run; nothing is trained.

    Args:
        module: A finished run's, attached to its trainer.
        data: Its data.
        batches: Pairs of a training and a search batch, at least 2.

    Raises:
        InputError: the gates have no gradient, the weights' optimizer is not known, or a split is empty.
    """
    if not (module.policy.weighted and module.policy.learns):
        raise InputError(f"the gates of {type(module.policy).__name__} have no gradient")
    optimizer = module.optimizer_maker(module.networks.parameters())
    steps = [_step(module, data, optimizer, number) for number in range(max(2, batches))]
    first = [_gradient(FirstOrder, module.policy, step) for step in steps]
    second = SecondOrder(module.policy, hessian_vector="exact")
    second.check(optimizer)
    mean = torch.stack(first).mean(0)
    half = len(first) // 2
    found = {
        "second_order": torch.stack([_gradient(lambda p: second, module.policy, step) for step in steps]).mean(0),
        "implicit": torch.stack([_gradient(_implicit(module, step), module.policy, step) for step in steps]).mean(0),
    }
    return GradientError(
        **{name: compared(mean, gradient) for name, gradient in found.items()},
        halves=compared(torch.stack(first[:half]).mean(0), torch.stack(first[half:]).mean(0)),
        batches=len(steps),
    )


def _implicit(module: SupernetModule, step: TrainingStep) -> Callable[[Policy], Estimator]:
    """An estimator whose series converges on the batch of this step."""
    lowest, highest = _spectrum(module, step)
    damping = max(0.0, -lowest)
    rate = 1.0 / max(highest + damping, 1e-12)
    return lambda policy: ImplicitGradient(policy, "neumann", iterations=TERMS, step_size=rate, damping=damping)


def _step(
    module: SupernetModule, data: TensorDataModule, optimizer: torch.optim.Optimizer, number: int
) -> TrainingStep:
    now = module.moment("weights").at(step=module.steps_seen + number)
    return TrainingStep(module, now, data.batch("train", number), weight_optimizer=optimizer)


def _gradient(make: Callable[[Policy], Estimator], policy: Policy, step: TrainingStep) -> Tensor:
    """The gradient (n,) that an estimator leaves on the policy's parameters, which are left without."""
    policy.zero_grad(set_to_none=True)
    make(policy).update(step)
    left: Sequence[Tensor] = [p.grad if p.grad is not None else torch.zeros_like(p) for p in policy.parameters()]
    found = flat(left).detach().double().cpu()
    policy.zero_grad(set_to_none=True)
    return found


def _spectrum(module: SupernetModule, step: TrainingStep) -> tuple[float, float]:
    """The lowest and the highest eigenvalue of the training loss's Hessian by the weights."""
    loss = torch.stack([step.loss(gates, step.train) for gates in step.propose()]).sum()
    weights = [p for p in module.networks.parameters() if p.requires_grad]
    product, like = HessianProduct(loss, weights), flat([w.detach() for w in weights])
    start = torch.randn(len(like), generator=generator(module.seed, "curvature")).to(like)
    lowest = -dominant_eigenpair(lambda vector: -product(vector), start, "largest", ITERATIONS).value
    return lowest, dominant_eigenpair(product, start, "largest", ITERATIONS).value
