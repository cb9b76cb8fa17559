"""How often a choice has all options on, what then runs, and who refuses that."""

import math
from types import SimpleNamespace

import pytest
import torch

from nastricks.callbacks.op_warmup import OpWarmup, all_on
from nastricks.errors import InputError
from nastricks.modules.schedule import remaining
from nastricks.moment import Moment
from nastricks.policies import UniformPath
from nastricks.recipe import resolve
from nastricks.run import build
from nastricks.sharing import ShareAll
from nastricks.spaces import Gate, Tiny64
from proofs.small_runs import SMALL

SPACE = Tiny64(channels=4)
STEPS = 2000


def acting(fraction: float) -> tuple[OpWarmup, UniformPath]:
    trick, policy = OpWarmup(fraction), UniformPath(SPACE)
    module = SimpleNamespace(space=SPACE, policy=policy, sharing=ShareAll(), estimator=None)
    assert trick.refusal(module) is None  # type: ignore[arg-type]
    return trick, policy


def at(step: int, **more: int) -> Moment:
    return Moment(role="weights", seed=0, step=step, steps_per_epoch=STEPS, epochs=1, **more)


def test_the_probability_falls_along_a_line() -> None:
    assert [remaining(p, 0.25) for p in (0.0, 0.125, 0.25, 0.9)] == [1.0, 0.5, 0.0, 0.0]
    assert remaining(0.0, 0.0) == 0.0


@pytest.mark.parametrize("progress", [0.0, 0.1, 0.2, 0.3])
def test_choices_are_all_on_that_often_each_on_its_own(progress: float) -> None:
    trick, policy = acting(0.4)
    step, opened = int(progress * STEPS), []
    for number in range(STEPS):
        moment = at(step, gate_set=number)
        (proposed,) = policy.propose(moment)
        gates = trick.on_gates(proposed, moment)
        opened.append([len(gates[c.name].active) == 4 for c in SPACE.choices])
        for name, gate in gates.items():
            assert gate is proposed[name] or torch.equal(torch.as_tensor(gate.weights), torch.full((4,), 0.25))
    found, expected = torch.tensor(opened).double(), 1 - progress / 0.4
    spread = math.sqrt(expected * (1 - expected) / STEPS)
    assert bool(((found.mean(0) - expected).abs() <= 3 * spread).all())
    together = expected**3
    assert abs(float(found.prod(1).mean()) - together) <= 3 * math.sqrt(together * (1 - together) / STEPS)


def test_it_is_over_after_its_part_of_the_run_and_acts_where_weights_learn_alone() -> None:
    trick, policy = acting(0.25)
    (gates,) = policy.propose(at(0))
    assert trick.on_gates(gates, at(STEPS // 4)) is gates
    for role in ("policy", "attack", "evaluation"):
        assert trick.on_gates(gates, at(0).at(role=role)) is gates
    assert trick.acts == 0
    assert trick.on_gates(gates, at(0)) is not gates
    assert trick.acts == 1


def test_only_allowed_options_are_switched_on() -> None:
    trick, policy = acting(0.5)
    policy.restrict("layer1", [1, 3])
    policy.restrict("layer2", [2])
    (proposed,) = policy.propose(at(0))
    gates = trick.on_gates(proposed, at(0))
    assert gates["layer1"].active == (1, 3)
    assert torch.equal(torch.as_tensor(gates["layer1"].weights), torch.tensor([0.5, 0.5]))
    assert gates["layer2"] is proposed["layer2"]
    assert gates["layer3"].active == (0, 1, 2, 3)


def test_a_bypass_stays() -> None:
    assert all_on(Gate((2,), None, torch.tensor(0.3)), (0, 1), torch.device("cpu")).bypass == 0.3


@pytest.mark.parametrize("sharing", ["groups", "prefix", "few_shot", "none"])
def test_weights_that_children_own_are_refused(sharing: str) -> None:
    files = ["spaces/tiny64", "data/digits", "algorithms/spos", f"sharing/{sharing}", "tricks/op_warmup"]
    run = build(resolve([f"recipes/{name}.yaml" for name in files], ["--trainer.accelerator=cpu"]), None, quiet=True)
    words = (
        "needs a network that all paths share, and sharing .* gives architectures weights of their own: use ShareAll"
    )
    with pytest.raises(InputError, match=words):
        run.fit()


@pytest.mark.parametrize("sharing", ["groups", "prefix", "few_shot", "none"])
def test_policies_of_several_options_are_refused_by_them_too(sharing: str) -> None:
    files = ["spaces/tiny64", "data/digits", "algorithms/bender_oneshot", f"sharing/{sharing}"]
    config = resolve([f"recipes/{name}.yaml" for name in files], ["--trainer.accelerator=cpu"])
    with pytest.raises(InputError, match="policy AllOptions runs several options at once: use ShareAll"):
        build(config, None, quiet=True)


def test_a_space_of_sizes_is_refused() -> None:
    files = ["spaces/slimmable", "data/digits", "algorithms/spos", "tricks/op_warmup"]
    run = build(resolve([f"recipes/{name}.yaml" for name in files], ["--trainer.accelerator=cpu"]), None, quiet=True)
    with pytest.raises(InputError, match=r"op_warmup needs a choice between operations.*use filter_warmup"):
        run.fit()


@pytest.mark.parametrize(("steps", "learnt"), [(1, False), (-1, True)])
def test_a_one_level_policy_of_sampled_gates_learns_where_its_gates_ran(steps: int, learnt: bool) -> None:
    """In the first step all of its gates are replaced, so that it has no gradient; in the last it has."""
    keys = {
        **SMALL,
        "model.init_args.policy": "nastricks.policies.GumbelHard",
        "model.init_args.estimator": "nastricks.estimators.SingleLevel",
        "tricks.op_warmup.fraction": 0.5,
        "trainer.max_steps": steps,
    }
    files = [f"recipes/{name}.yaml" for name in ("spaces/tiny64", "data/digits", "algorithms/darts")]
    run = build(resolve(files, [f"--{key}={value}" for key, value in keys.items()]), None, quiet=True)
    run.fit()
    assert all((p.grad is not None) == learnt for p in run.module.policy.parameters())


@pytest.mark.parametrize("fraction", [-0.1, 1.1])
def test_fraction_out_of_range_is_refused(fraction: float) -> None:
    with pytest.raises(InputError, match=rf"op_warmup.fraction is {fraction}: expected a number in \[0, 1\]"):
        OpWarmup(fraction)
