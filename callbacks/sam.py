"""Sharpness-aware minimisation: the gradient is taken where the loss is highest nearby.

Foret et al. 2021, equations 2 and 3; the adaptive variant is ASAM, Kwon et al. 2021, equation 6.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from nastricks.errors import InputError
from nastricks.modules.trick import Change, Compute, Trick
from nastricks.moment import Moment

if TYPE_CHECKING:
    from nastricks.modules import TrainingModule

ADAPTIVE_FLOOR = 0.01  # ASAM's eta: keeps weights near zero movable


def ascent(weights: Sequence[Tensor], gradients: Sequence[Tensor], rho: float, adaptive: bool) -> list[Tensor]:
    """The step to the highest loss within `rho`: rho * g / |g|, or rho * T^2 g / |T g| with T = |w| + 0.01.

    Nothing waits for the device; a zero gradient gives a zero step.
    """
    scaled = list(gradients)
    if adaptive:
        scales = torch._foreach_abs(list(weights))
        torch._foreach_add_(scales, ADAPTIVE_FLOOR)
        scaled = list(torch._foreach_mul(scaled, scales))
    norm = torch.stack(torch._foreach_norm(scaled)).norm()
    factor = torch.where(norm > 0, rho / norm, torch.zeros_like(norm))
    steps = list(torch._foreach_mul(scaled, factor))
    return list(torch._foreach_mul(steps, scales)) if adaptive else steps


class SAM(Trick):
    """Steps with the gradient at w + ascent(w), from the original w.

    The second pass sees the same batch, mix, path and drops, and leaves the BN statistics alone, so that they are
    counted once. Clipping comes after it, once. It costs two passes.

    Args:
        rho: Radius, at least 0; None takes 0.05, or 2.0 where adaptive, as in the papers.
        adaptive: Scale the radius by the weights (ASAM).

    Raises:
        InputError: `rho` is below 0.
    """

    changes: ClassVar[Change] = "gradients"
    order = 90
    neutral = {"rho": 0.0}

    def __init__(self, rho: float | None = None, adaptive: bool = False) -> None:
        super().__init__()
        if rho is not None and not 0 <= rho < float("inf"):
            raise InputError(f"sam.rho is {rho}: expected at least 0, such as 0.05")
        self.rho = (2.0 if adaptive else 0.05) if rho is None else rho
        self.adaptive = adaptive

    def around_gradients(self, compute: Compute, module: "TrainingModule", at: Moment) -> Compute:
        def sharpness_aware() -> Tensor:
            loss = compute()
            moved: list[Tensor] = [p for p in module.networks.parameters() if p.grad is not None]
            gradients = [p.grad for p in moved if p.grad is not None]
            with torch.no_grad():
                original = [p.detach().clone() for p in moved]
                steps = ascent(moved, gradients, self.rho, self.adaptive)
                torch._foreach_add_(moved, steps)
            with module.frozen_statistics():
                compute()
            with torch.no_grad():
                torch._foreach_copy_(moved, original)
            self.act()
            return loss

        return sharpness_aware
