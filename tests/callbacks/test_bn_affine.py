"""Scale and shift on and off: Parameters come and go, statistics stay, and the optimizer has what there is."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from nastricks.callbacks.bn_affine import operations_norms, set_affine
from nastricks.errors import InputError
from nastricks.modules.normalisation import batch_norms
from nastricks.recipe import resolve
from nastricks.run import Run, build, load_run

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
]

Make = Callable[..., Run]


def norms() -> list[nn.BatchNorm2d]:
    made = [nn.BatchNorm2d(3).double(), nn.BatchNorm2d(3, affine=False).double()]
    for norm in made:
        norm(2 + 3 * torch.randn(8, 3, 4, 4, dtype=torch.float64))
    return made


@pytest.mark.parametrize("affine", [False, True])
def test_norms_change_and_keep_their_statistics(affine: bool) -> None:
    plain, bare = norms()
    buffers = [list(norm.buffers()) for norm in (plain, bare)]
    with torch.no_grad():
        assert plain.weight is not None
        plain.weight.fill_(2.0)
    assert set_affine([plain, bare], affine) == 1
    assert [norm.affine for norm in (plain, bare)] == [affine, affine]
    assert all(
        a is b
        for norm, old in zip((plain, bare), buffers, strict=True)
        for a, b in zip(norm.buffers(), old, strict=True)
    )
    counts = [len(list(norm.parameters())) for norm in (plain, bare)]
    assert counts == ([2, 2] if affine else [0, 0])
    assert set_affine([plain, bare], affine) == 0
    x = torch.randn(8, 3, 4, 4, dtype=torch.float64)
    centred = (x - x.mean((0, 2, 3), keepdim=True)) / (x.var((0, 2, 3), unbiased=False, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(plain(x), 2 * centred if affine else centred)  # a scale that is there stays as it is
    torch.testing.assert_close(bare(x), centred)


@pytest.mark.parametrize("stack", ["spos", "child"])
def test_operations_lose_theirs_and_the_rest_keeps_it(stack: str, make: Make) -> None:
    run = make(stack, {"bn_affine": {"affine": False}}, {"trainer.max_steps": 2})
    run.fit()
    inside = operations_norms(run.module.networks)
    outside = [norm for norm in batch_norms(run.module.networks) if norm not in inside]
    assert inside
    assert not any(norm.affine for norm in inside)
    assert outside
    assert all(norm.affine for norm in outside)
    assert not any(
        ".ops." in name and "running" not in name and name.endswith("bias") for name in run.module.state_dict()
    )


def test_operations_gain_theirs_and_it_learns() -> None:
    stack = ["spaces/weight_sharing_64.yaml", "data/digits.yaml", "algorithms/darts.yaml"]
    small = ["--trainer.accelerator", "cpu", "--trainer.max_steps", "2", "--data.init_args.batch_size", "8"]
    run = build(resolve(stack, [*small, "--tricks.bn_affine.affine", "true"]), None, quiet=True)
    run.fit()
    inside = operations_norms(run.module.networks)
    assert len(inside) == 4 * 3 * (1 + 2 + 2 + 1)  # cells, edges, norms of the four operations
    assert all(not torch.equal(norm.weight, torch.ones_like(norm.weight)) for norm in inside)


def test_with_partial_channels_and_ghosts(make: Make) -> None:
    """The three surgeries follow each other: narrow, then without scale, then in ghosts."""
    tricks = {"partial_channels": {"parts": 4}, "bn_affine": {"affine": False}, "ghost_batch_norm": {"size": 8}}
    run = make("darts", tricks, {"trainer.max_steps": 1})
    run.fit()
    assert [trick.name for trick in run.tricks] == list(tricks)
    inside = operations_norms(run.module.networks)
    assert {(type(n).__name__, n.num_features, n.affine, n.weight) for n in inside} == {
        ("GhostBatchNorm2d", 4, False, None)
    }


def test_a_finished_run_is_loaded(make: Make, tmp_path: Path) -> None:
    run = make("darts", {"bn_affine": {"affine": False}}, {"trainer.max_steps": 1}, tmp_path / "run")
    run.fit()
    state = run.module.state_dict()
    loaded = load_run(tmp_path / "run").module.state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(v, loaded[k]) for k, v in state.items() if torch.is_tensor(v))


def test_a_second_fit_is_no_second_surgery(make: Make) -> None:
    run = make("darts", {"bn_affine": {"affine": False}}, {"trainer.max_steps": 1})
    run.fit()
    for trick in run.tricks:
        trick.setup(run.trainer, run.module, "validate")
        assert trick.acts == 1


@pytest.mark.parametrize("stack", ["spos", "child"])
def test_where_nothing_would_change_it_is_refused(stack: str, make: Make) -> None:
    sentence = "bn_affine.affine is true, and the operations learn a scale and a shift already: leave it out"
    with pytest.raises(InputError, match=sentence):
        make(stack, {"bn_affine": {"affine": True}}).fit()


def test_operations_without_norms_are_refused(make: Make) -> None:
    with pytest.raises(InputError, match="needs a batch norm in an operation, and tiny64 has none: leave it out"):
        make("child", {"bn_affine": {"affine": False}}, {"model.init_args.architecture": "444"}).fit()


def test_earlier_scales_are_not_lost_in_silence(tmp_path: Path) -> None:
    stack = ["spaces/weight_sharing_64.yaml", "data/digits.yaml", "algorithms/spos.yaml"]
    small = ["--trainer.accelerator", "cpu", "--trainer.max_steps", "1", "--data.init_args.batch_size", "8"]
    scaled = [*small, "--tricks.bn_affine.affine", "true"]
    build(resolve(stack, scaled), tmp_path / "run", quiet=True).fit()
    later = build(resolve(stack, [*scaled, "--model.init_args.weights", str(tmp_path / "run")]), None, quiet=True)
    with pytest.raises(InputError, match="a scale that they hold would be lost"):
        later.fit()
