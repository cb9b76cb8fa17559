"""The step that the weights' optimizer would take, without taking it: the inner step of DARTS (equation 6)."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from nastricks.errors import InputError


def check_known(optimizer: Optimizer, who: str) -> None:
    """Refuse an optimizer whose step is not known here.

    Raises:
        InputError: it is not plain `torch.optim.SGD`, or it maximises.
    """
    if type(optimizer) is not torch.optim.SGD:
        raise InputError(
            f"{who} differentiates through a step of the weights, and model.optimizer is {type(optimizer).__name__}: "
            "use torch.optim.SGD, or FirstOrder"
        )
    if any(group["maximize"] for group in optimizer.param_groups):
        raise InputError(f"{who} descends, and model.optimizer.maximize is true: set it to false")


def weights_of(optimizer: Optimizer) -> list[nn.Parameter]:
    """The parameters that an optimizer moves, in its order."""
    return [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]


def sgd_step(optimizer: Optimizer, gradients: Sequence[Tensor | None]) -> tuple[list[Tensor | None], list[float]]:
    """What a step of SGD would add to each weight, and how far that follows the weight's gradient.

    Momentum, dampening, Nesterov's momentum and weight decay are those of `torch.optim.SGD`, each group with its
    present rate; the optimizer is not changed. A weight without gradient does not move, as there.

    Args:
        optimizer: An optimizer that `check_known` accepts.
        gradients: One a weight of `weights_of`; None where the loss does not use it.

    Returns:
        The moves, None where there is no gradient; and -d move / d gradient, a number a weight.
    """
    moves: list[Tensor | None] = [None] * len(gradients)
    slopes = [0.0] * len(gradients)
    first = 0
    for group in optimizer.param_groups:
        weights = [p for p in group["params"] if p.requires_grad]
        used = [i for i in range(len(weights)) if gradients[first + i] is not None]
        if used:
            given = [g for g in gradients[first : first + len(weights)] if g is not None]
            directions, shares = _directions(group, optimizer.state, [weights[i] for i in used], given)
            rate = float(group["lr"])
            for i, move, share in zip(used, torch._foreach_mul(directions, -rate), shares, strict=True):
                moves[first + i], slopes[first + i] = move, rate * share
        first += len(weights)
    return moves, slopes


def _directions(
    group: dict[str, Any], state: Any, weights: Sequence[nn.Parameter], gradients: list[Tensor]
) -> tuple[list[Tensor], list[float]]:
    """The directions of a group's step before its rate, and d direction / d gradient of each."""
    momentum, decay = group["momentum"], group["weight_decay"]
    if decay:
        gradients = list(torch._foreach_add(gradients, [w.detach() for w in weights], alpha=decay))
    if not momentum:
        return gradients, [1.0] * len(weights)
    buffers = [state[w].get("momentum_buffer") if w in state else None for w in weights]
    # A buffer's first value is the gradient itself, without dampening.
    shares = [1.0 if buffer is None else 1.0 - group["dampening"] for buffer in buffers]
    velocities = [
        gradient if buffer is None else buffer * momentum + gradient * share
        for buffer, gradient, share in zip(buffers, gradients, shares, strict=True)
    ]
    if not group["nesterov"]:
        return velocities, shares
    ahead = list(torch._foreach_add(gradients, velocities, alpha=momentum))
    return ahead, [1.0 + momentum * share for share in shares]


@contextmanager
def put_back(weights: Sequence[nn.Parameter]) -> Iterator[None]:
    """Give the weights back their very values after the block, also where it fails."""
    with torch.no_grad():
        kept = [w.detach().clone() for w in weights]
    try:
        yield
    finally:
        with torch.no_grad():
            torch._foreach_copy_(list(weights), kept)


@torch.no_grad()
def move(weights: Sequence[nn.Parameter], by: Sequence[Tensor], scale: Tensor | float = 1.0) -> None:
    """Add `scale` times a tensor to each weight, in place."""
    if isinstance(scale, Tensor):
        by, scale = torch._foreach_mul(list(by), scale), 1.0
    torch._foreach_add_(list(weights), list(by), alpha=scale)
