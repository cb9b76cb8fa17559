"""The training step: what the policy's step leaves alone, micro-batches, clipping, counting, and refusals."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from nastricks.errors import DeadTrickError, InputError
from nastricks.estimators import FirstOrder, Step
from nastricks.modules import CosineAfterWarmup, TrainingModule
from nastricks.modules.normalisation import batch_norms, statistics
from nastricks.modules.run_folder import LAST, load_checkpoint
from nastricks.modules.step import TrainingStep
from nastricks.moment import Moment
from nastricks.recipe import resolve
from nastricks.run import Run, build

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
]


class AlphaStep(pl.Callback):
    """One alpha step by hand, before training."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, TrainingModule)
        assert pl_module.estimator is not None
        pl_module.train()
        norms = batch_norms(pl_module.networks)
        before = [
            *statistics(norms),
            *(n.num_batches_tracked.clone() for n in norms if n.num_batches_tracked is not None),
        ]
        now = pl_module.moment("weights")
        train = trainer.datamodule.batch("train", 0)  # type: ignore[attr-defined]
        pl_module.estimator.update(TrainingStep(pl_module, now, train, trainer.optimizers[0]))
        after = [*statistics(norms), *(n.num_batches_tracked for n in norms if n.num_batches_tracked is not None)]
        self.buffers_stayed = all(map(torch.equal, before, after))
        self.weights_without_gradient = all(p.grad is None for p in pl_module.networks.parameters())
        gradients = [p.grad for p in pl_module.policy.parameters()]
        self.alpha_has_gradient = all(g is not None and bool(g.abs().sum() > 0) for g in gradients)


def test_the_alpha_step_touches_alpha_alone(make: Callable[..., Run]) -> None:
    run, seen = make("darts", changes={"trainer.max_steps": 1}), AlphaStep()
    run.trainer.callbacks.append(seen)  # type: ignore[attr-defined]
    run.fit()
    assert seen.alpha_has_gradient
    assert seen.weights_without_gradient
    assert seen.buffers_stayed


class FixedStatistics(pl.Callback):
    """Batch norms use their running statistics, so that samples do not see each other."""

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        for module in pl_module.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()


def after_training(make: Callable[..., Run], parts: int, fixed: bool, size: int = 32) -> torch.Tensor:
    changes = {
        "model.init_args.micro_batches": parts,
        "trainer.precision": "64-true",
        "trainer.max_steps": 3,
        "data.init_args.batch_size": size,
    }
    run = make("spos", changes=changes)
    if fixed:
        run.trainer.callbacks.append(FixedStatistics())  # type: ignore[attr-defined]
    run.fit()
    return torch.cat([p.detach().flatten() for p in run.module.networks.parameters()])


@pytest.mark.parametrize(("parts", "size"), [(2, 32), (3, 32), (4, 30)])
def test_micro_batches_give_the_gradient_of_the_whole_batch(make: Callable[..., Run], parts: int, size: int) -> None:
    whole = after_training(make, 1, fixed=True, size=size)
    torch.testing.assert_close(after_training(make, parts, fixed=True, size=size), whole, rtol=1e-9, atol=1e-10)


def test_batch_norm_sees_a_micro_batch_at_a_time(make: Callable[..., Run]) -> None:
    """The caveat of `micro_batches`: with the batch's own statistics the gradients are not those of the whole."""
    assert not torch.allclose(after_training(make, 2, fixed=False), after_training(make, 1, fixed=False), rtol=1e-3)


class Gradient(pl.Callback):
    """The norm of the gradient of a part of the module at each step."""

    def __init__(self, part: str = "networks") -> None:
        self.part = part
        self.norms: list[float] = []

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        assert isinstance(pl_module, TrainingModule)
        found = [p.grad.norm() for p in getattr(pl_module, self.part).parameters() if p.grad is not None]
        self.norms.append(float(torch.stack(found).norm()))


