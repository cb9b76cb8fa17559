"""Estimators that go through the gates in whole runs: in 16 bits, and killed and continued."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from nastricks.estimators import Estimator, GumbelRelax, ImplicitGradient, MixedLevel, SecondOrder
from nastricks.modules.run_folder import LAST, load_checkpoint
from nastricks.policies import Policy
from nastricks.run import Run

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
]

MAKERS: dict[str, Callable[[Policy], Estimator]] = {
    "second order": SecondOrder,
    "second order, exact": lambda policy: SecondOrder(policy, "exact", order="after"),
    "mixed level": MixedLevel,
    "implicit, series": ImplicitGradient,
    "implicit, conjugate": lambda policy: ImplicitGradient(policy, "conjugate_gradient", damping=0.1, every=2),
    "relax": lambda policy: GumbelRelax(policy, seed=0),
}


def begin(name: str, make: Callable[..., Run], changes: dict[str, Any], out: Path | None = None) -> Run:
    run = make("darts", changes=changes, out=out)
    run.module.estimator = MAKERS[name](run.module.policy)
    return run


@pytest.mark.parametrize("name", MAKERS)
def test_runs_in_16_bits(name: str, make: Callable[..., Run]) -> None:
    run = begin(name, make, {"trainer.precision": "bf16-mixed", "trainer.max_steps": 3})
    start = [p.detach().clone() for p in run.module.policy.parameters()]
    run.fit()
    after = list(run.module.policy.parameters())
    assert not any(torch.equal(a, b) for a, b in zip(start, after, strict=True))
    assert {p.dtype for p in run.module.parameters()} == {torch.float32}
    assert all(bool(p.isfinite().all()) for p in run.module.parameters())
    own = [] if run.module.estimator is None else list(run.module.estimator.parameters())
    assert all(p.grad is not None for p in own)
    assert len(run.trainer.optimizers) == (3 if own else 2)


class KilledError(Exception):
    """The run is killed here."""


class Kill(pl.Callback):
    def on_train_batch_start(self, trainer: pl.Trainer, *args: Any) -> None:
        if trainer.global_step == 5:
            raise KilledError


@pytest.mark.parametrize("name", ["relax", "implicit, conjugate", "second order"])
def test_a_resumed_run_equals_the_straight_one(name: str, make: Callable[..., Run], tmp_path: Path) -> None:
    every = {"checkpoint.every_n_steps": 3}
    begin(name, make, every, tmp_path / "straight").fit()
    killed = begin(name, make, every, tmp_path / "killed")
    killed.trainer.callbacks.append(Kill())  # type: ignore[attr-defined]
    with pytest.raises(KilledError):
        killed.fit()
    begin(name, make, every, tmp_path / "killed").fit(str(tmp_path / "killed" / LAST))
    straight, resumed = (load_checkpoint(tmp_path / part) for part in ("straight", "killed"))
    assert resumed["nastricks"]["steps_seen"] == 8
    for key, value in straight["state_dict"].items():
        assert torch.equal(resumed["state_dict"][key], value) if torch.is_tensor(value) else True, key
    assert str(resumed["optimizer_states"]) == str(straight["optimizer_states"])
