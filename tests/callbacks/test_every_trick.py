"""One suite over every trick that is found. A new trick needs a line in proofs/settings.py, or the suite fails."""

import inspect
import itertools
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from jsonargparse import Namespace

from nastricks.commands.check import built, score_child
from nastricks.errors import DeadTrickError, InputError
from nastricks.modules import Trick
from nastricks.modules.proof import Observer, prove
from nastricks.modules.registry import tricks
from nastricks.recipe import dump, resolve
from nastricks.run import Run
from proofs.settings import SETTINGS, Settings
from proofs.small_runs import INTERRUPTIONS, difference_after_resuming, same

# Lightning 2.6.6 asks torch's pytrees in a way that torch 2.15 deprecates.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
]

ROOT = Path(__file__).parents[2]
NAMES = sorted(tricks())
ALGORITHMS = ("spos", "darts")
# Tricks that pairs with those of sizes are tried with.
OF_ALL = ("bn_calibration", "distillation", "ghost_batch_norm", "mixup", "norm_swap", "sam", "sgdr")
ALSO = {("sandwich", name) for name in OF_ALL}


def settings_of(name: str) -> Settings:
    assert name in SETTINGS, f"trick {name} has no settings: add a line to proofs/settings.py"
    return SETTINGS[name]


def works(name: str, stack: str) -> bool:
    settings = settings_of(name)
    return stack in settings.also if stack == "sandwich" else stack not in settings.refuses


def combinations(*stacks: str) -> list[tuple[str, str]]:
    """Every trick with the stacks that it works on, those that it is tested on besides included."""
    return [(n, s) for n in NAMES if n in SETTINGS for s in (*stacks, *SETTINGS[n].also) if works(n, s)]


def pairs() -> list[tuple[str, str, str]]:
    """Each two tricks on the first stack on which both work; those that no stack here takes are tried elsewhere."""
    found = []
    for one, other in itertools.combinations([n for n in NAMES if n in SETTINGS], 2):
        stacks = ("darts", "spos", "sandwich")
        shared = [s for s in stacks if all(works(n, s) or (s, n) in ALSO for n in (one, other))]
        found += [(one, other, shared[0])] if shared else []
    return found


def state(run: Run) -> dict[str, Any]:
    """Weights, buffers and policy."""
    return {key: value for key, value in run.module.state_dict().items() if isinstance(value, torch.Tensor)}


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


@pytest.mark.parametrize(("name", "stack"), combinations(*ALGORITHMS))
def test_resumes_exactly(name: str, stack: str, make: Callable[..., Run], tmp_path: Path) -> None:
    chosen = {name: settings_of(name).arguments}
    make(stack, chosen, out=tmp_path / "straight").fit()
    for when in INTERRUPTIONS:
        difference = difference_after_resuming(
            lambda more, out: make(stack, chosen, more, out), tmp_path / "straight", tmp_path / when, when
        )
        assert difference is None, f"resumed from the {when} of an epoch: {difference}"


@pytest.mark.parametrize(("name", "stack"), combinations(*ALGORITHMS))
def test_runs_in_bf16(name: str, stack: str, make: Callable[..., Run]) -> None:
    run = make(stack, {name: settings_of(name).arguments}, {"trainer.precision": "bf16-mixed"})
    run.fit()
    assert {p.dtype for p in run.module.parameters()} == {torch.float32}
    assert all(value.isfinite().all() for value in state(run).values())


@pytest.mark.parametrize(("one", "other", "stack"), pairs())
def test_pairs_survive(one: str, other: str, stack: str, make: Callable[..., Run]) -> None:
    chosen = {name: settings_of(name).arguments for name in (one, other)}
    steps = max(settings_of(name).steps for name in chosen)
    run = make(stack, chosen, {"trainer.max_steps": steps})
    refused = settings_of(one).excludes.get(other) or settings_of(other).excludes.get(one)
    if refused is not None:
        with pytest.raises(InputError, match=refused):
            run.fit()
        return
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
    given = vars(given.init_args) if "init_args" in given else {}
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
