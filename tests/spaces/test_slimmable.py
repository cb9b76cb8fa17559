"""Slimmable networks: the whole ones are the published networks, a child taken out equals its path."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import mobilenet_v2

from nastricks.data import Batch, ImageSpec
from nastricks.errors import InputError
from nastricks.policies import Sandwich, Softmax
from nastricks.ranking.evaluate import score_children
from nastricks.rng import forked_rng, generator
from nastricks.spaces import Architecture, Gate, Network, Slimmable, SlimStage
from nastricks.spaces.elastic_layers import ElasticBatchNorm2d, ElasticConv2d, ElasticDepthwise, ElasticLinear

Build = Callable[..., Network]
ELASTIC = (ElasticBatchNorm2d, ElasticConv2d, ElasticDepthwise, ElasticLinear)
SPEC = ImageSpec(3, 8, 10)
SPACES = {
    "resnet": Slimmable("resnet", (SlimStage(8, 2), SlimStage(16, 1, stride=2)), widths=(0.5, 1.0)),
    "mobilenet_v2": Slimmable(
        "mobilenet_v2",
        (SlimStage(8, 1, expansion=1), SlimStage(16, 2, stride=2, expansion=3)),
        widths=(0.5, 0.75, 1.0),
        divisor=2,
        stem_channels=12,
        head_channels=24,
    ),
}
in_every_space = pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)


def images() -> Tensor:
    return torch.randn(6, SPEC.channels, SPEC.size, SPEC.size, generator=generator("images"))


def sampled(space: Slimmable, count: int) -> list[Architecture]:
    rng, everything = generator("architectures"), space.all_options()
    return [space.largest(everything), space.smallest(everything), *(space.sample(rng) for _ in range(count - 2))]


# Published networks.


def test_the_whole_resnet_20() -> None:
    """272,474 parameters with 1x1 shortcuts (269,722 and two of them)."""
    space = Slimmable()
    assert len(space.choices) == 3 + 9
    cost = space.cost(space.parse("4" * 12), ImageSpec(3, 32, 10))
    shortcuts = 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64
    assert cost.params == 269_722 + shortcuts == 272_474


def test_the_whole_mobilenet_v2_is_torchvisions() -> None:
    space, spec = Slimmable("mobilenet_v2", stem_stride=2), ImageSpec(3, 224, 1000)
    assert len(space.choices) == 1 + 7 + 16 + 1
    cost = space.cost(space.largest(space.all_options()), spec)
    with torch.device("meta"):
        published = mobilenet_v2().eval()
        with FlopCounterMode(display=False) as counter:
            published(torch.empty(1, 3, 224, 224))
    assert cost.params == sum(p.numel() for p in published.parameters()) == 3_504_872
    assert cost.flops == counter.get_total_flops()


def test_the_whole_mobilenet_v2_computes_what_torchvisions_does() -> None:
    """With its weights in the order in which both hold them."""
    space, spec = Slimmable("mobilenet_v2", stem_stride=2), ImageSpec(3, 32, 7)
    with forked_rng("published"):
        published = mobilenet_v2(num_classes=7).eval()
    child = space.child(spec, space.largest(space.all_options())).eval()
    theirs, own = list(published.state_dict().values()), child.state_dict()
    assert [t.shape for t in theirs] == [t.shape for t in own.values()]
    child.load_state_dict(dict(zip(own, theirs, strict=True)))
    x = torch.randn(2, 3, 32, 32, generator=generator("x"))
    with torch.no_grad():
        torch.testing.assert_close(child(x), published(x))


def test_a_resnet_by_hand(supernet_of: Build) -> None:
    """One block of each kind, in eval mode."""
    space = SPACES["resnet"]
    network = space.extract(supernet_of(space, SPEC).eval(), SPEC, space.parse("2" * len(space.choices)))
    state = network.state_dict()

    def normed(x: Tensor, name: str) -> Tensor:
        statistics = [state[f"segments.{name}.{key}"] for key in ("running_mean", "running_var", "weight", "bias")]
        return F.batch_norm(x, *statistics)

    def convolved(x: Tensor, name: str, padding: int = 1, stride: int = 1) -> Tensor:
        return F.conv2d(x, state[f"segments.{name}.weight"], None, stride, padding)

    x = F.relu(normed(convolved(images(), "stem.conv"), "stem.norm"))
    for name, stride in (("stage1_block1", 1), ("stage1_block2", 1), ("stage2_block1", 2)):
        y = F.relu(normed(convolved(x, f"{name}.first", 1, stride), f"{name}.first_norm"))
        y = normed(convolved(y, f"{name}.second"), f"{name}.second_norm")
        if stride == 2:
            x = normed(convolved(x, f"{name}.shortcut", 0, 2), f"{name}.shortcut_norm")
        x = F.relu(x + y)
    x = x.mean((2, 3)) @ state["segments.head.classifier.weight"].T + state["segments.head.classifier.bias"]
    with torch.no_grad():
        torch.testing.assert_close(network(images()), x)


# Children.


@in_every_space
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_a_child_taken_out_equals_its_path(space: Slimmable, training: bool, supernet_of: Build) -> None:
    network, seen = supernet_of(space, SPEC).train(training), []
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with torch.no_grad():
        for architecture in sampled(space, 16):
            network.load_state_dict(before)
            child = space.extract(network, SPEC, architecture)
            assert not any(isinstance(module, ELASTIC) for module in child.modules())
            path = network(images(), space.gates(architecture))
            torch.testing.assert_close(child(images()), path, atol=1e-5, rtol=0)
            after = space.extract(network, SPEC, architecture).state_dict()
            for key, value in child.state_dict().items():
                torch.testing.assert_close(value, after[key], atol=1e-5, rtol=0)
            assert space.cost(architecture, SPEC).params == sum(p.numel() for p in child.parameters())
            seen.append(path)
    assert any(not torch.allclose(seen[0], other, atol=1e-3) for other in seen[1:])


@in_every_space
def test_every_width_is_a_choice_that_costs(space: Slimmable) -> None:
    smallest = space.smallest(space.all_options())
    for place, choice in enumerate(space.choices):
        assert (choice.kind, choice.dimension) == ("nested", "width")
        costs = [
            space.cost((*smallest[:place], index, *smallest[place + 1 :]), SPEC) for index in range(len(choice.options))
        ]
        assert costs == sorted(set(costs)), choice.name


def test_layers_that_are_added_share_a_width() -> None:
    names = {kind: [choice.name for choice in space.choices] for kind, space in SPACES.items()}
    assert names["resnet"] == [
        "stage1_width",
        "stage1_block1_width",
        "stage1_block2_width",
        "stage2_width",
        "stage2_block1_width",
    ]
    # The first stage has no expansion, so nothing inside its block has a width.
    assert names["mobilenet_v2"] == [
        "stem_width",
        "stage1_width",
        "stage2_width",
        "stage2_block1_width",
        "stage2_block2_width",
        "head_width",
    ]


def test_prefixes_are_shared_and_calibrated(supernet_of: Build) -> None:
    space, rng = SPACES["resnet"], generator("batches")
    network = supernet_of(space, SPEC)
    scoring, calibration = (
        [Batch(torch.randn(8, 3, 8, 8, generator=rng), torch.randint(10, (8,), generator=rng))] for _ in range(2)
    )
    chosen = sampled(space, 8)
    shared = score_children(space, network, chosen, scoring, calibration)
    alone = score_children(space, network, chosen, scoring, calibration, share_prefixes=False)
    for architecture in chosen:
        assert shared[architecture] == pytest.approx(alone[architecture], abs=1e-5)
    assert len({round(score.loss, 4) for score in shared.values()}) > 4


def test_policies_and_gates(supernet_of: Build) -> None:
    space = SPACES["resnet"]
    Sandwich(space).check()
    with pytest.raises(InputError, match="policy Softmax weighs options, and stage1_width of slimmable is a size"):
        Softmax(space).check()
    gates = {**space.gates(space.parse("22222")), "stage2_width": Gate((0, 1))}
    with pytest.raises(InputError, match="stage2_width is a size"):
        supernet_of(space, SPEC)(images(), gates)


def test_notation() -> None:
    space = SPACES["mobilenet_v2"]
    texts = [space.format(a) for a in space.architectures()]
    assert (len(set(texts)), texts[0], texts[-1]) == (3**6, "111111", "333333")
    assert [space.parse(text) for text in texts] == list(space.architectures())
    with pytest.raises(InputError, match="expected 6 digits from 1 to 3"):
        space.parse("411111")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"network": "resnett"}, "did you mean 'resnet'"),
        ({"stages": ()}, "space.stages are"),
        ({"stages": (SlimStage(8, 0),)}, "space.stages are"),
        ({"stages": (SlimStage(8, 1, stride=3),)}, "a stride of 1 or 2"),
        ({"stem_stride": 0}, "space.stem_stride is 0"),
        ({"divisor": 0}, "space.divisor is 0"),
        ({"head_channels": 0}, "space.head_channels is 0"),
        ({"widths": ()}, "the values of width are"),
        ({"widths": (1.0, 0.5)}, "the values of width are"),
        ({"widths": (0.9, 1.0)}, "expected different numbers"),
        ({"widths": tuple(i / 10 for i in range(1, 11))}, "space.widths are 10: expected at most 9"),
    ],
    ids=str,
)
def test_settings_that_cannot_be(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Slimmable(**changes)
