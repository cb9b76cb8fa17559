"""One suite over every trick that is found. A new trick needs a line in SETTINGS, or the suite fails."""

import inspect
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from jsonargparse import Namespace

from nastricks.commands.check import built, score_child
from nastricks.errors import DeadTrickError, InputError
from nastricks.modules import Trick
from nastricks.modules.proof import Observer, prove
from nastricks.modules.registry import tricks
from nastricks.modules.run_folder import LAST, load_checkpoint
from nastricks.recipe import dump, resolve
from nastricks.run import Run

# Lightning 2.6.6 asks torch's pytrees in a way that torch 2.15 deprecates.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
]

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Settings:
    """How a trick is tested.

    `arguments` make it act within the eight steps of a small run; `refuses` says which stacks it refuses, and a
    piece of the sentence; `acts_at_neutral`: whether it counts acts at its neutral setting (SAM does its second pass
    there too), since a run in which it never acts is an error.
    """

    arguments: dict[str, Any]
    refuses: dict[str, str] = field(default_factory=dict)
    acts_at_neutral: bool = False
    documented: dict[str, Any] = field(default_factory=dict)  # arguments whose value in the recipe is no default
    steps: int = 2  # within which it has acted, and let others act


SETTINGS: dict[str, Settings] = {
    "auto_augment": Settings({"kind": "rand_augment"}, documented={"kind": "auto_augment"}),
    "arch_perturbation": Settings(
        {"epsilon": 0.3},
        {"spos": "UniformPath runs one at a time", "child": "Fixed runs one at a time"},
    ),
    "auxiliary_skip": Settings({"start": 1.0}),
    "bn_affine": Settings({"affine": False}),
    "bn_calibration": Settings({"batches": 2}),
    "cutout": Settings({"length": 4}),
    "drop_path": Settings({"probability": 0.5}),
    # The guards do not stop: an early end would leave nothing to kill and to resume.
    "early_stop_ranking": Settings(
        {"epochs": 10}, {"spos": "UniformPath has no parameters", "child": "a child has no choices left"}, steps=5
    ),
    "early_stop_skips": Settings(
        {"skips": 4}, {"spos": "UniformPath has no parameters", "child": "a child has no choices left"}, steps=5
    ),
    "early_stop_hessian": Settings(
        {"window": 1, "distance": 1, "first_epoch": 1},
        {"spos": "UniformPath has no parameters", "child": "Fixed has no parameters"},
        steps=6,
    ),
    "ghost_batch_norm": Settings({"size": 8}),
    "hessian_penalty": Settings({"weight": 1.0}, {"spos": "UniformPath takes none", "child": "Fixed takes none"}),
    "mixup": Settings({"alpha": 1.0}),
    "op_pruning": Settings(
        {"k": 2},
        {"spos": "UniformPath has no parameters", "child": "a child has no choices left"},
        documented={"k": 1, "start": 0.25, "end": 0.9},
        steps=5,
    ),
    "resource_penalty": Settings(
        {"weight": 1.0}, {"spos": "UniformPath has no parameters", "child": "Fixed has no parameters"}
    ),
    "op_dropout": Settings({"probability": 0.5}, {"child": "needs a skip connection"}),
    "partial_channels": Settings({"parts": 4}, {"child": "a child has no choices left"}),
    "op_projection": Settings(
        {"at_once": 3},
        {"spos": "UniformPath", "child": "a child has no choices left"},
        steps=8,  # it decides before the second epoch, and refuses a run without one
    ),
    "sam": Settings({"rho": 0.05}, acts_at_neutral=True, documented={"rho": 0.05}),
    "sgdr": Settings({"t_0": 1}),
    "weight_warmup": Settings(
        {"epochs": 1},
        {"spos": "UniformPath has no parameters", "child": "Fixed has no parameters"},
        documented={"fraction": 0.3},
        steps=6,
    ),
    "zero_one_loss": Settings({"weight": 10.0}, {"spos": "UniformPath takes none", "child": "Fixed takes none"}),
}
NAMES = sorted(tricks())
ALGORITHMS = ("spos", "darts")


def settings_of(name: str) -> Settings:
    assert name in SETTINGS, (
        f"trick {name} has no settings: add a line to SETTINGS in tests/callbacks/test_every_trick.py"
    )
    return SETTINGS[name]


def works(name: str, stack: str) -> bool:
    return stack not in settings_of(name).refuses


def combinations(*stacks: str) -> list[tuple[str, str]]:
    return [(name, stack) for name in NAMES if name in SETTINGS for stack in stacks if works(name, stack)]


