"""Batch-norm statistics: leave them alone for a pass, reset them, and recompute them for one child.

Sources: Yu & Huang 2019 (AutoSlim) and Guo et al. 2020 (SPOS, section 3.4) for the calibration of a child's statistics.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeGuard

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


def feed_statistics(layers: nn.Sequential, state: Tensor) -> None:
    """What a pass of a state (N, C, H, W) through the layers does to their batch norms, when nothing reads its output.

    The layers behind the last batch norm do not run. Where a 1x1 convolution W comes before it, its statistics are
    those of W x: mean W mean(x) and variance diag(W cov(x) W^T), which take fewer multiply-adds where there are more
    images and outputs than inputs. The numbers are those of the pass to rounding.
    """
    chain = _in_order(layers)
    last = max((place for place, layer in enumerate(chain) if batch_norms(layer)), default=-1)
    for layer in chain[: max(0, last - 1)]:
        state = layer(state)
    match chain[max(0, last - 1) : last + 1]:
        case [conv, norm] if _is_pointwise(conv) and type(norm) is nn.BatchNorm2d and _moments_are_cheaper(conv, state):
            _feed_moments(conv, norm, state)
        case rest:
            for layer in rest:
                state = layer(state)


def _in_order(layers: nn.Sequential) -> list[nn.Module]:
    """The layers of a sequence, with those of the sequences inside it."""
    nested = [_in_order(layer) if type(layer) is nn.Sequential else [layer] for layer in layers]
    return [layer for part in nested for layer in part]


def _is_pointwise(conv: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Whether a layer is a 1x1 convolution of every pixel, without a bias."""
    plain = type(conv) is nn.Conv2d and conv.bias is None and conv.groups == 1 and conv.padding in ((0, 0), "valid")
    return plain and conv.kernel_size == conv.stride == (1, 1)


def _moments_are_cheaper(conv: nn.Conv2d, state: Tensor) -> bool:
    """Whether moments need fewer multiply-adds than the convolution; sums of squares want 32 bits or more."""
    exact = state.dtype in (torch.float32, torch.float64) and not torch.is_autocast_enabled(state.device.type)
    pixels, inputs, outputs = state.numel() // conv.in_channels, conv.in_channels, conv.out_channels
    return exact and pixels * inputs + inputs * outputs < pixels * outputs


def _feed_moments(conv: nn.Conv2d, norm: nn.BatchNorm2d, state: Tensor) -> None:
    """Update running statistics in train mode as torch does, from the moments of the convolution's input."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    pixels = state.permute(0, 2, 3, 1).flatten(0, 2)
    mean, weight = pixels.mean(0), conv.weight.flatten(1)
    centred = pixels - mean
    covariance = centred.T @ centred / (len(pixels) - 1)
    norm.num_batches_tracked += 1
    share = 1 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
    norm.running_mean.lerp_(weight @ mean, share)
    norm.running_var.lerp_(((weight @ covariance) * weight).sum(1), share)


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
