"""Ghost batch norm: a batch is normalised in parts, each by its own statistics.

Hoffer et al. 2017, "Train longer, generalize better", algorithm 1.
"""

import math
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nastricks.errors import InputError
from nastricks.modules.normalisation import BatchNorm
from nastricks.modules.trick import Change, Need, Trick
from nastricks.spaces.elastic_layers import ElasticBatchNorm2d

if TYPE_CHECKING:
    from nastricks.modules import TrainingModule


class GhostBatchNorm2d(ElasticBatchNorm2d):
    """Batch norm over ghosts: the batch is cut by ``torch.chunk`` into ceil(N / size) parts of nearly equal size.

    Each ghost enters the running statistics with the weight momentum / ghosts, so that one batch moves them as far as
    it does in plain batch norm. In eval mode it is plain batch norm. Where fewer channels come in than it has, the
    first ones run (`ElasticBatchNorm2d`).
    """

    size: int

    @classmethod
    def replacing(cls, norm: nn.BatchNorm2d, size: int) -> "GhostBatchNorm2d":
        """A ghost batch norm with the very Parameters and buffers of `norm`, so that its optimizer stays valid."""
        ghost = cls(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        ghost.size = size
        ghost.weight, ghost.bias = norm.weight, norm.bias
        ghost.running_mean, ghost.running_var = norm.running_mean, norm.running_var
        ghost.num_batches_tracked = norm.num_batches_tracked
        return ghost.train(norm.training)

    def forward(self, x: Tensor) -> Tensor:
        """x (N, C, H, W) -> the same shape."""
        if not self.training:
            return super().forward(x)
        parts, channels = x.chunk(max(1, math.ceil(len(x) / self.size))), x.shape[1]
        scale, shift = (None if tensor is None else tensor[:channels] for tensor in (self.weight, self.bias))
        means, variances, outputs = [], [], []
        for part in parts:
            # With momentum 1 the buffers come back as the part's own mean and unbiased variance.
            mean = torch.zeros(channels, device=x.device, dtype=self._statistics_type(x))
            variance = torch.ones_like(mean)
            outputs.append(F.batch_norm(part, mean, variance, scale, shift, True, 1.0, self.eps))
            means.append(mean)
            variances.append(variance)
        if self.track_running_stats:
            self._update(torch.stack(means).mean(0), torch.stack(variances).mean(0))
        return torch.cat(outputs)

    def _statistics_type(self, x: Tensor) -> torch.dtype:
        return torch.float32 if self.running_mean is None else self.running_mean.dtype

    @torch.no_grad()
    def _update(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        for kept, new in ((self.running_mean[: len(mean)], mean), (self.running_var[: len(mean)], variance)):
            if self.momentum is None:  # cumulative, as calibration asks for
                kept += (new - kept) / self.num_batches_tracked.to(mean.dtype)
            else:
                kept.lerp_(new, self.momentum)


def use_ghost_batch_norm(network: nn.Module, size: int) -> int:
    """Replace every plain or elastic `nn.BatchNorm2d` below `network`; returns how many there were."""
    replaced = 0
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d) and type(child) in (nn.BatchNorm2d, ElasticBatchNorm2d):
                setattr(parent, name, GhostBatchNorm2d.replacing(child, size))
                replaced += 1
    return replaced


class GhostBatchNorm(Trick):
    """Normalises every `size` samples of a training batch by their own statistics.

    Args:
        size: Samples a ghost, at least 1 and at most the batch (or micro-batch); the paper uses 128 of 4,096.

    Raises:
        InputError: `size` is out of its range.
    """

    changes: ClassVar[Change] = "normalisation statistics"
    needs: ClassVar[tuple[Need, ...]] = ("batch norm",)
    order = 10

    def __init__(self, size: int = 16) -> None:
        super().__init__()
        if size < 1:
            raise InputError(f"ghost_batch_norm.size is {size}: expected at least 1, such as 16")
        self.size = size

    def refusal(self, module: "TrainingModule") -> str | None:
        data = getattr(module.trainer, "datamodule", None)
        batch = getattr(data, "batch_size", None)
        part = None if batch is None else math.ceil(batch / module.micro_batches)
        if part is not None and self.size > part:
            return f"ghost_batch_norm.size is {self.size} and a batch has {part} samples: choose at most {part}"
        return super().refusal(module)

    def surgery(self, module: "TrainingModule") -> None:
        if use_ghost_batch_norm(module.networks, self.size) == 0:
            kinds = {type(m).__name__ for m in module.networks.modules() if isinstance(m, BatchNorm)}
            raise InputError(f"trick ghost_batch_norm replaces BatchNorm2d, and the networks have {kinds} alone")
        self.act()
