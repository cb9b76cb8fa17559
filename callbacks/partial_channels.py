"""Partial channels: only a part of the channels passes through a choice's operations.

PC-DARTS (Xu et al. 2020, "PC-DARTS: Partial Channel Connections for Memory-Efficient Architecture Search", equation 2):
1/4 of the channels pass the operations, the others pass by, and all are shuffled.
"""

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import nn

from nastricks.errors import InputError
from nastricks.modules.normalisation import BatchNorm
from nastricks.modules.trick import Change, Need, Trick
from nastricks.rng import forked_rng
from nastricks.spaces import GatedOps

if TYPE_CHECKING:
    from nastricks.modules import TrainingModule


def mixed_operations(networks: nn.Module) -> list[GatedOps]:
    """The operations of every choice, in every place of the networks where it stands."""
    return [module for module in networks.modules() if isinstance(module, GatedOps)]


def narrow(ops: GatedOps, parts: int) -> None:
    """Make operations anew for one of `parts` equal parts of their channels, with fresh weights.

    They stay on their device, in their type and mode, and batch norms keep the momentum that the space gave them.
    """
    before = list(ops.ops.modules())
    like = next(ops.parameters(), torch.zeros(()))
    ops.narrow(parts)
    for old, new in zip(before, ops.ops.modules(), strict=True):
        if isinstance(new, BatchNorm) and isinstance(old, BatchNorm):
            new.momentum, new.eps = old.momentum, old.eps
    ops.ops.to(device=like.device, dtype=like.dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
    ops.train(ops.training)


class PartialChannels(Trick):
    """Narrows the operations of every choice of a supernet to 1 / `parts` of their channels.

    Args:
        parts: At least 1; every choice's channels must be a multiple of it. 1 changes nothing.

    Raises:
        InputError: `parts` is out of its range.
    """

    changes: ClassVar[Change] = "network"
    needs: ClassVar[tuple[Need, ...]] = ("supernet",)
    order = -20  # before whatever else changes operations
    neutral = {"parts": 1}

    def __init__(self, parts: int = 4) -> None:
        super().__init__()
        if parts < 1:
            raise InputError(f"partial_channels.parts is {parts}: expected at least 1, such as 4")
        self.parts = parts

    def refusal(self, module: "TrainingModule") -> str | None:
        operations = mixed_operations(module.networks)
        if not operations:
            return f"trick partial_channels needs operations that can be narrowed, and {module.space.name} has none"
        for ops in operations:
            if ops.channels % self.parts:
                return (
                    f"partial_channels.parts is {self.parts} and {ops.choice_name} of {module.space.name} has "
                    f"{ops.channels} channels, which are no multiple of it: choose a divisor"
                )
            if self.parts > 1 and ops.outputs != ops.channels:
                return (
                    f"trick partial_channels lets channels pass beside operations, and {ops.choice_name} of "
                    f"{module.space.name} makes {ops.outputs} of {ops.channels}: leave the trick out in this space"
                )
        if self.parts > 1 and module.starts_from is not None:
            return (
                f"trick partial_channels makes the operations anew, and the run starts from the weights of "
                f"{module.starts_from}: leave one of them out"
            )
        return super().refusal(module)

    def surgery(self, module: "TrainingModule") -> None:
        if self.parts == 1:
            return
        with forked_rng(module.seed, "partial_channels"):
            for ops in mixed_operations(module.networks):
                narrow(ops, self.parts)
        self.act()
