"""A batch norm of sums and products equals torch's, and has the derivatives that torch's lacks; statistics that are fed
alone equal those of a pass."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nastricks.callbacks.ghost_batch_norm import GhostBatchNorm2d
from nastricks.modules.normalisation import (
    SmoothBatchNorm,
    batch_norms,
    cumulative_statistics,
    feed_statistics,
    frozen_statistics,
    statistics,
)
from nastricks.rng import forked_rng, generator


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


def pointwise(inputs: int, outputs: int, norm: nn.Module | None = None, **options: object) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, **{"kernel_size": 1, "bias": False, **options})  # type: ignore[arg-type]
    return nn.Sequential(conv, nn.BatchNorm2d(outputs) if norm is None else norm)


TAIL = (nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
# Layers for four channels, and whether the last batch norm is fed from moments.
HEADS: dict[str, tuple[Callable[[], nn.Sequential], bool]] = {
    "a wide 1x1": (lambda: nn.Sequential(pointwise(4, 24), *TAIL, nn.Linear(24, 3)), True),
    "behind another": (lambda: nn.Sequential(pointwise(4, 6), nn.Sequential(nn.ReLU(), pointwise(6, 24))), True),
    "narrow": (lambda: nn.Sequential(pointwise(4, 4), *TAIL), False),
    "3x3": (lambda: nn.Sequential(pointwise(4, 24, kernel_size=3, padding=1), *TAIL), False),
    "padded": (lambda: nn.Sequential(pointwise(4, 24, padding=1), *TAIL), False),
    "stride 2": (lambda: nn.Sequential(pointwise(4, 24, stride=2), *TAIL), False),
    "groups": (lambda: nn.Sequential(pointwise(4, 24, groups=2), *TAIL), False),
    "bias": (lambda: nn.Sequential(pointwise(4, 24, bias=True), *TAIL), False),
    "ghosts": (
        lambda: nn.Sequential(pointwise(4, 24, GhostBatchNorm2d.replacing(nn.BatchNorm2d(24), 2)), *TAIL),
        False,
    ),
    "a norm alone": (lambda: nn.Sequential(nn.BatchNorm2d(4), *TAIL, nn.Linear(4, 3)), False),
    "no norm": (lambda: nn.Sequential(nn.Conv2d(4, 24, 1), *TAIL), False),
}


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_statistics_fed_alone_are_those_of_a_pass(name: str, layout: torch.memory_format) -> None:
    make, by_moments = HEADS[name]
    with forked_rng("head", name):
        fed = make().double().to(memory_format=layout)
    passed, norms, ran = copy.deepcopy(fed), batch_norms(fed), list[nn.Module]()
    with torch.no_grad(), cumulative_statistics(norms), cumulative_statistics(batch_norms(passed)):
        for layer in fed.modules():
            layer.register_forward_hook(lambda layer, inputs, output: ran.append(layer))
        for key in range(3):
            state = (drawn(8, 4, 6, 6, key=key) + 3).to(memory_format=layout)
            feed_statistics(fed, state)
            passed(state)
    for ours, torchs in zip(statistics(norms), statistics(batch_norms(passed)), strict=True):
        assert torch.allclose(ours, torchs, rtol=1e-12, atol=1e-12)
        assert bool(ours.any())
    assert all((norm in ran) != (by_moments and norm is norms[-1]) for norm in norms)
    assert not any(isinstance(layer, (nn.AdaptiveAvgPool2d, nn.Linear)) for layer in ran)


def test_a_momentum_is_followed() -> None:
    with forked_rng("head"):
        fed = pointwise(4, 24)
    passed = copy.deepcopy(fed)
    with torch.no_grad():
        for key in range(3):
            state = drawn(8, 4, 6, 6, key=key).float()
            feed_statistics(fed, state)
            passed(state)
    for ours, torchs in zip(fed[1].state_dict().values(), passed[1].state_dict().values(), strict=True):
        torch.testing.assert_close(ours, torchs)


def test_half_precision_takes_the_pass() -> None:
    with forked_rng("head"):
        fed = pointwise(4, 24)
    passed, state = copy.deepcopy(fed), drawn(8, 4, 6, 6).float() + 30
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        feed_statistics(fed, state)
        passed(state)
    for ours, torchs in zip(statistics(batch_norms(fed)), statistics(batch_norms(passed)), strict=True):
        assert torch.equal(ours, torchs)