def state(run: Run) -> dict[str, Any]:
    """Weights, buffers and policy."""
    return {key: value for key, value in run.module.state_dict().items() if isinstance(value, torch.Tensor)}


def same(a: Any, b: Any) -> bool:
    """Whether two nests of values are equal bit for bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


@pytest.fixture(scope="session")
def absent(make: Callable[..., Run]) -> Callable[[str], dict[str, Any]]:
    """The state that a run without tricks ends in."""

    @cache
    def end(stack: str) -> dict[str, Any]:
        run = make(stack)
        run.fit()
        return state(run)

    return end


def test_every_trick_has_settings() -> None:
    for name in NAMES:
        settings_of(name)
    assert set(SETTINGS) == set(NAMES), "SETTINGS names a trick that does not exist"


@pytest.mark.parametrize("name", NAMES)
def test_every_trick_has_its_four_files(name: str) -> None:
    files = [f"callbacks/{name}.py", f"recipes/tricks/{name}.yaml", f"docs/tricks/{name}.md"]
    for file in [*files, f"tests/callbacks/test_{name}.py"]:
        assert (ROOT / file).is_file(), f"trick {name} lacks {file}"


@pytest.mark.parametrize(("name", "stack"), combinations("spos", "darts", "child"))
def test_is_alive(name: str, stack: str, configure: Callable[..., Namespace]) -> None:
    config = configure(stack, {name: settings_of(name).arguments})
    proof = prove(name, lambda without: built(config, without), score_child)
    assert proof.alive, proof


@pytest.mark.parametrize(
    ("name", "stack"), [(n, s) for n in NAMES for s in ("spos", "darts", "child") if not works(n, s)]
)
def test_refuses_where_it_cannot_act(name: str, stack: str, make: Callable[..., Run]) -> None:
    settings = settings_of(name)
    with pytest.raises(InputError, match=settings.refuses[stack]):
        make(stack, {name: settings.arguments}).fit()


@pytest.mark.parametrize(("name", "stack"), combinations("spos", "darts", "child"))
def test_acts_in_a_whole_run(
    name: str, stack: str, make: Callable[..., Run], absent: Callable[[str], dict[str, Any]]
) -> None:
    run = make(stack, {name: settings_of(name).arguments})
    run.fit()
    (trick,) = run.tricks
    if trick.after_training:
        assert trick.acts == 0
        assert same(state(run), absent(stack))
    elif trick.guard:
        assert trick.acts > 0
        assert same(state(run), absent(stack))
    else:
        assert trick.acts > 0
        assert not same(state(run), absent(stack))
    assert all(value.isfinite().all() for value in state(run).values())


@pytest.mark.parametrize(
    ("name", "stack"), [c for c in combinations("spos", "darts", "child") if tricks()[c[0]].neutral is not None]
)
def test_is_the_identity_at_its_neutral_setting(
    name: str, stack: str, make: Callable[..., Run], absent: Callable[[str], dict[str, Any]]
) -> None:
    run = make(stack, {name: tricks()[name].neutral})
    if settings_of(name).acts_at_neutral:
        run.fit()
    else:
        with pytest.raises(DeadTrickError, match="never acted"):
            run.fit()
    assert run.module.steps_seen == 8
    assert same(state(run), absent(stack))


@pytest.mark.parametrize(("name", "stack"), combinations("darts"))
def test_off_equals_absent(
    name: str,
    stack: str,
    configure: Callable[..., Namespace],
    absent: Callable[[str], dict[str, Any]],
    tmp_path: Path,
) -> None:
    plain = tmp_path / "plain.yaml"
    plain.write_text(dump(configure(stack)))
    off = resolve([plain, f"recipes/tricks/{name}.yaml"], [f"--tricks.{name}", "null"])
    assert dump(off) == dump(configure(stack))
    run = built(off, None)
    assert run.tricks == []
    run.fit()
    assert same(state(run), absent(stack))


class KilledError(Exception):
    """The run is killed here."""


class Kill(pl.Callback):
    """Kills a run before batch number `at`, counted from 0."""

    def __init__(self, at: int) -> None:
        self.at = at

    def on_train_batch_start(self, trainer: pl.Trainer, *args: Any) -> None:
        if trainer.global_step == self.at:
            raise KilledError


@pytest.mark.parametrize(("name", "stack"), combinations(*ALGORITHMS))
def test_resumes_exactly(name: str, stack: str, make: Callable[..., Run], tmp_path: Path) -> None:
    chosen = {name: settings_of(name).arguments}
    make(stack, chosen, out=tmp_path / "straight").fit()
    straight = load_checkpoint(tmp_path / "straight")
    moments = {
        "end": ({"checkpoint.every_n_epochs": 1}, 5, 4),
        "middle": ({"checkpoint.every_n_steps": 3}, 5, 3),
        "last batch": ({"checkpoint.every_n_steps": 2}, 5, 4),  # before the epoch is closed
    }
    for when, (every, stop, saved) in moments.items():
        folder = tmp_path / when
        first = make(stack, chosen, every, folder)
        first.trainer.callbacks.append(Kill(stop))  # type: ignore[attr-defined]
        with pytest.raises(KilledError):
            first.fit()
        assert load_checkpoint(folder)["nastricks"]["steps_seen"] == saved
        second = make(stack, chosen, every, folder)
        second.fit(str(folder / LAST))
        resumed = load_checkpoint(folder)
        for part in ("state_dict", "optimizer_states", "nastricks"):
            assert same(resumed[part], straight[part]), f"{part} differs when resumed from the {when} of an epoch"
        acts = [trick.acts for trick in second.tricks]
        assert acts == [c["acts"] for c in straight["callbacks"].values() if "acts" in c]
        assert (folder / "metrics.csv").read_text() == (tmp_path / "straight" / "metrics.csv").read_text()


@pytest.mark.parametrize(("name", "stack"), combinations(*ALGORITHMS))
def test_runs_in_bf16(name: str, stack: str, make: Callable[..., Run]) -> None:
    run = make(stack, {name: settings_of(name).arguments}, {"trainer.precision": "bf16-mixed"})
    run.fit()
    assert {p.dtype for p in run.module.parameters()} == {torch.float32}
    assert all(value.isfinite().all() for value in state(run).values())


@pytest.mark.parametrize(("one", "other"), list(itertools.combinations([n for n in NAMES if n in SETTINGS], 2)))
def test_pairs_survive(one: str, other: str, make: Callable[..., Run]) -> None:
    chosen = {name: settings_of(name).arguments for name in (one, other)}
    steps = max(settings_of(name).steps for name in chosen)
    run = make("darts", chosen, {"trainer.max_steps": steps})
    run.fit()
    assert run.module.steps_seen == steps
    assert {t.name for t in run.tricks if t.acts > 0 or t.after_training} == {one, other}
    assert all(value.isfinite().all() for value in state(run).values())


@pytest.mark.parametrize("name", NAMES)
def test_recipe_round_trips(name: str, tmp_path: Path) -> None:
    stack = ("recipes/spaces/tiny64.yaml", "recipes/data/digits.yaml", "recipes/algorithms/darts.yaml")
    config = resolve([*stack, f"recipes/tricks/{name}.yaml"])
    again = tmp_path / "again.yaml"
    again.write_text(dump(config))
    assert dump(resolve([again])) == dump(config)
    given = config.tricks[name]
    given = vars(given.init_args if "init_args" in given else given)
    parameters = inspect.signature(tricks()[name]).parameters
    defaults = {key: p.default for key, p in parameters.items()} | settings_of(name).documented
    assert dict(given) == defaults


@pytest.mark.parametrize("stack", ALGORITHMS)
@pytest.mark.parametrize("name", [n for n in NAMES if tricks()[n].around_gradients is not Trick.around_gradients])
def test_second_passes_see_the_same(name: str, stack: str, make: Callable[..., Run]) -> None:
    chosen = {n: settings_of(n).arguments for n in (name, "mixup", "cutout", "drop_path", "auxiliary_skip")}
    if stack == "darts":
        chosen["arch_perturbation"] = {"kind": "adversarial"}  # the passes of the attack itself are in eval mode
    run = make(stack, chosen)
    observer = Observer(run.data, None, 6, 0, None)
    run.trainer.callbacks.append(observer)  # type: ignore[attr-defined]
    run.fit()
    seen, policy_passes = observer.seen, int(stack == "darts")
    assert len(seen.images) == 2 + policy_passes
    for passes in (seen.images, seen.gates, seen.targets):
        assert torch.equal(passes[-2], passes[-1])
    mixed = make(stack, {"mixup": {"alpha": 1.0}})
    plain = Observer(mixed.data, None, 6, 0, None)
    mixed.trainer.callbacks.append(plain)  # type: ignore[attr-defined]
    mixed.fit()
    assert torch.equal(plain.seen.targets[-1], seen.targets[-1])  # the mix is that of a run without a second pass
