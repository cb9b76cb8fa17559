"""Narrowed operations: their sizes, their keyed weights, and runs that are loaded again."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from nastricks.callbacks.partial_channels import PartialChannels, mixed_operations
from nastricks.commands.derive import derived
from nastricks.derivations import Trained
from nastricks.errors import InputError
from nastricks.modules import SupernetModule
from nastricks.modules.normalisation import batch_norms
from nastricks.modules.step import TrainingStep
from nastricks.recipe import resolve
from nastricks.run import Run, build, load_run
from nastricks.spaces import Gate

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
]

Make = Callable[..., Run]
Stand = Callable[[Run], TrainingStep]
NARROW = {"partial_channels": {"parts": 4}}


def standing(run: Run, stand: Stand) -> Run:
    stand(run)
    return run


def test_operations_have_a_quarter_of_the_channels(make: Make, stand: Stand) -> None:
    plain, run = (standing(make("darts", tricks), stand) for tricks in ({}, NARROW))
    convolutions = [
        m for ops in mixed_operations(run.module.networks) for m in ops.modules() if isinstance(m, nn.Conv2d)
    ]
    assert len(convolutions) == 3 * 4
    assert {m.in_channels for m in convolutions} == {4}
    # Of a choice with C channels: two norms of 2 C and of C weights each, depthwise 9 C and 25 C, pointwise C^2 each.
    counts = [
        sum(p.numel() for ops in mixed_operations(r.module.networks) for p in ops.parameters()) for r in (plain, run)
    ]
    assert counts == [3 * (3 * 2 * c + 34 * c + 2 * c * c) for c in (16, 4)]


def test_the_rest_of_the_channels_passes_by(make: Make, stand: Stand) -> None:
    run = standing(make("darts", NARROW), stand)
    ops = mixed_operations(run.module.networks)[0]
    x = torch.randn(8, 16, 6, 6)
    weights = torch.tensor([0.1, 0.2, 0.3, 0.4])
    with run.module.frozen_statistics(), torch.no_grad():
        found = ops(x, Gate((0, 1, 2, 3), weights))
        mixed = sum(w * op(x[:, :4]) for w, op in zip(weights, ops.ops.values(), strict=True))
    # After the shuffle channel 4 i + j is channel i of part j, of which the first is mixed.
    torch.testing.assert_close(found[:, 0::4], mixed)
    for part in (1, 2, 3):
        assert torch.equal(found[:, part::4], x[:, 4 * part : 4 * part + 4])


def test_weights_are_keyed_by_the_run_and_others_stay(make: Make, stand: Stand) -> None:
    plain, one, again, other = (
        standing(make("darts", tricks, {"model.init_args.seed": seed}), stand).module.networks.state_dict()
        for tricks, seed in (({}, 3), (NARROW, 3), (NARROW, 3), (NARROW, 4))
    )
    assert all(torch.equal(value, again[key]) for key, value in one.items())
    narrowed = [key for key, value in one.items() if value.shape != plain[key].shape]
    assert narrowed
    assert all(".ops." in key for key in narrowed)
    assert all(torch.equal(value, plain[key]) for key, value in one.items() if ".ops." not in key)
    assert not any(torch.equal(one[key], other[key]) for key in narrowed if one[key].dim() == 4)


def test_norms_keep_their_momentum_and_layout_their_order(stand: Stand) -> None:
    stack = ["spaces/weight_sharing_64.yaml", "data/digits.yaml", "algorithms/spos.yaml"]
    small = [
        "--trainer.accelerator",
        "cpu",
        "--space.init_args.bn_momentum",
        "0.3",
        "--tricks.partial_channels.parts",
        "2",
    ]
    run = standing(build(resolve(stack, small), None, quiet=True), stand)
    assert {norm.momentum for norm in batch_norms(run.module.networks)} == {0.3}
    assert all(
        p.is_contiguous(memory_format=torch.channels_last) for p in run.module.networks.parameters() if p.dim() == 4
    )


def test_a_finished_run_is_loaded_ranked_and_derived(make: Make, tmp_path: Path) -> None:
    run = make("darts", NARROW, {"trainer.max_steps": 2}, tmp_path / "run")
    run.fit()
    loaded = load_run(tmp_path / "run")
    state = run.module.state_dict()
    assert all(torch.equal(v, state[k]) for k, v in loaded.module.state_dict().items() if torch.is_tensor(v))
    assert isinstance(run.module, SupernetModule)
    trained = Trained(run.module.space, run.module.policy, dict)
    found = derived(tmp_path / "run", tmp_path / "derived")
    assert found == run.module.space.format(run.module.derivation.derive(trained))
    # A second set-up of a loaded run does not make its operations anew.
    for trick in loaded.tricks:
        trick.setup(loaded.trainer, loaded.module, "validate")
    assert all(torch.equal(v, state[k]) for k, v in loaded.module.state_dict().items() if torch.is_tensor(v))
    with loaded.module.frozen_statistics():
        assert not any(norm.track_running_stats for norm in batch_norms(loaded.module.networks))


def test_children_do_not_start_from_narrow_weights(make: Make, tmp_path: Path) -> None:
    make("spos", NARROW, {"trainer.max_steps": 1}, tmp_path / "run").fit()
    with pytest.raises(InputError, match="weights do not fit at"):
        make("child", changes={"model.init_args.weights": str(tmp_path / "run")})


def test_earlier_weights_are_not_lost_in_silence(make: Make, tmp_path: Path) -> None:
    make("spos", {}, {"trainer.max_steps": 1}, tmp_path / "run").fit()
    later = make("spos", NARROW, {"model.init_args.weights": str(tmp_path / "run")})
    with pytest.raises(InputError, match="makes the operations anew, and the run starts from the weights of"):
        later.fit()


def test_operations_that_change_their_channels_are_refused() -> None:
    files = [f"recipes/{name}.yaml" for name in ("spaces/mobile", "data/digits", "algorithms/darts")]
    run = build(resolve(files, ["--tricks.partial_channels.parts=4"]), None, quiet=True)
    with pytest.raises(InputError, match="stage1_block1 of mobile makes 12 of 8: leave the trick out"):
        run.check()


def test_channels_that_do_not_divide_are_refused(make: Make) -> None:
    sentence = "partial_channels.parts is 3 and layer1 of tiny64 has 16 channels, which are no multiple of it"
    with pytest.raises(InputError, match=sentence):
        make("darts", {"partial_channels": {"parts": 3}}).fit()


def test_no_parts_are_refused() -> None:
    with pytest.raises(InputError, match=r"partial_channels.parts is 0: expected at least 1"):
        PartialChannels(parts=0)


def test_a_network_without_operations_is_refused(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    run: Any = make("darts", NARROW)
    run.module.networks = nn.ModuleList([nn.Linear(2, 2)])
    with pytest.raises(InputError, match="needs operations that can be narrowed, and tiny64 has none"):
        run.check()