@pytest.mark.parametrize("tricks", [{}, {"sam": {"rho": 0.05}}])
def test_gradients_are_clipped_once_after_the_tricks(make: Callable[..., Run], tricks: dict[str, Any]) -> None:
    norms = {}
    for clip in (None, 0.01):
        run, seen = (
            make("spos", tricks, {"model.init_args.gradient_clip_val": clip, "trainer.max_steps": 2}),
            Gradient(),
        )
        run.trainer.callbacks.append(seen)  # type: ignore[attr-defined]
        run.fit()
        norms[clip] = seen.norms
    assert min(norms[None]) > 0.1
    assert norms[0.01] == pytest.approx([0.01, 0.01], rel=1e-3)


@pytest.mark.parametrize("estimator", ["FirstOrder", "SingleLevel"])
def test_the_policys_gradient_is_clipped_apart(make: Callable[..., Run], estimator: str) -> None:
    norms: dict[float | None, list[float]] = {}
    for clip in (None, 0.001):
        changes: dict[str, Any] = {"model.init_args.policy_gradient_clip_val": clip, "trainer.max_steps": 1}
        changes["model.init_args.estimator"] = f"nastricks.estimators.{estimator}"
        run, seen, weights = make("darts", {}, changes), Gradient("policy"), Gradient()
        run.trainer.callbacks += [seen, weights]  # type: ignore[attr-defined]
        run.fit()
        norms[clip] = seen.norms + weights.norms
    assert norms[None][0] > 0.002
    assert norms[0.001][0] == pytest.approx(0.001, rel=1e-3)
    assert norms[0.001][1] == pytest.approx(norms[None][1], rel=1e-2)  # the weights' gradient is not clipped by it


class TwoSteps(FirstOrder):
    """Takes two steps an update, as PPO takes several."""

    def update(self, step: Step) -> None:
        super().update(step)
        step.advance()
        super().update(step)


def test_the_policys_gradient_is_clipped_in_every_step_of_an_update(make: Callable[..., Run]) -> None:
    moved: dict[float | None, float] = {}
    for clip in (None, 0.001):
        changes: dict[str, Any] = {"model.init_args.policy_gradient_clip_val": clip, "trainer.max_steps": 1}
        changes["model.init_args.policy_optimizer"] = {"class_path": "torch.optim.SGD", "init_args": {"lr": 1.0}}
        run = make("darts", {}, changes)
        run.module.estimator = TwoSteps(run.module.policy)
        before = torch.cat([p.detach().flatten().clone() for p in run.module.policy.parameters()])
        run.fit()
        moved[clip] = float((torch.cat([p.detach().flatten() for p in run.module.policy.parameters()]) - before).norm())
    assert moved[0.001] == pytest.approx(0.002, rel=1e-2)  # two steps of that length in nearly the same direction
    assert moved[None] > 0.004


@pytest.mark.parametrize("stack", ["spos", "darts"])
def test_max_steps_counts_batches(make: Callable[..., Run], stack: str) -> None:
    run = make(stack, changes={"trainer.max_steps": 5})
    run.fit()
    assert run.module.steps_seen == 5
    assert run.trainer.global_step == 5
    assert run.module.epochs == 5 / 4


def test_a_trick_that_never_acts_is_an_error_at_the_end(make: Callable[..., Run]) -> None:
    with pytest.raises(DeadTrickError, match="trick drop_path was configured and never acted in 8 steps"):
        make("spos", {"drop_path": {"probability": 0.0}}).fit()


def test_a_checkpoint_of_another_space_is_refused(make: Callable[..., Run], tmp_path: Path) -> None:
    make("spos", changes={"trainer.max_steps": 1}, out=tmp_path / "run").fit()
    stack = ["spaces/weight_sharing_64.yaml", "data/digits.yaml", "algorithms/spos.yaml"]
    other = build(resolve(stack, ["--trainer.accelerator", "cpu", "--trainer.max_steps", "2"]), None, quiet=True)
    with pytest.raises(InputError, match="the checkpoint is of space tiny64, this run is of weight_sharing_64"):
        other.fit(str(tmp_path / "run" / LAST))


