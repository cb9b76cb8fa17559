"""Calibration equals the exact moments of what each batch norm is fed."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nastricks.callbacks.bn_calibration import BNCalibration
from nastricks.data.batch import Batch, ImageSpec
from nastricks.errors import InputError
from nastricks.modules.normalisation import batch_norms, cumulative_statistics
from nastricks.ranking.evaluate import score_children
from nastricks.rng import forked_rng
from nastricks.run import Run
from nastricks.spaces import Network, Tiny64

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
]

SPACE = Tiny64(channels=4)
SPEC = ImageSpec(1, 8, 10)
ARCHITECTURE = SPACE.parse("123")


def supernet() -> Network:
    with forked_rng("a network of its own"):
        return SPACE.supernet(SPEC).double()


def batches(count: int, seed: int = 0) -> list[Batch]:
    rng = torch.Generator().manual_seed(seed)
    return [
        Batch(torch.randn(n, 1, 8, 8, generator=rng, dtype=torch.float64), torch.randint(10, (n,), generator=rng))
        for n in [16, 16, 9][:count]
    ]


def calibrated_by_hand(network: Network, extra: list[Batch]) -> dict[str, tuple[Tensor, Tensor]]:
    """Every active norm's mean over batches of the mean and of the unbiased variance of its input."""
    seen: dict[str, list[tuple[Tensor, Tensor]]] = {}
    hooks = []
    for name, module in network.named_modules():
        if isinstance(module, nn.BatchNorm2d):

            def hook(m: nn.Module, inputs: tuple[Tensor], name: str = name) -> None:
                x = inputs[0]
                seen.setdefault(name, []).append((x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=True)))

            hooks.append(module.register_forward_pre_hook(hook))
    network.train()
    with torch.no_grad():
        for batch in extra:
            network(batch.images, SPACE.gates(ARCHITECTURE))
    for h in hooks:
        h.remove()
    return {
        name: (torch.stack([m for m, _ in found]).mean(0), torch.stack([v for _, v in found]).mean(0))
        for name, found in seen.items()
    }


def test_cumulative_statistics_are_exact_moments() -> None:
    expected = calibrated_by_hand(supernet(), batches(3))
    assert len(expected) == 4  # the stem's and one a layer
    network = supernet()
    norms = dict(network.named_modules())
    with cumulative_statistics(batch_norms(network)), torch.no_grad():
        for batch in batches(3):
            network(batch.images, SPACE.gates(ARCHITECTURE))
    for name, (mean, variance) in expected.items():
        torch.testing.assert_close(norms[name].running_mean, mean, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(norms[name].running_var, variance, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("share_prefixes", [True, False])
def test_a_child_is_scored_with_the_exact_moments(share_prefixes: bool) -> None:
    network, scoring = supernet(), batches(2, seed=5)
    by_hand = copy.deepcopy(network)
    modules = dict(by_hand.named_modules())
    for name, (mean, variance) in calibrated_by_hand(copy.deepcopy(network), batches(3)).items():
        modules[name].running_mean.copy_(mean)  # type: ignore[operator, union-attr]
        modules[name].running_var.copy_(variance)  # type: ignore[operator, union-attr]
    by_hand.eval()
    images, labels = (torch.cat([getattr(b, key) for b in scoring]) for key in ("images", "labels"))
    with torch.no_grad():
        expected = F.cross_entropy(by_hand(images, SPACE.gates(ARCHITECTURE)), labels)
    before = copy.deepcopy(network.state_dict())
    found = score_children(SPACE, network, [ARCHITECTURE], scoring, batches(3), share_prefixes=share_prefixes)
    # scores are computed in single precision
    assert found[ARCHITECTURE].loss == pytest.approx(expected.item(), rel=1e-5)
    assert all(torch.equal(value, network.state_dict()[key]) for key, value in before.items())


def test_each_child_has_statistics_of_its_own() -> None:
    children = [ARCHITECTURE, SPACE.parse("323")]
    together = score_children(SPACE, supernet(), children, batches(2, seed=5), batches(3))
    for child in children:
        alone = score_children(SPACE, supernet(), [child], batches(2, seed=5), batches(3))
        assert together[child].loss == pytest.approx(alone[child].loss, rel=1e-6)


def test_training_is_untouched(make: Callable[..., Run]) -> None:
    ends = []
    for tricks in ({}, {"bn_calibration": {"batches": 2}}):
        run = make("spos", tricks)
        run.fit()
        ends.append(run.module.networks.state_dict())
    assert all(torch.equal(value, ends[1][key]) for key, value in ends[0].items())


def test_says_how_many_batches_and_counts() -> None:
    trick = BNCalibration(batches=7)
    assert trick.calibration().batches == 7
    assert trick.acts == 1


def test_no_batches_are_refused() -> None:
    with pytest.raises(InputError, match=r"bn_calibration.batches is 0: expected at least 1"):
        BNCalibration(batches=0)
