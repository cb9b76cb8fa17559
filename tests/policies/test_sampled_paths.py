"""Sampled paths: who runs at a step, and how often."""

from collections import Counter
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import pytorch_lightning as pl
import torch
from jsonargparse import Namespace

from nastricks.data import ImageSpec
from nastricks.errors import InputError
from nastricks.moment import Moment
from nastricks.policies import (
    AllOptions,
    MonteCarloTree,
    Policy,
    Prioritised,
    Sandwich,
    StrictFairness,
    Sweep,
    UniformPath,
)
from nastricks.run import Run
from nastricks.spaces import (
    Allowed,
    Architecture,
    Choice,
    GatedOps,
    Gates,
    NASNet,
    Network,
    Option,
    Space,
    Tiny64,
    WeightSharing64,
)

SPACE = Tiny64(channels=4)


class Sizes(Space):
    """Three widths and two depths; never built."""

    name: ClassVar[str] = "sizes"
    choices = (
        Choice("width", tuple(Option(n) for n in ("w4", "w8", "w16")), kind="nested"),
        Choice("depth", tuple(Option(n) for n in ("d1", "d2")), kind="nested"),
    )

    def build(self, spec: ImageSpec, allowed: Allowed) -> Network:
        raise AssertionError("only its choices are asked for")


def at(step: int, seed: int = 0) -> Moment:
    return Moment(role="weights", seed=seed, step=step)


def paths(policy: Policy, step: int, seed: int = 0) -> list[Architecture]:
    def path(gates: Gates) -> Architecture:
        assert all(len(gate.active) == 1 and gate.weights is None for gate in gates.values())
        return tuple(gates[choice.name].active[0] for choice in policy.space.choices)

    return [path(gates) for gates in policy.propose(at(step, seed))]


@pytest.mark.parametrize("shuffled", [False, True])
def test_a_sweep_trains_each_child_once_a_round(shuffled: bool) -> None:
    policy = Sweep(SPACE, shuffled)
    rounds = [[paths(policy, 64 * turn + place)[0] for place in range(64)] for turn in range(3)]
    everyone = list(SPACE.architectures())
    for found in rounds:
        assert sorted(found) == everyone
        assert (found == everyone) == (not shuffled)
    assert (rounds[0] == rounds[1]) == (not shuffled)
    again = Sweep(SPACE, shuffled)
    assert [paths(again, step)[0] for step in (100, 3, 65)] == [rounds[1][36], rounds[0][3], rounds[1][1]]
    assert (paths(policy, 0, seed=1) == paths(policy, 0)) == (not shuffled)


def test_a_sweep_obeys_the_mask_and_refuses_spaces_that_it_cannot_go_round() -> None:
    policy = Sweep(SPACE)
    paths(policy, 0)
    policy.restrict("layer2", [1, 3])
    assert {paths(policy, step)[0][1] for step in range(32)} == {1, 3}
    assert len({paths(policy, step)[0] for step in range(32)}) == 32
    with pytest.raises(InputError, match="expected at most 100,000 to list them"):
        Sweep(NASNet())


def test_after_every_step_each_option_has_run_equally_often() -> None:
    policy = StrictFairness(SPACE)
    seen: set[Architecture] = set()
    for step in range(40):
        found = paths(policy, step)
        assert len(found) == 4
        for place in range(3):
            assert Counter(path[place] for path in found) == dict.fromkeys(range(4), 1)
        seen.update(found)
    assert len(seen) > 50  # of 64


@pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning")
def test_after_every_step_of_a_run_each_option_has_been_updated_equally_often(make: Callable[..., Run]) -> None:
    """Gradients that reached the parameters of each operation, counted when they come."""
    fair = Namespace(class_path="nastricks.policies.StrictFairness", init_args=Namespace())
    run = make("spos", changes={"model.init_args.policy": fair})
    layers = [module for module in run.module.networks.modules() if isinstance(module, GatedOps)]
    updates = Counter[str]()
    for layer in layers:
        for name, op in layer.ops.items():
            key = f"{layer.choice_name} {name}"
            for parameter in list(op.parameters())[:1]:  # an identity has none
                parameter.register_hook(lambda gradient, key=key: updates.update([key]))
    after: list[Counter[str]] = []

    class Note(pl.Callback):
        def on_train_batch_end(self, *args: Any) -> None:
            after.append(Counter(updates))

    run.trainer.callbacks.append(Note())  # type: ignore[attr-defined]
    run.fit()
    assert len(layers) == 3
    assert len(updates) == 9
    assert after == [Counter(dict.fromkeys(updates, steps)) for steps in range(1, 9)]


