"""The elastic space: a subnet taken out equals its path, sizes are the published ones, every choice is nested."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nastricks.cli import main
from nastricks.data import Batch, ImageSpec
from nastricks.errors import InputError
from nastricks.modules.shared_weights import load_shared_weights
from nastricks.policies import AllOptions, GumbelHard, Sandwich, Softmax, UniformPath
from nastricks.ranking.evaluate import score_children
from nastricks.ranking.rank import picked
from nastricks.rng import generator
from nastricks.run import Run
from nastricks.spaces import Architecture, Elastic, ElasticStage, Gate, Network
from nastricks.spaces.elastic_blocks import Block
from nastricks.spaces.elastic_layers import ElasticBatchNorm2d, ElasticConv2d, ElasticDepthwise, ElasticLinear
from nastricks.spaces.sizes import divisible

Build = Callable[..., Network]
ELASTIC = (ElasticBatchNorm2d, ElasticConv2d, ElasticDepthwise, ElasticLinear)
SPEC = ImageSpec(1, 8, 10)
STAGES = (ElasticStage(16, 1), ElasticStage(32, 2, squeeze=True, hard_swish=True))


def small(**changes: Any) -> Elastic:
    settings: dict[str, Any] = {
        "stages": STAGES,
        "resolutions": (6, 8),
        "widths": (0.5, 1.0),
        "depths": (1, 2),
        "kernels": (3, 5, 7),
        "expansions": (1, 2, 3),
        "stem_channels": 8,
        "stem_stride": 1,
        "head_channels": 24,
        "features": 16,
    }
    return Elastic(**{**settings, **changes})


SPACES = {
    "learned kernels": small(),
    "cropped kernels, a width a stage": small(kernel_weights="cropped", widths_of="stage"),
    "images as they are, no choice of width": small(resolutions=None, widths=(1.0,), depths=(2,)),
}
in_every_space = pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)


def images(count: int = 6) -> Tensor:
    return torch.randn(count, SPEC.channels, SPEC.size, SPEC.size, generator=generator("images"))


def sampled(space: Elastic, count: int) -> list[Architecture]:
    rng, everything = generator("architectures"), space.all_options()
    return [space.largest(everything), space.smallest(everything), *(space.sample(rng) for _ in range(count - 2))]


# Subnets.


@in_every_space
def test_a_subnet_taken_out_equals_its_path(space: Elastic, supernet_of: Build) -> None:
    network, seen = supernet_of(space).eval(), []
    with torch.no_grad():
        for architecture in sampled(space, 24):
            child = space.extract(network, SPEC, architecture)
            assert not child.training
            assert not any(isinstance(module, ELASTIC) for module in child.modules())
            path = network(images(), space.gates(architecture))
            torch.testing.assert_close(child(images()), path, atol=1e-5, rtol=0)
            assert {k: v.shape for k, v in child.state_dict().items()} == {
                k: v.shape for k, v in space.child(SPEC, architecture).state_dict().items()
            }
            seen.append(path)
    assert any(not torch.allclose(seen[0], other, atol=1e-3) for other in seen[1:])


@in_every_space
def test_in_train_mode_a_path_moves_its_own_statistics_as_the_subnet_does(space: Elastic, supernet_of: Build) -> None:
    network = supernet_of(space).train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with torch.no_grad():
        for architecture in sampled(space, 8):
            network.load_state_dict(before)
            child = space.extract(network, SPEC, architecture)
            torch.testing.assert_close(child(images()), network(images(), space.gates(architecture)), atol=1e-5, rtol=0)
            again = space.extract(network, SPEC, architecture).state_dict()
            for key, value in child.state_dict().items():
                torch.testing.assert_close(value, again[key], atol=1e-5, rtol=0)


def test_gradients_of_a_path_are_those_of_its_subnet(supernet_of: Build) -> None:
    space = SPACES["cropped kernels, a width a stage"]
    network = supernet_of(space).double()
    for architecture in sampled(space, 4):
        network.zero_grad(set_to_none=True)
        child = space.extract(network, SPEC, architecture)
        for module in (child, network):
            gates = None if module is child else space.gates(architecture)
            module(images().double(), gates).square().sum().backward()
        gradients = {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in network.named_parameters()}
        buffers = dict(child.named_buffers())
        inside = child.weights_from({**gradients, **buffers})
        for name, parameter in child.named_parameters():
            torch.testing.assert_close(inside[name], parameter.grad, atol=1e-8, rtol=1e-8)
            # What does not run learns nothing.
            assert float(gradients[name].abs().sum()) == pytest.approx(float(parameter.grad.abs().sum()), rel=1e-9)


def test_a_smaller_supernet_starts_from_a_larger_one(supernet_of: Build) -> None:
    """As stages do: what remains of each choice, kernels that are still learned included."""
    space = SPACES["learned kernels"]
    network = supernet_of(space).eval()
    allowed = {
        name: tuple(range(len(options)))[:2] if "kernel" in name or "expansion" in name else options
        for name, options in space.all_options().items()
    }
    fewer = space.build(SPEC, {**allowed, "width": (0,), "stage2_depth": (0,)})
    load_shared_weights(fewer, {f"networks.0.{key}": value for key, value in network.state_dict().items()})
    assert sum(p.numel() for p in fewer.parameters()) < sum(p.numel() for p in network.parameters())
    rng = generator("within")
    for _ in range(8):
        picks = [int(torch.randint(len(fewer.allowed[c.name]), (), generator=rng)) for c in space.choices]
        gates = space.gates(tuple(fewer.allowed[c.name][i] for c, i in zip(space.choices, picks, strict=True)))
        with torch.no_grad():
            torch.testing.assert_close(fewer.eval()(images(), gates), network(images(), gates), atol=1e-5, rtol=0)


def test_a_subnet_that_the_network_does_not_hold_is_refused() -> None:
    space = SPACES["learned kernels"]
    smallest = space.build(SPEC, dict.fromkeys(space.all_options(), (0,)))
    with pytest.raises(InputError, match="the earlier weights do not fit at segments"):
        space.extract(smallest, SPEC, space.largest(space.all_options()))


def test_prefixes_are_shared_and_calibrated(supernet_of: Build) -> None:
    space = SPACES["cropped kernels, a width a stage"]
    network, rng = supernet_of(space), generator("batches")
    scoring, calibration = (
        [Batch(torch.randn(8, 1, 8, 8, generator=rng), torch.randint(10, (8,), generator=rng)) for _ in range(2)]
        for _ in range(2)
    )
    chosen = sampled(space, 12)
    shared = score_children(space, network, chosen, scoring, calibration)
    for architecture in chosen:
        child = space.extract(network.train(), SPEC, architecture)
        norms = [m for m in child.modules() if isinstance(m, nn.BatchNorm2d)]
        for module in norms:
            module.reset_running_stats()
            module.momentum = None
        with torch.no_grad():
            for batch in calibration:
                child(batch.images)
            logits = torch.cat([child.eval()(batch.images) for batch in scoring])
        labels = torch.cat([batch.labels for batch in scoring])
        assert shared[architecture].loss == pytest.approx(float(F.cross_entropy(logits, labels)), abs=1e-5)


@pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning")
def test_the_documented_way_of_a_subnet_out_of_a_run(make: Callable[..., Run], tmp_path: Path) -> None:
    """Taken out and calibrated, it scores as its path does in the supernet."""
    make("sandwich", changes={"trainer.max_steps": 1}, out=tmp_path / "run").fit()
    (text,) = re.findall(r"```python\n(.*?)```", Path("docs/weight_sharing.md").read_text(), re.DOTALL)
    told: dict[str, Any] = {}
    exec(text.replace("runs/bignas", str(tmp_path / "run")), told)
    space, child, run = told["space"], told["child"], told["run"]
    assert not any(isinstance(module, ELASTIC) for module in child.modules())
    batch, chosen = run.data.evaluation_batches("validation")[0], space.largest(space.all_options())
    scored = score_children(space, run.module.networks[0], [chosen], [batch], run.data.calibration_batches(10))
    with torch.no_grad():
        loss = F.cross_entropy(child(batch.images), batch.labels)
    assert scored[chosen].loss == pytest.approx(float(loss), abs=1e-5)


def test_hidden_channels_can_be_reordered(supernet_of: Build) -> None:
    """What a block says of its channels' axes: the largest network does not change when all are permuted alike."""
    space = SPACES["learned kernels"]
    network = supernet_of(space).eval()
    gates = space.gates(space.largest(space.all_options()))
    with torch.no_grad():
        before = network(images(), gates)
        blocks = [m for m in network.modules() if isinstance(m, Block)]
        for block in blocks:
            order = block.importance().argsort(descending=True)
            state = block.state_dict()
            assert {n for n, t in state.items() if len(order) in t.shape} == set(block.hidden_axes())
            for name, axis in block.hidden_axes().items():
                state[name].copy_(state[name].index_select(axis, order))
            importance = block.importance()
            assert torch.equal(importance, importance.sort(descending=True).values)
        torch.testing.assert_close(network(images(), gates), before, atol=1e-4, rtol=0)
    assert len(blocks) == 4


