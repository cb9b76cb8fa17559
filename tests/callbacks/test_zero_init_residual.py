"""With scales of 0 every block is its shortcut; which scales those are is told by the network's own wiring."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from nastricks import spaces
from nastricks.callbacks.zero_init_residual import ZeroInitResidual, residual_scales, start_at
from nastricks.data import ImageSpec
from nastricks.errors import InputError
from nastricks.rng import forked_rng, generator
from nastricks.run import Run
from nastricks.spaces import Elastic, ElasticStage, Gates, NASBenchMacro, Slimmable, SlimStage, Space
from nastricks.spaces.network import Segment

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
]

SPEC = ImageSpec(1, 8, 10)
ELASTIC = Elastic(
    (ElasticStage(16, 1), ElasticStage(32, 2, squeeze=True)), None, (0.5, 1.0), "network", (2, 3), (3, 5), (2, 4),
    stem_channels=8, stem_stride=1, head_channels=24, features=16,
)  # fmt: skip
RESNET = Slimmable("resnet", (SlimStage(8, 2), SlimStage(16, 2, stride=2)), widths=(0.5, 1.0))
MOBILE = Slimmable(
    "mobilenet_v2", (SlimStage(8, 2, expansion=2), SlimStage(16, 2, stride=2, expansion=3)), widths=(0.5, 1.0),
    stem_channels=8, head_channels=24,
)  # fmt: skip
# Blocks with a shortcut that keeps the shape, the stem's included.
PASSING = {
    "elastic": (ELASTIC, {"stage1_block2", "stage1_block3", "stage2_block2", "stage2_block3"}, 5),
    "resnet": (RESNET, {"stage1_block1", "stage1_block2", "stage2_block2"}, 4),
    "mobilenet_v2": (MOBILE, {"stage1_block2", "stage2_block2"}, 2),
    "nas_bench_macro": (NASBenchMacro(4, 8), {"layer2", "layer4", "layer5", "layer7", "layer8"}, 10),
}


class Seen:
    """What enters and leaves every segment."""

    def __init__(self, network: nn.Module) -> None:
        self.passed: set[str] = set()
        segments: dict[str, Segment] = dict(network.segments.items())  # type: ignore[operator, union-attr]
        for name, segment in segments.items():
            segment.register_forward_hook(self.record(name))

    def record(self, name: str) -> Callable[[nn.Module, tuple[Tensor, Gates], Tensor], None]:
        def hook(segment: nn.Module, inputs: tuple[Tensor, Gates], output: Tensor) -> None:
            if inputs[0].shape == output.shape and torch.equal(inputs[0], output):
                self.passed.add(name)

        return hook


@pytest.mark.parametrize("case", PASSING)
def test_blocks_with_a_shortcut_pass_their_input_on_and_no_other(case: str) -> None:
    space, passing, count = PASSING[case]
    with forked_rng("network"):
        network = space.supernet(SPEC)
    images = torch.randn(4, 1, 8, 8, generator=generator("images")).abs()
    everything = space.all_options()
    last = tuple(everything[choice.name][-1] for choice in space.choices)
    before = Seen(network)
    network(images, space.gates(last))
    assert before.passed == set()
    scales = residual_scales(network)
    assert len(scales) == count
    start_at(scales, 0.0)
    network(images, space.gates(last))
    assert before.passed == passing
    assert sum(bool((p == 0).all()) for n, p in network.named_parameters() if n.endswith("weight")) == len(scales)


def test_a_smaller_path_begins_as_its_shortcut_too() -> None:
    with forked_rng("network"):
        network = ELASTIC.supernet(SPEC)
    start_at(residual_scales(network), 0.0)
    seen = Seen(network)
    smallest = ELASTIC.smallest(ELASTIC.all_options())
    network(torch.randn(4, 1, 8, 8, generator=generator("images")), ELASTIC.gates(smallest))
    assert seen.passed == PASSING["elastic"][1]  # the third blocks are skipped at depth 2


def test_the_run_starts_so_and_learns_from_there(make: Callable[..., Run]) -> None:
    run = make("sandwich", {"zero_init_residual": {"scale": 0.0}}, {"trainer.max_steps": 2})
    run.fit()
    scales = residual_scales(run.module.networks)
    assert len(scales) == 3
    assert all(0 < float(scale.detach().abs().max()) < 0.5 for scale in scales)


def test_weights_of_an_earlier_run_are_not_wiped_out(make: Callable[..., Run], tmp_path: Path) -> None:
    make("sandwich", changes={"trainer.max_steps": 1}, out=tmp_path / "first").fit()
    changes = {"model.init_args.weights": str(tmp_path / "first")}
    with pytest.raises(InputError, match="weights that start from scratch, and the run starts from those of"):
        make("sandwich", {"zero_init_residual": {"scale": 0.0}}, changes).fit()


@pytest.mark.parametrize("space", [spaces.Tiny64(), spaces.WeightSharing64()], ids=lambda s: s.name)
def test_spaces_without_residuals_have_no_such_scale(space: Space) -> None:
    assert residual_scales(space.supernet(SPEC)) == []


@pytest.mark.parametrize("scale", [-0.1, 1.1])
def test_bad_scales(scale: float) -> None:
    with pytest.raises(InputError, match=r"zero_init_residual\.scale is .*: expected a number in \[0, 1\]"):
        ZeroInitResidual(scale)