def test_a_child_of_another_space_refuses_the_weights(make: Callable[..., Run], tmp_path: Path) -> None:
    make("spos", changes={"trainer.max_steps": 1}, out=tmp_path / "run").fit()
    start = make("child", changes={"model.init_args.weights": str(tmp_path / "run")})
    loaded = load_checkpoint(tmp_path / "run")["state_dict"]
    own = start.module.networks[0].state_dict()
    assert all(torch.equal(value, loaded[f"networks.0.{key}"]) for key, value in own.items())
    with pytest.raises(InputError, match="weights do not fit"):
        make("child", changes={"model.init_args.weights": str(tmp_path / "run"), "space.init_args.channels": 8})


class Evil:
    """Runs code when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


def test_a_checkpoint_with_code_runs_none(make: Callable[..., Run], tmp_path: Path) -> None:
    mark, file = tmp_path / "ran", tmp_path / "evil.ckpt"
    torch.save({"nastricks": {}, "state_dict": {}, "gift": Evil(mark)}, file)
    with pytest.raises(InputError, match="can be read without running code"):
        load_checkpoint(file)
    with pytest.raises(Exception, match=r"[Ww]eights.only|without running code"):
        make("spos").fit(str(file))
    assert not mark.exists()
    torch.load(file, weights_only=False)
    assert mark.exists()  # the file would have run code


def test_no_checkpoint_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no checkpoint at"):
        load_checkpoint(tmp_path)
    foreign = tmp_path / "foreign.ckpt"
    torch.save({"state_dict": {}}, foreign)
    with pytest.raises(InputError, match="was not written by nastricks"):
        load_checkpoint(foreign)


@pytest.mark.parametrize(
    ("key", "value"),
    [("label_smoothing", 1.0), ("gradient_clip_val", 0.0), ("policy_gradient_clip_val", -1.0), ("micro_batches", 0)],
)
def test_bad_values_are_refused(make: Callable[..., Run], key: str, value: float) -> None:
    config = make("spos").config
    config.model.init_args[key] = value
    with pytest.raises((InputError, ValueError), match=f"model.{key} is {value}: expected"):
        build(config, None, quiet=True)


def test_a_clip_of_a_policy_that_does_not_learn_is_refused(make: Callable[..., Run]) -> None:
    with pytest.raises(InputError, match="policy_gradient_clip_val is set and no estimator is"):
        make("spos", changes={"model.init_args.policy_gradient_clip_val": 5.0})


def test_a_cosine_after_a_warmup() -> None:
    """ProxylessNAS's released code: 0.5 * rate * (1 + cos(pi * t / T)), over the warm-up and then over what is left."""
    schedule, at = CosineAfterWarmup(epochs=2, warmup_rate=0.05, eta_min=0.001), Moment(role="weights", seed=0)
    rates = [
        schedule.learning_rate(0.025, at.at(step=step, steps_per_epoch=10, epochs=6.0))
        for step in (0, 5, 19, 20, 40, 60)
    ]
    first = [0.05 * 0.5 * (1 + math.cos(math.pi * part / 20)) for part in (0, 5, 19)]
    assert rates == pytest.approx([*first, 0.025, 0.013, 0.001])
    assert CosineAfterWarmup(0, 0.05).learning_rate(0.1, at.at(step=30, epochs=60.0)) == pytest.approx(0.05)
    assert CosineAfterWarmup(8, 0.05).learning_rate(0.1, at.at(step=6, epochs=6.0)) == pytest.approx(
        0.05 * 0.5 * (1 + math.cos(math.pi * 6 / 8))
    )
    assert CosineAfterWarmup(6, 0.05, 0.01).learning_rate(0.1, at.at(step=6, epochs=6.0)) == pytest.approx(0.01)
    with pytest.raises(InputError, match=r"schedule\.warmup_rate is -1"):
        CosineAfterWarmup(2, -1)
