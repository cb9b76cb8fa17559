"""Batch norm over the images of all devices: each one normalises by the statistics of the whole batch.

Zhang et al. 2018, "Context Encoding for Semantic Segmentation" (1803.08904); torch's `nn.SyncBatchNorm`.
"""

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from nastricks.modules.normalisation import BatchNorm
from nastricks.modules.trick import Change, Need, Trick

if TYPE_CHECKING:
    from nastricks.modules import TrainingModule


class ElasticSyncBatchNorm(nn.SyncBatchNorm):
    """`nn.SyncBatchNorm` of which the first channels run where fewer come in: (N, C, H, W) -> the same shape."""

    @classmethod
    def replacing(cls, norm: BatchNorm) -> "ElasticSyncBatchNorm":
        """One with the very Parameters and buffers of `norm`, so that its optimizer stays valid."""
        made = cls(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        made.weight, made.bias = norm.weight, norm.bias
        made.running_mean, made.running_var = norm.running_mean, norm.running_var
        made.num_batches_tracked = norm.num_batches_tracked
        return made.train(norm.training)

    def forward(self, x: Tensor) -> Tensor:
        count, own = x.shape[1], self.running_mean
        assert own is not None, "only norms that keep statistics are replaced"
        if len(own) == count:
            return super().forward(x)
        # The first channels of a statistic are a view, so that torch's own forward moves them in place.
        tensors = (*self.named_parameters(), *self.named_buffers())
        first = {name: tensor if tensor.dim() == 0 else tensor[:count] for name, tensor in tensors}
        narrow: Tensor = torch.func.functional_call(self, first, (x,))
        return narrow


def use_sync_batch_norm(network: nn.Module) -> int:
    """Replace every batch norm below `network` that keeps statistics; returns how many there were."""
    replaced = 0
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, BatchNorm) and child.running_mean is not None:
                setattr(parent, name, ElasticSyncBatchNorm.replacing(child))
                replaced += 1
    return replaced


class SyncBatchNorm(Trick):
    """Normalises by the images of all devices in place of those of one. It needs several GPUs."""

    changes: ClassVar[Change] = "normalisation statistics"
    needs: ClassVar[tuple[Need, ...]] = ("batch norm",)
    order = 8  # after norm_swap, which leaves nothing to synchronise, and before ghost_batch_norm, which replaces it

    def refusal(self, module: "TrainingModule") -> str | None:
        device = module.trainer.strategy.root_device
        if device.type != "cuda":
            return (
                f"trick sync_batch_norm needs GPUs, on which alone torch synchronises batch norms, and this run is on "
                f"the {device.type}: leave it out, or take norm_swap, which does not depend on the batch"
            )
        if module.trainer.world_size < 2:
            return "trick sync_batch_norm needs several devices, and this run has one: leave it out"
        return super().refusal(module)

    def surgery(self, module: "TrainingModule") -> None:
        use_sync_batch_norm(module.networks)
        self.act()
