"""Scoring children: shared prefixes equal one by one, calibration equals exact moments, the network stays as it was."""

import itertools
import weakref

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nastricks.data import Batch, ImageSpec
from nastricks.modules.scoring import Score
from nastricks.ranking.evaluate import score_children
from nastricks.rng import forked_rng, generator
from nastricks.spaces import Architecture, NASBenchMacro, Network, Space, Tiny64, WeightSharing64

SPACES: dict[str, tuple[Space, ImageSpec, list[str]]] = {
    "tiny64": (Tiny64(channels=4), ImageSpec(1, 8, 5), [Tiny64().format(a) for a in Tiny64().architectures()]),
    "nas_bench_macro": (NASBenchMacro(4, 8), ImageSpec(3, 16, 5), ["00000000", "00000021", "00000022", "21200000"]),
    "weight_sharing_64": (WeightSharing64(4, 2, 6), ImageSpec(3, 8, 5), ["111", "112", "124", "231", "234", "444"]),
}
in_every_space = pytest.mark.parametrize("name", SPACES)
calibrated = pytest.mark.parametrize("count", [0, 3], ids=["running statistics", "calibrated"])


def setting(name: str) -> tuple[Space, Network, list[Architecture]]:
    space, spec, names = SPACES[name]
    with forked_rng("network", name):
        network = space.supernet(spec)
        with torch.no_grad():
            for module in network.modules():
                if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
                    module.running_mean.normal_()
                    assert module.running_var is not None
                    module.running_var.uniform_(0.5, 2.0)
    return space, network, [space.parse(text) for text in names]


def drawn(name: str, purpose: str, sizes: tuple[int, ...]) -> list[Batch]:
    spec, rng = SPACES[name][1], generator("evaluate", name, purpose)
    shape = (spec.channels, spec.size, spec.size)
    return [
        Batch(torch.randn(n, *shape, generator=rng), torch.randint(spec.classes, (n,), generator=rng)) for n in sizes
    ]


def one_by_one(
    space: Space, network: Network, architecture: Architecture, scoring: list[Batch], calibration: list[Batch]
) -> Score:
    """A child built alone and scored by its definition, with torch's own cumulative batch norms."""
    with forked_rng("child"):
        child = space.child(SPACES[space.name][1], architecture)
    whole = network.state_dict()
    child.load_state_dict({key: whole[key].clone() for key in child.state_dict()})
    with torch.no_grad():
        if calibration:
            for module in child.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.reset_running_stats()
                    module.momentum = None
            child.train()
            for batch in calibration:
                child(batch.images)
        child.eval()
        logits = torch.cat([child(b.images) for b in scoring])
        labels = torch.cat([b.labels for b in scoring])
    return Score(float((logits.argmax(1) == labels).float().mean()), float(F.cross_entropy(logits, labels)))


@in_every_space
@calibrated
def test_shared_prefixes_equal_one_by_one(name: str, count: int) -> None:
    space, network, architectures = setting(name)
    scoring = drawn(name, "scoring", (16, 7))
    calibration = drawn(name, "calibration", (8,) * count)
    shared = score_children(space, network, architectures, scoring, calibration)
    alone = score_children(space, network, architectures, scoring, calibration, share_prefixes=False)
    assert list(shared) == list(alone) == architectures
    for architecture in architectures:
        by_definition = one_by_one(space, network, architecture, scoring, calibration)
        assert shared[architecture] == pytest.approx(by_definition, abs=1e-5)
        assert alone[architecture] == pytest.approx(by_definition, abs=1e-5)
    assert len({round(score.loss, 4) for score in shared.values()}) > len(architectures) // 2


