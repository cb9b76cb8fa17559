"""Controllers inside the training of a supernet (ENAS): both learn, and a resumed run equals the straight one."""

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from nastricks.estimators import ScoreFunction
from nastricks.modules.run_folder import LAST, load_checkpoint
from nastricks.recipe import resolve
from nastricks.run import Run, build

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
]

ENAS = """
model:
  init_args:
    policy:
      class_path: nastricks.policies.LSTMController
      init_args: {hidden: 8, temperature: 5.0, tanh_constant: 2.5}
    estimator: {class_path: nastricks.estimators.%s, init_args: %s}
    derivation: {class_path: nastricks.derivations.MostLikely}
    policy_optimizer: {class_path: torch.optim.Adam, init_args: {lr: 0.01}}
"""
RUNS = {
    "reinforce": (
        "Reinforce",
        "{episodes: 3, entropy: 1.0e-4, baseline: {class_path: nastricks.estimators.ExponentialBaseline}}",
    ),
    "ppo": (
        "PPO",
        "{episodes: 4, minibatch: 2, epochs: 2, "
        "baseline: {class_path: nastricks.estimators.Critic, init_args: {hidden: 8}}}",
    ),
    "relax": ("RELAX", "{episodes: 3, hidden: 8, every: 2}"),
}


def enas(name: str, folder: Path, out: Path | None, *more: str) -> Run:
    recipe = folder / f"{name}.yaml"
    recipe.write_text(ENAS % RUNS[name])
    stack = ["recipes/spaces/tiny64.yaml", "recipes/data/digits.yaml", "recipes/algorithms/spos.yaml", recipe]
    sizes = {"train_size": 64, "search_size": 64, "validation_size": 64, "batch_size": 32}
    overrides = [part for key, value in sizes.items() for part in (f"--data.init_args.{key}", str(value))]
    overrides += ["--trainer.accelerator", "cpu", "--trainer.max_epochs", "2", "--checkpoint.every_n_epochs", "1"]
    return build(resolve(stack, [*overrides, *more]), out, quiet=True)


@pytest.mark.parametrize("name", RUNS)
def test_a_supernet_and_its_controller_learn_together(name: str, tmp_path: Path) -> None:
    run = enas(name, tmp_path, None, "--trainer.max_steps", "2")
    module = run.module
    start = {key: p.detach().clone() for key, p in module.named_parameters()}
    run.fit()
    moved = {key for key, p in module.named_parameters() if not torch.equal(p, start[key])}
    assert {key for key in start if key.startswith("policy.")} - moved <= {"policy.embedding.weight"}
    assert any(key.startswith("networks.") for key in moved)
    assert any(key.startswith("estimator.") for key in moved) == (name != "reinforce")
    estimator = module.estimator
    assert isinstance(estimator, ScoreFunction)
    assert estimator.updates == (1 if name == "relax" else 2)
    assert 0 < estimator.measures["mean_reward"] < 1
    assert run.trainer.global_step == 2  # the controller's steps are not counted
    steps = {"reinforce": 2, "ppo": 2 * 2 * 2, "relax": 1}[name]  # PPO: two minibatches in two epochs
    for optimizer in run.trainer.optimizers[1:]:
        assert {int(state["step"]) for state in optimizer.state.values()} == {steps}


class KilledError(Exception):
    """The run is killed here."""


class Kill(pl.Callback):
    """Kills a run in its second epoch."""

    def on_train_batch_start(self, trainer: pl.Trainer, *args: Any) -> None:
        if trainer.global_step == 3:
            raise KilledError


@pytest.mark.parametrize("name", RUNS)
def test_a_resumed_supernet_equals_the_straight_one(name: str, tmp_path: Path, problem: Any) -> None:
    enas(name, tmp_path, tmp_path / "straight").fit()
    killed = enas(name, tmp_path, tmp_path / "killed")
    killed.trainer.callbacks.append(Kill())  # type: ignore[attr-defined]
    with pytest.raises(KilledError):
        killed.fit()
    assert load_checkpoint(tmp_path / "killed")["nastricks"]["steps_seen"] == 2
    enas(name, tmp_path, tmp_path / "killed").fit(str(tmp_path / "killed" / LAST))
    straight, resumed = (load_checkpoint(tmp_path / part) for part in ("straight", "killed"))
    assert resumed["nastricks"]["steps_seen"] == 4
    for part in ("state_dict", "optimizer_states", "nastricks"):
        assert problem.same(resumed[part], straight[part]), part
    assert len(straight["optimizer_states"]) == (2 if name == "reinforce" else 3)


@pytest.mark.parametrize("name", RUNS)
def test_a_controller_keeps_full_precision_in_a_mixed_run(name: str, tmp_path: Path) -> None:
    run = enas(name, tmp_path, None, "--trainer.precision", "bf16-mixed", "--trainer.max_steps", "1")
    estimator = run.module.estimator
    assert isinstance(estimator, ScoreFunction)
    seen = []
    learn = estimator._improve

    def watched(rollout: Any, returns: Any, advantages: Any, updater: Any) -> None:
        learn(rollout, returns, advantages, updater)
        seen.append((rollout.log_probs.dtype, returns.dtype, estimator.policy.score(rollout.tokens)))
        seen.append(rollout.log_probs)

    estimator._improve = watched  # type: ignore[method-assign]
    run.fit()
    (drawn, returns, scored), log_probs = seen
    assert {drawn, returns, scored.log_probs.dtype} == {torch.float32}
    if name != "ppo":  # whose first minibatch has moved the policy already
        torch.testing.assert_close(scored.log_probs.detach(), log_probs, atol=1e-6, rtol=0)
