"""Ghost batch norm equals a loop over the parts of a batch."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from nastricks.callbacks.ghost_batch_norm import GhostBatchNorm, GhostBatchNorm2d, use_ghost_batch_norm
from nastricks.errors import InputError
from nastricks.modules.normalisation import cumulative_statistics, frozen_statistics
from nastricks.run import Run

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
]

CHANNELS = 3
SIZES = [(48, 16), (48, 20), (50, 16), (7, 16), (16, 16), (9, 2)]


def norm() -> nn.BatchNorm2d:
    made = nn.BatchNorm2d(CHANNELS).double()
    with torch.no_grad():
        made.weight.copy_(torch.tensor([0.5, 2.0, -1.0]))
        made.bias.copy_(torch.tensor([0.1, 0.0, 3.0]))
    return made


def images(n: int, seed: int = 0) -> Tensor:
    return 2 + torch.randn(n, CHANNELS, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_channel(values: Tensor) -> Tensor:
    return values[:, None, None]


def moments(x: Tensor, size: int) -> tuple[list[Tensor], Tensor, Tensor]:
    """The ghosts of a batch, and the means over ghosts of their means and unbiased variances."""
    ghosts = list(x.chunk(math.ceil(len(x) / size)))
    means = torch.stack([g.mean((0, 2, 3)) for g in ghosts])
    variances = torch.stack([g.var((0, 2, 3), unbiased=True) for g in ghosts])
    return ghosts, means.mean(0), variances.mean(0)


@pytest.mark.parametrize(("n", "size"), SIZES)
def test_equals_a_loop_over_chunks(n: int, size: int) -> None:
    plain, x = norm(), images(n)
    ghost = GhostBatchNorm2d.replacing(norm(), size)
    ghosts, mean, variance = moments(x, size)
    outputs = []
    for part in ghosts:
        centred = part - by_channel(part.mean((0, 2, 3)))
        scaled = centred / by_channel((part.var((0, 2, 3), unbiased=False) + plain.eps).sqrt())
        outputs.append(scaled * by_channel(plain.weight) + by_channel(plain.bias))
    torch.testing.assert_close(ghost(x), torch.cat(outputs), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(ghost.running_mean, 0.1 * mean, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(ghost.running_var, 0.9 + 0.1 * variance, rtol=1e-10, atol=1e-10)
    assert int(ghost.num_batches_tracked) == 1


@pytest.mark.parametrize(("n", "size"), SIZES)
def test_gradients_equal_those_of_plain_batch_norm_a_chunk(n: int, size: int) -> None:
    plain, x, y = norm(), images(n).requires_grad_(), images(n).requires_grad_()
    ghost = GhostBatchNorm2d.replacing(norm(), size)
    torch.cat([plain(part) for part in x.chunk(math.ceil(n / size))]).pow(3).sum().backward()
    ghost(y).pow(3).sum().backward()
    for a, b in ((x, y), (plain.weight, ghost.weight), (plain.bias, ghost.bias)):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-8, atol=1e-8)


def test_frozen_statistics_stay() -> None:
    ghost, x = GhostBatchNorm2d.replacing(norm(), 4), images(10)
    with frozen_statistics([ghost]):
        frozen = ghost(x)
    assert torch.equal(ghost.running_mean, torch.zeros(CHANNELS, dtype=torch.float64))  # type: ignore[arg-type]
    assert int(ghost.num_batches_tracked) == 0  # type: ignore[arg-type]
    assert torch.equal(frozen, ghost(x))


def test_cumulative_momentum_weighs_batches_equally() -> None:
    ghost = GhostBatchNorm2d.replacing(norm(), 4)
    ghost(images(8, seed=9))
    batches = [images(8, seed=s) for s in range(3)]
    with cumulative_statistics([ghost]):
        for batch in batches:
            ghost(batch)
    found = [moments(batch, 4)[1:] for batch in batches]
    mean, variance = (torch.stack(v).mean(0) for v in zip(*found, strict=True))
    torch.testing.assert_close(ghost.running_mean, mean, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(ghost.running_var, variance, rtol=1e-10, atol=1e-10)
    assert ghost.momentum == 0.1


def test_evaluation_is_plain_batch_norm() -> None:
    plain, ghost, x = norm().eval(), GhostBatchNorm2d.replacing(norm().eval(), 2), images(6)
    assert torch.equal(plain(x), ghost(x))


def test_parameters_and_buffers_are_the_same_objects() -> None:
    network = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Sequential(norm(), nn.BatchNorm2d(3, affine=False)))
    before = list(network.parameters()), list(network.buffers())
    assert use_ghost_batch_norm(network, 4) == 2
    after = list(network.parameters()), list(network.buffers())
    assert all(a is b for x, y in zip(before, after, strict=True) for a, b in zip(x, y, strict=True))
    assert use_ghost_batch_norm(network, 4) == 0  # done once


def test_every_norm_of_the_network_is_replaced(make: Callable[..., Run]) -> None:
    run = make("spos", {"ghost_batch_norm": {"size": 8}})
    run.fit()
    norms = [m for m in run.module.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    assert all(isinstance(m, GhostBatchNorm2d) and m.size == 8 for m in norms)


def test_size_zero_is_refused() -> None:
    with pytest.raises(InputError, match=r"ghost_batch_norm.size is 0: expected at least 1"):
        GhostBatchNorm(size=0)


def test_size_above_the_batch_is_refused(make: Callable[..., Run]) -> None:
    with pytest.raises(InputError, match=r"size is 33 and a batch has 32 samples: choose at most 32"):
        make("spos", {"ghost_batch_norm": {"size": 33}}).fit()


def test_size_above_the_micro_batch_is_refused(make: Callable[..., Run]) -> None:
    changes = {"model.init_args.micro_batches": 2}
    with pytest.raises(InputError, match=r"size is 17 and a batch has 16 samples"):
        make("spos", {"ghost_batch_norm": {"size": 17}}, changes).fit()