@in_every_space
@calibrated
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_the_network_is_left_as_it_was(name: str, count: int, training: bool) -> None:
    space, network, architectures = setting(name)
    network.train(training)
    next(m for m in network.modules() if isinstance(m, nn.BatchNorm2d)).train(not training)  # modes may be mixed
    state = {key: value.clone() for key, value in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    momenta = [m.momentum for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    score_children(
        space, network, architectures, drawn(name, "scoring", (16,)), drawn(name, "calibration", (8,) * count)
    )
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    assert [module.training for module in network.modules()] == modes
    assert [m.momentum for m in network.modules() if isinstance(m, nn.BatchNorm2d)] == momenta
    assert all(p.grad is None and p.requires_grad for p in network.parameters())


def test_the_network_is_put_back_after_a_failure() -> None:
    space, network, architectures = setting("tiny64")
    network.train()
    state = {key: value.clone() for key, value in network.state_dict().items()}
    too_few_channels = [Batch(torch.zeros(4, 2, 8, 8), torch.zeros(4, dtype=torch.long))]
    with pytest.raises(RuntimeError):
        score_children(
            space, network, architectures, too_few_channels, [*drawn("tiny64", "calibration", (8,)), *too_few_channels]
        )
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    assert all(module.training for module in network.modules())


def moments(batches: list[Tensor]) -> tuple[Tensor, Tensor]:
    """The equally weighted mean over batches of their mean and unbiased variance, (C,) each."""
    means = torch.stack([b.mean((0, 2, 3)) for b in batches]).mean(0)
    return means, torch.stack([b.var((0, 2, 3), unbiased=True) for b in batches]).mean(0)


def batch_normalised(x: Tensor, mean: Tensor, variance: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    columns = (t[None, :, None, None] for t in (mean, variance, norm.weight, norm.bias))
    mean, variance, weight, bias = columns
    return (x - mean) / (variance + norm.eps).sqrt() * weight + bias


@torch.no_grad()
def test_calibration_equals_exact_moments_by_hand_in_double() -> None:
    """Child 141 of tiny64: stem, max pool with BN, 2x2 pooling, identity, max pool with BN, head."""
    space, network, _ = setting("tiny64")
    network.double()
    calibration = [Batch(b.images.double(), b.labels) for b in drawn("tiny64", "calibration", (8, 8, 5))]
    (scoring,) = (Batch(b.images.double(), b.labels) for b in drawn("tiny64", "scoring", (12,)))
    state = network.segments
    stem, head = state["stem"].layers[0], state["head"].layers  # type: ignore[union-attr,index]
    norms = [stem[1], *(state[f"layer{i}"].choice.ops["max_pool_3x3"][1] for i in (1, 3))]  # type: ignore[union-attr,index]
    before = (stem[0], nn.MaxPool2d(3, 1, 1), nn.Sequential(nn.MaxPool2d(2), nn.MaxPool2d(3, 1, 1)))
    training, scored = [b.images for b in calibration], scoring.images
    for layer, norm in zip(before, norms, strict=True):
        training, scored = [layer(x) for x in training], layer(scored)
        mean, variance = moments(training)
        own = [(x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)) for x in training]
        # In train mode each batch is normalised by its own biased moments; scoring uses the calibrated ones.
        training = [batch_normalised(x, *m, norm) for x, m in zip(training, own, strict=True)]
        scored = batch_normalised(scored, mean, variance, norm)
    logits = head(scored)
    exact = Score(
        float((logits.argmax(1) == scoring.labels).double().mean()), float(F.cross_entropy(logits, scoring.labels))
    )
    seen: list[Tensor] = []
    handle = state["head"].register_forward_hook(lambda module, inputs, output: seen.append(output))
    found = score_children(space, network, [(0, 3, 0)], [scoring], calibration)[(0, 3, 0)]
    handle.remove()
    # The head runs on the calibration batches first; scores themselves are kept in single precision.
    torch.testing.assert_close(seen[-1], logits, atol=1e-12, rtol=0)
    assert found == pytest.approx(exact, abs=1e-6)
    uncalibrated = score_children(space, network, [(0, 3, 0)], [scoring])[(0, 3, 0)]
    assert abs(uncalibrated.loss - exact.loss) > 1e-3


def test_duplicates_are_scored_once_and_the_order_is_kept() -> None:
    space, network, architectures = setting("tiny64")
    counted: list[int] = []
    asked = [architectures[9], architectures[2], architectures[9], architectures[40]]
    scores = score_children(space, network, asked, drawn("tiny64", "scoring", (16,)), done=counted.append)
    assert list(scores) == [architectures[9], architectures[2], architectures[40]]
    assert sum(counted) == 3


def test_prefixes_are_run_once() -> None:
    space, network, architectures = setting("tiny64")
    runs = dict.fromkeys(network.segments, 0)
    for name, segment in network.segments.items():
        segment.register_forward_hook(lambda *_, name=name: runs.__setitem__(name, runs[name] + 1))
    score_children(space, network, architectures, drawn("tiny64", "scoring", (16,)))
    assert runs == {"stem": 1, "layer1": 4, "pool": 4, "layer2": 16, "layer3": 64, "head": 64}


def test_memory_grows_with_the_depth_and_not_with_the_children() -> None:
    """Outputs that are alive at a time: at most one of each segment for each batch, however many codes are scored."""
    space, network, _ = setting("nas_bench_macro")
    batches = drawn("nas_bench_macro", "scoring", (8,)), drawn("nas_bench_macro", "calibration", (8,))
    most = {}
    for free in (2, 4):
        outputs: list[weakref.ref[Tensor]] = []
        alive: list[int] = []

        def note(module: nn.Module, inputs: object, output: Tensor) -> None:
            outputs.append(weakref.ref(output))  # noqa: B023
            alive.append(sum(reference() is not None for reference in outputs))  # noqa: B023

        hooks = [segment.register_forward_hook(note) for segment in network.segments.values()]
        codes = [space.parse("1" * (8 - free) + "".join(rest)) for rest in itertools.product("12", repeat=free)]
        score_children(space, network, codes, *batches)
        for hook in hooks:
            hook.remove()
        assert len(outputs) > 2 * len(codes)
        most[free] = max(alive)
    assert most[2] == most[4] <= 2 * len(network.segments) + 2


def test_accuracy_and_loss_are_over_images_not_batches() -> None:
    space, network, architectures = setting("tiny64")
    scoring = drawn("tiny64", "scoring", (16, 1))
    whole = Batch(torch.cat([b.images for b in scoring]), torch.cat([b.labels for b in scoring]))
    uneven = score_children(space, network, architectures[:3], scoring)
    even = score_children(space, network, architectures[:3], [whole])
    for architecture in architectures[:3]:
        assert uneven[architecture] == pytest.approx(even[architecture], abs=1e-6)
