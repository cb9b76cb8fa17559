"""The second-order gradient of DARTS (Liu et al. 2019, section 2.3, xi = the weights' learning rate)."""

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from nastricks.errors import InputError
from nastricks.estimators.base import Estimator, Step, gradients
from nastricks.estimators.virtual_step import check_known, move, put_back, sgd_step, weights_of
from nastricks.policies import Policy

RADIUS = 0.01
"""Epsilon of equation 8 times the length of the vector: how far the weights are moved for finite differences."""


class SecondOrder(Estimator):
    """Gradient by alpha of the search loss after a virtual step of the weights on the training batch.

    With w' = w - s(dL_train(w, alpha)/dw) the step that SGD would take (its momentum, weight decay and present rate
    included; clipping and tricks on the gradients are not, as in the paper's code), and s' its derivative, a number a
    weight (equation 7):

        dL_search(w', alpha)/d alpha - d2 L_train(w, alpha)/(d alpha dw) [s' * dL_search(w', alpha)/dw']

    The weights move in place and get back their very values; no model is copied, and BN buffers stay as they are.

    Args:
        policy: The policy to update.
        hessian_vector: How the second term is computed: `finite_difference` of dL_train/d alpha at w +- 0.01 v/|v|
            (equation 8), or `exact`, by a second backward pass. ReLUs and maxima that switch between the two points
            are seen by the first alone.
        every: Update in every this many training steps, at least 1.
        order: Update before or after the weight step of the same batch; None is before.

    Raises:
        InputError: another word for `hessian_vector`.
    """

    through_gates: ClassVar[bool] = True

    def __init__(
        self,
        policy: Policy,
        hessian_vector: Literal["exact", "finite_difference"] = "finite_difference",
        every: int = 1,
        order: Literal["before", "after"] | None = None,
    ) -> None:
        super().__init__(policy, every, order)
        if hessian_vector not in ("exact", "finite_difference"):
            raise InputError(f"estimator.hessian_vector is {hessian_vector!r}: expected exact or finite_difference")
        self.hessian_vector = hessian_vector

    def check(self, weight_optimizer: torch.optim.Optimizer) -> None:
        check_known(weight_optimizer, type(self).__name__)

    def update(self, step: Step) -> None:
        alpha = [p for p in self.policy.parameters() if p.requires_grad]
        weights = weights_of(step.weight_optimizer)
        first = torch.autograd.grad(_train_loss(step), weights, allow_unused=True)
        used = [g is not None for g in first]
        averaged = iter(step.average([g for g in first if g is not None]))
        moves, slopes = sgd_step(step.weight_optimizer, [next(averaged) if known else None for known in used])
        moving = [(w, m, s) for w, m, s in zip(weights, moves, slopes, strict=True) if m is not None]
        moved = [w for w, _, _ in moving]
        with put_back(moved):
            move(moved, [m for _, m, _ in moving])
            loss = torch.stack([step.objective(gates) for gates in step.propose()]).sum()
            found = gradients(loss, [*alpha, *moved])
        direct, by_weights = found[: len(alpha)], step.average(found[len(alpha) :])
        vector = [g * s for g, (_, _, s) in zip(by_weights, moving, strict=True)]
        product = self._exact if self.hessian_vector == "exact" else self._finite_difference
        implied = product(step, alpha, moved, vector)
        self.give(step, alpha, [d - i for d, i in zip(direct, implied, strict=True)])

    def _exact(
        self, step: Step, alpha: Sequence[nn.Parameter], weights: Sequence[nn.Parameter], vector: Sequence[Tensor]
    ) -> list[Tensor]:
        """d2 L_train/(d alpha dw) times a vector, by double backward."""
        slopes = torch.autograd.grad(_train_loss(step), weights, create_graph=True)
        return gradients(_inner(slopes, vector), alpha)

    def _finite_difference(
        self, step: Step, alpha: Sequence[nn.Parameter], weights: Sequence[nn.Parameter], vector: Sequence[Tensor]
    ) -> list[Tensor]:
        """The same by central differences (equation 8)."""
        length = torch.stack(torch._foreach_norm(list(vector))).norm()
        # A vector of zeros gives a product of zeros, whatever it is divided by.
        epsilon = torch.where(length > 0, RADIUS / length, torch.ones_like(length))
        sides = []
        with put_back(weights):
            for scale in (epsilon, -2 * epsilon):
                move(weights, vector, scale)
                sides.append(gradients(_train_loss(step), alpha))
        return [(above - below) / (2 * epsilon) for above, below in zip(*sides, strict=True)]


def _train_loss(step: Step) -> Tensor:
    """Of the training batch, summed over sets of gates as the weights' own step sums them."""
    return torch.stack([step.loss(gates, step.train) for gates in step.propose()]).sum()


def _inner(one: Sequence[Tensor], other: Sequence[Tensor]) -> Tensor:
    return torch.stack([(a * b).sum() for a, b in zip(one, other, strict=True)]).sum()
