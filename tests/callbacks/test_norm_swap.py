"""Normalisations of one image at a time equal their definitions, for every width of an elastic layer."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from nastricks.callbacks.norm_swap import KINDS, NormSwap, SampleNorm, swap_norms
from nastricks.errors import InputError
from nastricks.modules.normalisation import BatchNorm
from nastricks.modules.run_folder import load_checkpoint
from nastricks.recipe import resolve
from nastricks.run import Run, build, load_run
from nastricks.spaces.elastic_layers import ElasticBatchNorm2d

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
]

CHANNELS = 12


def norm(affine: bool = True) -> ElasticBatchNorm2d:
    made = ElasticBatchNorm2d(CHANNELS, affine=affine).double()
    if affine:
        with torch.no_grad():
            made.weight.copy_(torch.linspace(-1, 2, CHANNELS))
            made.bias.copy_(torch.linspace(3, -1, CHANNELS))
    return made


def images(channels: int) -> Tensor:
    x = torch.randn(5, channels, 3, 4, generator=torch.Generator().manual_seed(channels), dtype=torch.float64)
    return 2 + x * torch.arange(1, channels + 1)[:, None, None]


def by_hand(x: Tensor, size: int, made: BatchNorm) -> Tensor:
    """Every `size` neighbouring channels of an image together."""
    rows = []
    for image in x:
        groups = image.split(size)
        normalised = [(g - g.mean()) / (g.var(unbiased=False) + made.eps).sqrt() for g in groups]
        rows.append(torch.cat(normalised))
    y = torch.stack(rows)
    count = x.shape[1]
    if made.weight is None:
        return y
    return y * made.weight[:count, None, None] + made.bias[:count, None, None]


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize(
    ("kind", "channels", "size"),
    [
        ("group", 12, 4),
        ("group", 8, 4),
        ("group", 6, 2),  # of six channels two, the greatest common divisor with four, go together
        ("layer", 12, 12),
        ("layer", 6, 6),
        ("instance", 12, 1),
        ("instance", 5, 1),
    ],
)
def test_it_equals_its_definition(kind: str, channels: int, size: int, affine: bool) -> None:
    made, x = norm(affine), images(channels)
    swapped = SampleNorm(made, kind, 4)  # type: ignore[arg-type]
    torch.testing.assert_close(swapped(x), by_hand(x, size, made), rtol=1e-10, atol=1e-10)


def test_none_scales_and_shifts_alone() -> None:
    made, x = norm(), images(7)
    expected = x * made.weight[:7, None, None] + made.bias[:7, None, None]
    torch.testing.assert_close(SampleNorm(made, "none", 8)(x), expected)
    assert torch.equal(SampleNorm(norm(affine=False), "none", 8)(x), x)


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_is_normalised_alike_in_any_batch_and_mode(kind: str) -> None:
    swapped, x = SampleNorm(norm(), kind, 4), images(8)  # type: ignore[arg-type]
    whole = swapped(x)
    torch.testing.assert_close(whole, torch.cat([swapped(part) for part in x.split(2)]), rtol=1e-12, atol=1e-12)
    assert torch.equal(whole, swapped.eval()(x))
    assert list(swapped.state_dict()) == ["weight", "bias"]


def test_parameters_are_kept_and_every_norm_is_replaced(make: Callable[..., Run]) -> None:
    networks = make("sandwich").module.networks
    before = dict(networks.named_parameters())
    count = sum(isinstance(m, BatchNorm) for m in networks.modules())
    assert swap_norms(networks, "group", 8) == count > 10
    assert not any(isinstance(m, BatchNorm) for m in networks.modules())
    after = dict(networks.named_parameters())
    assert after.keys() == before.keys()
    assert all(after[name] is parameter for name, parameter in before.items())
    assert swap_norms(networks, "group", 8) == 0


@pytest.mark.parametrize("kind", ["group", "layer"])
def test_one_number_a_group_is_refused_where_it_is_met(kind: str) -> None:
    swapped = SampleNorm(norm(), "instance", 8)
    with pytest.raises(InputError, match=r"12 channels and 1x1 pixels leaves one number a group"):
        swapped(images(CHANNELS)[:, :, :1, :1])
    other = SampleNorm(norm(), kind, 4)  # type: ignore[arg-type]
    assert bool(other(images(CHANNELS)[:, :, :1, :1]).isfinite().all())


@pytest.mark.parametrize(("kind", "refused"), [("instance", True), ("group", False), ("layer", False)])
def test_images_that_shrink_to_one_pixel_are_refused_before_training(kind: str, refused: bool) -> None:
    """nas_bench_macro halves the 8 pixels of a digit three times."""
    stack = ["recipes/spaces/nas_bench_macro.yaml", "recipes/data/digits.yaml", "recipes/algorithms/spos.yaml"]
    module = build(resolve(stack, ["--trainer.accelerator=cpu"]), None, quiet=True).module
    state = torch.get_rng_state()
    trick = NormSwap(kind)  # type: ignore[arg-type]
    if refused:
        with pytest.raises(InputError, match=r"norm_swap.kind is instance, and a feature map of .* 1x1 pixels"):
            trick.surgery(module)
    else:
        trick.surgery(module)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_run_without_batch_norms_is_ranked_and_resumed_from_its_folder(
    make: Callable[..., Run], tmp_path: Path
) -> None:
    chosen = {"norm_swap": {"kind": "group"}}
    make("sandwich", chosen, {"trainer.max_steps": 2}, out=tmp_path / "run").fit()
    state = load_checkpoint(tmp_path / "run")["state_dict"]
    assert not any("running_mean" in name for name in state)
    loaded = load_run(tmp_path / "run").module.state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in state.items() if isinstance(value, Tensor))


def test_what_needs_a_batch_norm_is_refused_beside_it(make: Callable[..., Run]) -> None:
    for other in ({"bn_calibration": {"batches": 2}}, {"ghost_batch_norm": {"size": 8}}):
        with pytest.raises(InputError, match=r"needs a batch norm, and the networks of tiny64 have none"):
            make("spos", {"norm_swap": {"kind": "group"}, **other}).fit()


def test_bad_values() -> None:
    with pytest.raises(InputError, match=r"norm_swap\.kind 'batch'"):
        NormSwap(kind="batch")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"norm_swap\.channels_per_group is 0"):
        NormSwap(channels_per_group=0)


def test_another_run_cannot_start_from_weights_without_statistics(make: Callable[..., Run], tmp_path: Path) -> None:
    make("spos", {"norm_swap": {"kind": "layer"}}, {"trainer.max_steps": 1}, out=tmp_path / "run").fit()
    with pytest.raises(InputError, match="they are of a run without batch norms"):
        make("spos", changes={"model.init_args.weights": str(tmp_path / "run")})
