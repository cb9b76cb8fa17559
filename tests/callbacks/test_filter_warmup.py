"""How often a size is the largest, which sizes that are, and that the trick is alive where there are sizes."""

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from nastricks.callbacks.filter_warmup import FilterWarmup
from nastricks.commands.check import built, score_child
from nastricks.errors import DeadTrickError, InputError
from nastricks.modules.proof import prove
from nastricks.moment import Moment
from nastricks.policies import Sandwich, UniformPath
from nastricks.recipe import resolve
from nastricks.run import Run, build
from nastricks.spaces import Elastic, Slimmable, Space, Tiny64
from proofs.small_runs import SMALL, difference_after_resuming, same

STEPS = 2000


def acting(space: Space, fraction: float, dimensions: list[str] | None = None) -> tuple[FilterWarmup, UniformPath]:
    trick, policy = FilterWarmup(fraction, dimensions), UniformPath(space)
    assert trick.refusal(SimpleNamespace(space=space, policy=policy)) is None  # type: ignore[arg-type]
    return trick, policy


def at(step: int, **more: Any) -> Moment:
    return Moment(role=more.pop("role", "weights"), seed=0, step=step, steps_per_epoch=STEPS, epochs=1, **more)


@pytest.mark.parametrize("progress", [0.0, 0.15, 0.3])
def test_sizes_are_the_largest_that_often(progress: float) -> None:
    space = Slimmable()
    trick, policy = acting(space, 0.4)
    step, largest = int(progress * STEPS), []
    for number in range(STEPS):
        moment = at(step, gate_set=number)
        (proposed,) = policy.propose(moment)
        gates = trick.on_gates(proposed, moment)
        largest.append([gates[c.name].active == (len(c.options) - 1,) for c in space.choices])
    probability = 1 - progress / 0.4
    for choice, found in zip(space.choices, torch.tensor(largest).double().mean(0).tolist(), strict=True):
        expected = probability + (1 - probability) / len(choice.options)
        assert abs(found - expected) <= 3.5 * math.sqrt(expected * (1 - expected) / STEPS)  # of several choices


def test_filters_are_widths_and_expansions_unless_others_are_named() -> None:
    space = Elastic()
    for named, expected in ((None, {"width", "expansion"}), (["kernel", "depth"], {"kernel", "depth"})):
        trick, policy = acting(space, 0.5, named)
        smallest = space.gates(space.smallest(policy.allowed))
        gates = trick.on_gates(smallest, at(0))
        moved = {c.dimension for c in space.choices if gates[c.name] is not smallest[c.name]}
        assert moved == {c.dimension for c in space.choices if c.dimension in expected}
        assert space.check([gates[c.name].active[0] for c in space.choices])


def test_the_mask_the_end_and_the_role_are_obeyed() -> None:
    space = Slimmable()
    trick, policy = acting(space, 0.25)
    name = next(c.name for c in space.choices if len(c.options) > 2)
    policy.restrict(name, [0, 1])
    smallest = space.gates(space.smallest(policy.allowed))
    assert trick.on_gates(smallest, at(0))[name].active == (1,)
    assert trick.on_gates(smallest, at(STEPS // 4)) is smallest
    for role in ("policy", "attack", "evaluation"):
        assert trick.on_gates(smallest, at(0, role=role)) is smallest
    largest = space.gates(space.largest(policy.allowed))
    assert trick.on_gates(largest, at(0)) is largest  # nothing to change, and no act
    assert trick.acts == 1


@pytest.mark.parametrize(
    ("space", "dimensions", "words"),
    [
        (Tiny64(), None, "needs a choice of a size, and tiny64 has none of width, expansion: use op_warmup"),
        (Slimmable(), ["depth"], "filter_warmup.dimensions names depth: slimmable has width"),
    ],
)
def test_spaces_without_such_a_size_are_refused(space: Space, dimensions: list[str] | None, words: str) -> None:
    module = SimpleNamespace(space=space, policy=UniformPath(space))
    assert words in str(FilterWarmup(0.25, dimensions).refusal(module))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [({"fraction": 1.5}, "filter_warmup.fraction is 1.5"), ({"dimensions": []}, "filter_warmup.dimensions is empty")],
)
def test_bad_values_are_refused(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        FilterWarmup(**arguments)


@pytest.fixture(scope="module")
def make() -> Callable[..., Run]:
    """``make(more, out)``: a small run of sampled widths, with the trick or without it."""

    def made(more: Any, out: Path | None, trick: bool = True) -> Run:
        return build(_config(more, trick), out, quiet=True)

    return made


def _config(more: Any, trick: bool = True) -> Any:
    files = ["spaces/slimmable", "data/digits", "algorithms/spos", *(["tricks/filter_warmup"] if trick else [])]
    keys = {**SMALL, **({"tricks.filter_warmup.fraction": 0.5} if trick else {}), **more}
    return resolve([f"recipes/{name}.yaml" for name in files], [f"--{key}={value}" for key, value in keys.items()])


def test_is_alive() -> None:
    config = _config({})
    proof = prove("filter_warmup", lambda without: built(config, without), score_child)
    assert proof.alive, proof


def test_is_the_identity_at_zero(make: Callable[..., Run]) -> None:
    neutral, absent = make({"tricks.filter_warmup.fraction": 0.0}, None), make({}, None, trick=False)
    with pytest.raises(DeadTrickError, match="never acted"):
        neutral.fit()
    absent.fit()
    assert same(neutral.module.networks.state_dict(), absent.module.networks.state_dict())


def test_resumes_exactly(make: Callable[..., Run], tmp_path: Path) -> None:
    make({}, tmp_path / "straight").fit()
    assert difference_after_resuming(make, tmp_path / "straight", tmp_path / "middle", "middle") is None


def test_works_with_the_sandwich(make: Callable[..., Run]) -> None:
    run = make({"model.init_args.policy": "nastricks.policies.Sandwich"}, None)
    run.fit()
    assert isinstance(run.module.policy, Sandwich)
    assert run.tricks[0].acts > 0
