"""Synchronised batch norms: refused where they cannot be; the surgery; on one device they are the batch norms replaced.

That several devices agree needs GPUs, which these tests have not: it is torch's own `SyncBatchNorm`, called by views.
"""

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from nastricks.callbacks.sync_batch_norm import ElasticSyncBatchNorm, SyncBatchNorm, use_sync_batch_norm
from nastricks.modules.normalisation import BatchNorm, cumulative_statistics, frozen_statistics
from nastricks.run import Run
from nastricks.spaces.elastic_layers import ElasticBatchNorm2d

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
]

CHANNELS = 6


def norm() -> ElasticBatchNorm2d:
    made = ElasticBatchNorm2d(CHANNELS).double()
    with torch.no_grad():
        made.weight.copy_(torch.linspace(-1, 2, CHANNELS))
        made.bias.copy_(torch.linspace(3, -1, CHANNELS))
    return made


def images(channels: int, seed: int) -> Tensor:
    return 2 + torch.randn(5, channels, 3, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def outputs(made: nn.Module, norms: list[BatchNorm]) -> list[Tensor]:
    """What comes of widths in turn, in every mode that the project uses; the gradients, and the state at the end."""
    found: list[Tensor] = []

    def passes(*shapes: tuple[int, int]) -> None:
        for channels, seed in shapes:
            y = made(images(channels, seed))
            y.square().sum().backward()
            found.append(y.detach())

    passes((6, 0), (4, 1), (2, 2), (6, 3))
    with frozen_statistics(norms):
        passes((3, 10))
    with cumulative_statistics(norms):
        passes((4, 11), (4, 12))
    made.eval()
    passes((4, 13), (6, 14))
    made.train()
    gradients = [p.grad for p in made.parameters() if p.grad is not None]
    return [*found, *gradients, *made.state_dict().values()]


def test_on_one_device_it_is_the_batch_norm_that_it_replaces() -> None:
    plain, replaced = norm(), ElasticSyncBatchNorm.replacing(norm())
    for one, other in zip(outputs(plain, [plain]), outputs(replaced, [replaced]), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_parameters_and_statistics_are_kept_and_every_norm_is_replaced(make: Callable[..., Run]) -> None:
    networks = make("sandwich").module.networks
    before = {**dict(networks.named_parameters()), **dict(networks.named_buffers())}
    count = sum(isinstance(m, BatchNorm) for m in networks.modules())
    assert use_sync_batch_norm(networks) == count > 10
    norms = [m for m in networks.modules() if isinstance(m, BatchNorm)]
    assert len(norms) == count
    assert all(type(m) is ElasticSyncBatchNorm for m in norms)
    after = {**dict(networks.named_parameters()), **dict(networks.named_buffers())}
    assert after.keys() == before.keys()
    assert all(after[name] is tensor for name, tensor in before.items())


@pytest.mark.parametrize(
    ("device", "world", "words"),
    [
        ("cpu", 1, "needs GPUs, on which alone torch synchronises batch norms, and this run is on the cpu"),
        ("cpu", 2, "needs GPUs"),
        ("cuda", 1, "needs several devices, and this run has one"),
        ("cuda", 2, None),
    ],
)
def test_where_it_is_refused(make: Callable[..., Run], device: str, world: int, words: str | None) -> None:
    module = make("spos").module
    strategy = SimpleNamespace(root_device=torch.device(device))
    module.__dict__["_trainer"] = SimpleNamespace(strategy=strategy, world_size=world)
    reason = SyncBatchNorm().refusal(module)
    assert (reason is None) == (words is None)
    if words is not None:
        assert reason is not None
        assert words in reason