# Sizes.


def by_hand(kernel: int, expansion: int, depth: int, classes: int = 1000) -> int:
    """Parameters of once-for-all's MobileNetV3 with the same sizes everywhere."""
    bn = 2
    total = 3 * 16 * 9 + bn * 16 + (16 * 9 + bn * 16 + 16 * 16 + bn * 16)
    width = 16
    for outputs, squeeze in ((24, False), (40, True), (80, False), (112, True), (160, True)):
        for _ in range(depth):
            hidden = divisible(width * expansion)
            total += (width + kernel**2 + outputs) * hidden + 2 * bn * hidden + bn * outputs
            if squeeze:
                middle = divisible(hidden // 4)
                total += 2 * hidden * middle + hidden + middle
            width = outputs
    return total + 160 * 960 + bn * 960 + 960 * 1280 + 1280 * classes + classes


def test_published_sizes() -> None:
    space, spec = Elastic(), ImageSpec(3, 224, 1000)
    everything = space.all_options()
    largest, smallest = space.largest(everything), space.smallest(everything)
    assert space.cost(largest, spec).params == by_hand(7, 6, 4) == 7_664_760
    assert space.cost(smallest, spec).params == by_hand(3, 3, 2)
    assert len(space.choices) == 1 + 5 * (1 + 2 * 4)
    assert space.size == 25 * (3 * 9**4) ** 5
    assert space.rankable_size == 25 * (9**2 + 9**3 + 9**4) ** 5


@in_every_space
def test_cost_is_that_of_the_child(space: Elastic) -> None:
    costs = []
    for architecture in sampled(space, 6):
        cost = space.cost(architecture, SPEC)
        assert cost.params == sum(p.numel() for p in space.child(SPEC, architecture).parameters())
        costs.append(cost)
    assert costs[0] == max(costs)
    assert costs[1] == min(costs)


def test_operations_follow_the_resolution() -> None:
    """Without strides, all but the classifier's and the squeeze's operations grow with the square of the side."""
    stages = (ElasticStage(8, 1),)
    space = small(stages=stages, widths=(1.0,), resolutions=(4, 8))
    low, high = (space.cost(space.parse(f"r{side}_w1_d1-k3e1"), SPEC) for side in (4, 8))
    classifier = 2 * (24 * 16 + 16 * 10)
    assert low.params == high.params
    assert high.flops - classifier == 4 * (low.flops - classifier)


# Choices.


@in_every_space
def test_every_choice_is_nested_from_small_to_large(space: Elastic) -> None:
    assert {choice.kind for choice in space.choices} == {"nested"}
    dimensions = {choice.dimension for choice in space.choices}
    assert dimensions <= {"resolution", "width", "depth", "kernel", "expansion"}
    assert {"kernel", "expansion"} <= dimensions
    base = list(space.smallest(space.all_options()))
    for place, choice in enumerate(space.choices):
        if choice.dimension == "depth":
            continue  # blocks that are skipped cost nothing, so depth comes first in the others
        costs = []
        for index in range(len(choice.options)):
            picks = [len(c.options) - 1 if c.dimension == "depth" else base[p] for p, c in enumerate(space.choices)]
            picks[place] = index
            costs.append(space.cost(tuple(picks), SPEC).flops)
        assert costs == sorted(set(costs)), choice.name


def test_names_and_order_of_choices() -> None:
    names = [choice.name for choice in SPACES["learned kernels"].choices]
    block = ["kernel", "expansion"]
    own = [f"stage{s}_{rest}" for s in (1, 2) for rest in ["depth", *(f"block{b}_{x}" for b in (1, 2) for x in block)]]
    assert names == ["resolution", "width", *own]
    widths = [c.name for c in SPACES["cropped kernels, a width a stage"].choices if c.dimension == "width"]
    assert widths == ["stage1_width", "stage2_width"]


def test_policies_of_sizes() -> None:
    space = SPACES["learned kernels"]
    for policy in (UniformPath(space), Sandwich(space)):
        policy.check()
    for mixing in (Softmax(space), GumbelHard(space), AllOptions(space)):
        with pytest.raises(
            InputError, match=f"policy {type(mixing).__name__} weighs options, and resolution of elastic"
        ):
            mixing.check()


def test_gates_with_weights_are_refused(supernet_of: Build) -> None:
    space = SPACES["learned kernels"]
    network = supernet_of(space)
    gates = dict(space.gates(space.largest(space.all_options())))  # every block runs and reads its gates
    for choice in space.choices:
        with pytest.raises(InputError, match=f"{choice.name} is a size"):
            network(images(), {**gates, choice.name: Gate((0, 1))})


@pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning")
@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["-c", "recipes/algorithms/darts.yaml"], ["Softmax weighs options", "resolution of elastic is a size"]),
        (
            ["-c", "recipes/algorithms/spos.yaml", "-c", "recipes/tricks/drop_path.yaml"],
            ["drop_path", "be dropped"],
        ),
        (["-c", "recipes/algorithms/spos.yaml", "--space.init_args.kernels", "[3,4]"], ["space.kernels are [3, 4]"]),
        (["-c", "recipes/algorithms/spos.yaml", "--space.init_args.widths", "[0.9,1.0]"], ["make [16, 16] of 16"]),
    ],
    ids=["darts", "drop_path", "kernels", "widths"],
)
def test_what_cannot_train_is_refused_before(
    more: list[str], words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stack = ["-c", "recipes/spaces/elastic.yaml", "-c", "recipes/data/digits.yaml"]
    assert main(["fit", *stack, *more, "--out", str(tmp_path / "run")]) == 2
    told = capsys.readouterr().err
    assert all(word in told for word in words), told
    assert told.strip().count("\n") == 0
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"stages": ()}, "space.stages are"),
        ({"stages": (ElasticStage(8, 3),)}, "stride 1 or 2"),
        ({"stem_channels": 0}, "space.stem_channels is 0"),
        ({"features": 0}, "space.features is 0"),
        ({"stem_stride": 3}, "space.stem_stride is 3"),
        ({"kernels": (2, 4)}, "expected odd sizes"),
        ({"depths": (2, 1)}, "the values of depth are"),
        ({"expansions": ()}, "the values of expansion are"),
        ({"resolutions": (0, 8)}, "the values of resolution are"),
        ({"widths": (0.9, 1.0)}, "expected different numbers"),
        ({"kernel_weights": "croped"}, "did you mean 'cropped'"),
        ({"widths_of": "stages"}, "did you mean 'stage'"),
    ],
    ids=str,
)
def test_settings_that_cannot_be(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        small(**changes)


# Resolution and depth.


def test_the_resolution_resizes_the_images(supernet_of: Build) -> None:
    space, plain = small(), small(resolutions=None)
    network = supernet_of(space).eval()
    other = plain.supernet(SPEC).eval()
    other.load_state_dict({k: v for k, v in network.state_dict().items() if not k.startswith("segments.resize")})
    smaller = F.interpolate(images(), size=(6, 6), mode="bilinear", align_corners=False)
    rest = "w1_d2-k5e2-k3e3_d1-k7e1"
    with torch.no_grad():
        for side, given in ((6, smaller), (8, images())):
            path = network(images(), space.gates(space.parse(f"r{side}_{rest}")))
            torch.testing.assert_close(path, other(given, plain.gates(plain.parse(rest))))


def test_blocks_beyond_the_depth_are_skipped_and_not_built(supernet_of: Build) -> None:
    space = SPACES["learned kernels"]
    child = space.child(SPEC, space.parse("r8_w1_d1-k5e2_d2-k3e1-k7e3"))
    assert list(child.segments) == ["resize", "stem", "stage1_block1", "stage2_block1", "stage2_block2", "head"]
    network = supernet_of(space)
    # A first block runs at every depth, so it does not read the depth: prefixes are shared.
    assert "stage1_depth" not in network.segments["stage1_block1"].choices
    assert "stage1_depth" in network.segments["stage1_block2"].choices


def test_the_sizes_of_skipped_blocks_make_no_difference(supernet_of: Build) -> None:
    space = small(expansions=(1, 2), kernels=(3, 5))
    everything = list(space.architectures())
    assert len(everything) == space.size == 4096
    distinct = {space.canonical(a) for a in everything}
    assert len(distinct) == space.rankable_size == len(list(space.rankable())) == 1600
    assert all(space.canonical(a) == a for a in distinct)
    network, rng, tried = supernet_of(space).eval(), generator("twins"), 0
    while tried < 10:
        architecture = space.sample(rng)
        twin = space.canonical(architecture)
        if twin != architecture:
            tried += 1
            assert space.cost(architecture, SPEC) == space.cost(twin, SPEC)
            with torch.no_grad():
                paths = [network(images(), space.gates(a)) for a in (architecture, twin)]
            assert torch.equal(*paths)
    some = picked(space, "50", 0)
    assert len(set(some)) == 50
    assert all(space.canonical(a) == a for a in some)
    big = picked(Elastic(), "5", 0)
    assert len({Elastic().canonical(a) for a in big}) == 5


# Notation.


@pytest.mark.parametrize("widths_of", ["network", "stage"])
def test_every_architecture_prints_and_parses(widths_of: str) -> None:
    space = small(expansions=(1, 2), kernels=(3, 5), widths_of=widths_of)
    texts = [space.format(a) for a in space.architectures()]
    assert len(set(texts)) == space.size
    assert [space.parse(text) for text in texts] == list(space.architectures())


def test_notation() -> None:
    space = SPACES["learned kernels"]
    text = "r6_w0.5_d1-k7e1_d2-k3e3-k5e2"
    architecture = space.parse(text)
    assert space.format(architecture) == text
    assert space.canonical(architecture) == architecture
    whole = "r6_w0.5_d1-k7e1-k5e1_d2-k3e3-k5e2"  # the skipped block is not the smallest
    assert space.format(space.parse(whole)) == whole
    assert space.format(space.canonical(space.parse(whole))) == text
    by_stage = SPACES["cropped kernels, a width a stage"]
    text = "r6_d1-w0.5-k7e1_d2-w1-k3e3-k5e2"
    assert by_stage.format(by_stage.parse(text)) == text
    fixed = SPACES["images as they are, no choice of width"]
    text = "w1_d2-k7e1-k3e2_d2-k3e3-k5e2"
    assert fixed.format(fixed.parse(text)) == text
    (stem, first, second) = space.graph(architecture)
    assert (stem.source, stem.label, second.target) == ("input", "stem r6 w0.5", "output")
    assert (first.label, second.label) == ("d1 k7e1", "d2 k3e3 k5e2")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "r6",
        "r6_w0.5_d1-k7e1",
        "r7_w0.5_d1-k7e1_d2-k3e3-k5e2",
        "r6_w0.50_d1-k7e1_d2-k3e3-k5e2",
        "r6_w0.5_d3-k7e1_d2-k3e3-k5e2",
        "r6_w0.5_d1-k9e1_d2-k3e3-k5e2",
        "r6_w0.5_d1-k7_d2-k3e3-k5e2",
        "r6_w0.5_d1-k7e1_d2-k3e3",
        "r6_w0.5_d1-k7e1-k3e1_d2-k3e3-k5e2",
        "r6_w0.5_d1-k7e1_d2-k3e3-k5e2-k3e3",
        "r6_w0.5_d1-k7e1_d2-k3e3-k5e2\n",
        "R6_w0.5_d1-k7e1_d2-k3e3-k5e2",
        "r６_w0.5_d1-k7e1_d2-k3e3-k5e2",
    ],
)
def test_strings_that_do_not_parse(text: str) -> None:
    with pytest.raises(InputError, match=r"is no architecture of elastic: expected one such as 'r6_w0\.5_d"):
        SPACES["learned kernels"].parse(text)
