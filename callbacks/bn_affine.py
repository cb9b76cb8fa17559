"""Learnable scale and shift of the batch norms in a choice's operations, on or off.

DARTS (Liu et al. 2019, appendix A.1.1) switches them off while it searches, because they rescale the outputs of the
operations that alpha is to compare; its child has them.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import nn

from nastricks.modules.normalisation import BatchNorm, batch_norms
from nastricks.modules.trick import Change, Trick
from nastricks.spaces import GatedOps

if TYPE_CHECKING:
    from nastricks.modules import TrainingModule


def operations_norms(networks: nn.Module) -> list[BatchNorm]:
    """The batch norms inside the operations of choices; those of stems, alignments and heads are not among them."""
    return [norm for m in networks.modules() if isinstance(m, GatedOps) for norm in batch_norms(m)]


def set_affine(norms: Iterable[BatchNorm], affine: bool) -> int:
    """Give batch norms a scale of 1 and a shift of 0 to learn, or take both away; returns how many changed.

    Statistics stay. A norm that is that way already keeps the Parameters it has.
    """
    changed = 0
    for norm in norms:
        if norm.affine == affine:
            continue
        norm.affine = affine
        like = norm.running_mean
        assert like is not None, "only norms that keep statistics are given"
        norm.register_parameter("weight", nn.Parameter(torch.ones_like(like)) if affine else None)
        norm.register_parameter("bias", nn.Parameter(torch.zeros_like(like)) if affine else None)
        changed += 1
    return changed


class BNAffine(Trick):
    """Makes every batch norm in the operations of choices learn a scale and a shift, or none of them.

    Args:
        affine: Whether they learn them.
    """

    changes: ClassVar[Change] = "network"
    order = -10  # after partial_channels, which makes the operations anew

    def __init__(self, affine: bool = False) -> None:
        super().__init__()
        self.affine = affine

    def refusal(self, module: "TrainingModule") -> str | None:
        norms = operations_norms(module.networks)
        if not norms:
            return f"trick bn_affine needs a batch norm in an operation, and {module.space.name} has none: leave it out"
        if self.name not in module.operated and all(norm.affine == self.affine for norm in norms):
            has = "learn a scale and a shift" if self.affine else "learn no scale and shift"
            return f"bn_affine.affine is {str(self.affine).lower()}, and the operations {has} already: leave it out"
        if self.affine and module.starts_from is not None:
            return (
                f"bn_affine.affine is true, and the run starts from the weights of {module.starts_from}: a scale that "
                "they hold would be lost; set it in the space, or start from scratch"
            )
        return super().refusal(module)

    def surgery(self, module: "TrainingModule") -> None:
        set_affine(operations_norms(module.networks), self.affine)
        self.act()
