"""Batch-norm statistics: leave them alone for a pass, reset them, and recompute them for one child.

Sources: Yu & Huang 2019 (AutoSlim) and Guo et al. 2020 (SPOS, section 3.4) for the calibration of a child's statistics.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

BatchNorm = _BatchNorm


def batch_norms(module: nn.Module) -> list[_BatchNorm]:
    """The batch norms of a module that keep running statistics."""
    return [m for m in module.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]


@contextmanager
def frozen_statistics(norms: Sequence[_BatchNorm]) -> Iterator[None]:
    """In train mode, normalise by the batch but leave the running statistics as they are.

    For a second pass over the same batch [SAM], for passes that teach the policy, and for attacks.
    """
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


@contextmanager
def batch_statistics(network: nn.Module) -> Iterator[None]:
    """Eval mode in which batch norms use the statistics of each batch; modes and running statistics stay as they were.

    For gates of which the running statistics are not: a supernet without some of its options [DARTS-PT].
    """
    modes = {module: module.training for module in network.modules()}
    norms = batch_norms(network)
    network.eval()
    for norm in norms:
        norm.training = True
    try:
        with frozen_statistics(norms):
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def cumulative_statistics(norms: Sequence[_BatchNorm]) -> Iterator[None]:
    """Reset the running statistics, and average those of the passes inside the block with equal weight each.

    The modules stay in train mode inside; momentum and mode are put back after it, the new statistics stay.
    """
    before = [(norm.momentum, norm.training) for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.training = True
    try:
        yield
    finally:
        for norm, (momentum, training) in zip(norms, before, strict=True):
            norm.momentum, norm.training = momentum, training


def statistics(norms: Sequence[_BatchNorm]) -> list[Tensor]:
    """Copies of all running means and variances."""
    return [t.detach().clone() for n in norms for t in (n.running_mean, n.running_var) if t is not None]


@contextmanager
def kept_statistics(norms: Sequence[_BatchNorm]) -> Iterator[None]:
    """Put every running statistic back after the block."""
    buffers = [b for norm in norms for b in norm.buffers()]
    saved = [b.clone() for b in buffers]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in zip(buffers, saved, strict=True):
                buffer.copy_(value)


class SmoothBatchNorm(TorchFunctionMode):
    """Inside the block, batch norm is computed from sums and products, which can be differentiated any number of times.

    Torch's own can be differentiated twice, and is faster.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return (smooth_batch_norm if func is F.batch_norm else func)(*args, **(kwargs or {}))


def smooth_batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """`torch.nn.functional.batch_norm` of an input (N, C, ...), with its arguments and its effect on the statistics."""
    shape = [1, -1] + [1] * (input.dim() - 2)
    if training or running_mean is None or running_var is None:
        axes = [0, *range(2, input.dim())]
        mean = input.mean(axes)
        centred = input - mean.view(shape)
        variance = centred.square().mean(axes)
        if training and running_mean is not None and running_var is not None:
            count = input.numel() // len(mean)
            running_mean.lerp_(mean.detach(), momentum)
            running_var.lerp_(variance.detach() * (count / max(1, count - 1)), momentum)
    else:
        centred, variance = input - running_mean.view(shape), running_var
    y = centred * (variance + eps).rsqrt().view(shape)
    y = y if weight is None else y * weight.view(shape)
    return y if bias is None else y + bias.view(shape)