@pytest.mark.parametrize(
    "make_policy",
    [
        lambda: UniformPath(SPACE, paths=3),
        lambda: Sweep(SPACE),
        lambda: StrictFairness(SPACE),
        lambda: Sandwich(Sizes()),
        lambda: Prioritised(SPACE),
        lambda: MonteCarloTree(SPACE),
    ],
)
def test_every_process_and_micro_batch_runs_the_same_paths(make_policy: Callable[[], Policy]) -> None:
    policy = make_policy()
    here = [policy.propose(at(step)) for step in range(20)]
    there = [policy.propose(at(step).at(rank=3, micro_batch=2, samples=9)) for step in range(20)]
    assert here == there
    assert any(here[0] != other for other in here[1:])


def test_fairness_between_choices_of_different_sizes_takes_their_least_common_multiple() -> None:
    policy = StrictFairness(Sizes())
    found = paths(policy, 3)
    assert len(found) == 6
    assert Counter(p[0] for p in found) == {0: 2, 1: 2, 2: 2}
    assert Counter(p[1] for p in found) == {0: 3, 1: 3}


def test_fairness_is_refused_where_choices_limit_one_another() -> None:
    class Limited(Tiny64):
        def legal(self, prefix: Architecture) -> tuple[int, ...]:  # type: ignore[override]
            return tuple(i for i in range(4) if not prefix or i != prefix[-1])

    with pytest.raises(InputError, match="one choice limits another: use UniformPath"):
        StrictFairness(Limited(4))


@pytest.mark.parametrize(("randoms", "smallest"), [(2, True), (0, True), (3, False)])
def test_the_sandwich_is_the_largest_some_random_and_the_smallest(randoms: int, smallest: bool) -> None:
    policy = Sandwich(Sizes(), randoms, smallest)
    middles: Counter[Architecture] = Counter()
    for step in range(200):
        found = paths(policy, step)
        assert found[0] == (2, 1)
        assert len(found) == 1 + randoms + smallest
        assert (found[-1] == (0, 0)) or not smallest
        middles.update(found[1 : 1 + randoms])
    assert len(middles) == (6 if randoms else 0)
    policy.restrict("width", [0, 1])
    assert paths(policy, 0)[0] == (1, 1)


def test_the_ends_of_a_sandwich_can_be_named() -> None:
    policy = Sandwich(SPACE, randoms=1, smallest="444", largest="333")
    found = paths(policy, 5)
    assert (found[0], found[-1], len(found)) == ((2, 2, 2), (3, 3, 3), 3)
    assert [len(paths(Sandwich(SPACE, 3, False, "333"), step)) for step in range(3)] == [4, 4, 4]
    policy.restrict("layer2", [0, 2, 3])
    with pytest.raises(InputError, match=r"Sandwich trains 333 in every step, and its sep_conv_5x5 of layer2 is not"):
        policy.restrict("layer2", [0, 3])
    with pytest.raises(InputError, match="layer1 of tiny64 has no order of sizes, so no child is the smallest"):
        Sandwich(SPACE, smallest=True, largest="333")
    with pytest.raises(InputError, match="'99' is no architecture of tiny64"):
        Sandwich(SPACE, largest="99", smallest=False)


def test_several_uniform_paths_a_step() -> None:
    one, four = UniformPath(SPACE), UniformPath(SPACE, paths=4)
    seen: Counter[Architecture] = Counter()
    for step in range(160):
        found = paths(four, step)
        assert len(found) == 4
        assert found[0] == paths(one, step)[0]  # the first is that of a single path
        seen.update(found)
    assert len(seen) == 64
    with pytest.raises(InputError, match=r"policy\.paths is 0"):
        UniformPath(SPACE, paths=0)


def test_a_sandwich_needs_an_order_of_sizes() -> None:
    with pytest.raises(InputError, match=r"layer1 of tiny64 has no order of sizes, so no child is the largest"):
        Sandwich(SPACE)
    with pytest.raises(InputError, match=r"policy\.randoms is -1"):
        Sandwich(Sizes(), randoms=-1)


@pytest.mark.parametrize("average", [True, False])
def test_all_options_run_at_once(average: bool) -> None:
    policy = AllOptions(WeightSharing64(), average)
    policy.restrict("edge02", [0, 3])
    (gates,) = policy.propose(at(0))
    assert gates["edge01"].active == (0, 1, 2, 3)
    assert gates["edge02"].active == (0, 3)
    for name, share in (("edge01", 0.25), ("edge02", 0.5)):
        weights = gates[name].weights
        assert (weights is None) == (not average)
        if weights is not None:
            assert torch.equal(weights, torch.full_like(weights, share))
    assert not policy.learns
