"""Residual blocks begin as the identity: the scale of the last normalisation of every residual branch starts at 0.

Goyal et al. 2017, "Accurate, Large Minibatch SGD" (1706.02677, section 5.1); BigNAS (Yu et al. 2020, 2003.11142) starts
its single-stage models so.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import nn

from nastricks.errors import InputError
from nastricks.modules.trick import Change, Trick

if TYPE_CHECKING:
    from nastricks.modules import TrainingModule


def residual_scales(networks: nn.Module) -> list[nn.Parameter]:
    """The scales of the last normalisations of residual branches, which modules name as their ``residual_norm``."""
    norms = (getattr(module, "residual_norm", None) for module in networks.modules())
    scales = (getattr(norm, "weight", None) for norm in norms if norm is not None)
    return [scale for scale in scales if scale is not None]


def start_at(scales: Iterable[nn.Parameter], scale: float) -> None:
    """Set every entry of them to `scale`."""
    with torch.no_grad():
        for own in scales:
            own.fill_(scale)


class ZeroInitResidual(Trick):
    """Starts the last scale of every residual branch at 0, so that each block is its shortcut at first.

    Args:
        scale: Where the scales start, in [0, 1]; 0 in the papers, 1 is where they start without the trick.

    Raises:
        InputError: `scale` is out of its range.
    """

    changes: ClassVar[Change] = "weights"
    order = 20  # after what replaces norms
    neutral = {"scale": 1.0}

    def __init__(self, scale: float = 0.0) -> None:
        super().__init__()
        if not 0 <= scale <= 1:
            raise InputError(f"zero_init_residual.scale is {scale}: expected a number in [0, 1], such as 0")
        self.scale = scale

    def refusal(self, module: "TrainingModule") -> str | None:
        if not residual_scales(module.networks):
            return (
                "trick zero_init_residual needs a residual block whose last normalisation learns a scale, and the "
                f"networks of {module.space.name} have none: leave it out"
            )
        if module.starts_from is not None:
            return (
                f"trick zero_init_residual is for weights that start from scratch, and the run starts from those of "
                f"{module.starts_from}: leave it out"
            )
        return super().refusal(module)

    def surgery(self, module: "TrainingModule") -> None:
        if self.scale != 1.0:
            start_at(residual_scales(module.networks), self.scale)
            self.act()
