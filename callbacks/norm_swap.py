"""Another normalisation in place of batch norm: by group, by layer, by instance, or none.

Wu & He 2018, "Group Normalization" (1803.08494); Ba et al. 2016, "Layer Normalization" (1607.06450), over all channels
and pixels of an image; Ulyanov et al. 2016, "Instance Normalization" (1607.08022).
"""

import math
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nastricks.errors import InputError, unknown
from nastricks.modules.normalisation import BatchNorm
from nastricks.modules.trick import Change, Need, Trick
from nastricks.rng import forked_rng
from nastricks.spaces import Architecture, Network

if TYPE_CHECKING:
    from nastricks.modules import TrainingModule

Kind = Literal["group", "layer", "instance", "none"]
KINDS = ("group", "layer", "instance", "none")


class SampleNorm(nn.Module):
    """Normalises each image by itself, then scales and shifts: (N, C, H, W) -> the same shape, for any C up to its own.

    The channels' scales and shifts are those of the batch norm that it replaces, so its optimizer and the names in
    checkpoints stay. It keeps no running statistics, and does the same in training and evaluation.

    Args:
        norm: The batch norm to replace.
        kind: `group` takes `channels_per_group` neighbouring channels together, or their greatest common divisor with
            the number of channels; `layer` all of them; `instance` each by itself; `none` does not normalise.
        channels_per_group: At least 1.
    """

    def __init__(self, norm: BatchNorm, kind: Kind, channels_per_group: int) -> None:
        super().__init__()
        self.kind, self.channels_per_group, self.eps = kind, channels_per_group, norm.eps
        self.num_features = norm.num_features
        self.weight, self.bias = norm.weight, norm.bias
        self.train(norm.training)

    def forward(self, x: Tensor) -> Tensor:
        count = x.shape[1]
        scale, shift = (None if tensor is None else tensor[:count] for tensor in (self.weight, self.bias))
        if self.kind == "none":
            y = x if scale is None else x * scale.view(-1, 1, 1)
            return y if shift is None else y + shift.view(-1, 1, 1)
        groups = self.groups(count)
        if x[0].numel() == groups:
            raise InputError(
                f"norm_swap.kind is {self.kind}, and a feature map of {count} channels and {x.shape[2]}x{x.shape[3]} "
                "pixels leaves one number a group, which normalises to nothing: take larger groups or images"
            )
        return F.group_norm(x, groups, scale, shift, self.eps)

    def groups(self, channels: int) -> int:
        """How many parts so many channels are normalised in."""
        if self.kind == "group":
            return channels // math.gcd(channels, self.channels_per_group)
        return 1 if self.kind == "layer" else channels

    def extra_repr(self) -> str:
        return f"{self.num_features}, kind={self.kind}"


def swap_norms(network: nn.Module, kind: Kind, channels_per_group: int) -> int:
    """Replace every batch norm below `network`; returns how many there were."""
    replaced = 0
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, BatchNorm):
                setattr(parent, name, SampleNorm(child, kind, channels_per_group))
                replaced += 1
    return replaced


class NormSwap(Trick):
    """Replaces every batch norm by a normalisation that looks at one image at a time, or at none.

    Args:
        kind: ``group``, ``layer``, ``instance`` or ``none``, which keeps the scales and shifts alone.
        channels_per_group: Of ``group``, at least 1; where it does not divide a layer's channels, their greatest
            common divisor takes its place.

    Raises:
        InputError: a value is out of its range.
    """

    changes: ClassVar[Change] = "gradients"
    needs: ClassVar[tuple[Need, ...]] = ("batch norm",)
    order = -5  # after what makes operations anew, and before what needs a batch norm, which is then refused

    def __init__(self, kind: Kind = "group", channels_per_group: int = 8) -> None:
        super().__init__()
        if kind not in KINDS:
            raise unknown("norm_swap.kind", kind, KINDS)
        if channels_per_group < 1:
            raise InputError(f"norm_swap.channels_per_group is {channels_per_group}: expected at least 1, such as 8")
        self.kind, self.channels_per_group = kind, channels_per_group

    def refusal(self, module: "TrainingModule") -> str | None:
        return None if self.name in module.operated else super().refusal(module)

    def surgery(self, module: "TrainingModule") -> None:
        swap_norms(module.networks, self.kind, self.channels_per_group)
        try_smallest(module)
        self.act()


def try_smallest(module: "TrainingModule") -> None:
    """Run the smallest path on a black image, so that what cannot be normalised is refused before training.

    Raises:
        InputError: see `SampleNorm`.
    """
    network, spec = module.networks[0], module.spec
    assert isinstance(network, Network)
    path: Architecture = ()
    for _ in module.space.choices:
        odds = module.space.odds(path, network.allowed)
        if not odds:  # a group of children of which none has all of these first options
            return
        path += (min(odds),)
    like = next(network.parameters())
    image = torch.zeros(1, spec.channels, spec.size, spec.size, dtype=like.dtype, device=like.device)
    run = network if network.auxiliary is None else network.with_auxiliary
    with torch.no_grad(), forked_rng("norm_swap", device=like.device):
        run(image, module.space.gates(path))
