"""A batch norm of sums and products equals torch's, and has the derivatives that torch's lacks."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from nastricks.callbacks.ghost_batch_norm import GhostBatchNorm2d
from nastricks.modules.normalisation import SmoothBatchNorm, batch_norms, frozen_statistics
from nastricks.rng import generator


def drawn(*shape: int, key: object = 0) -> Tensor:
    return torch.randn(*shape, generator=generator("normalisation", key), dtype=torch.float64) * 2 + 0.5


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize(("tracked", "ghosts"), [(True, False), (False, False), (True, True)])
def test_it_equals_torchs(training: bool, affine: bool, tracked: bool, ghosts: bool) -> None:
    norm = torch.nn.BatchNorm2d(3, affine=affine, track_running_stats=tracked).double()
    if ghosts:
        norm = GhostBatchNorm2d.replacing(norm, 2)
    for tensor in (*norm.parameters(), *(b for b in norm.buffers() if b.is_floating_point())):
        tensor.data = drawn(3, key=tensor.shape).abs()
    norm.train(training)
    x, found = drawn(5, 3, 4, 4).requires_grad_(), []
    start = {key: value.clone() for key, value in norm.state_dict().items()}
    for smooth in (False, True):
        norm.load_state_dict(start)
        if smooth:
            with SmoothBatchNorm():
                y = norm(x)
        else:
            y = norm(x)
        slope = torch.autograd.grad(y.square().mul(drawn(5, 3, 4, 4, key=1)).sum(), [x, *norm.parameters()])
        found.append([y, *slope, *(b.clone() for b in norm.buffers())])
    for torchs, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, torchs, atol=1e-12, rtol=1e-10)


def test_its_third_derivative_is_exact() -> None:
    x, axis = drawn(6, 2), drawn(6, 2, key=1)

    def third(at: Tensor) -> Tensor:
        with SmoothBatchNorm():
            loss = F.batch_norm(at, None, None, training=True).pow(3).mul(axis).sum()
        for _ in range(2):
            (slope,) = torch.autograd.grad(loss, at, create_graph=True)
            loss = (slope * axis).sum()
        return loss

    assert torch.autograd.gradcheck(third, (x.requires_grad_(),))


def test_frozen_statistics_stay() -> None:
    norm = torch.nn.BatchNorm2d(3)
    with SmoothBatchNorm(), frozen_statistics(batch_norms(norm)):
        norm(drawn(5, 3, 4, 4).float())
    assert norm.running_mean is not None
    assert not bool(norm.running_mean.any())
    norm(drawn(5, 3, 4, 4).float())
    assert bool(norm.running_mean.any())
