"""One choice after another keeps the option that the supernet misses most, and training goes on in between."""

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from nastricks.callbacks.op_projection import OpProjection, project_choice, project_node, projection_rounds
from nastricks.derivations import Argmax, Draw, Trained
from nastricks.errors import InputError
from nastricks.modules import TrainingModule
from nastricks.modules.run_folder import load_checkpoint
from nastricks.moment import Moment
from nastricks.policies import Softmax
from nastricks.ranking.derive import derived
from nastricks.recipe import resolve
from nastricks.run import Run, build
from nastricks.spaces import DARTS, Choice, Gate, Option, Tiny64
from nastricks.spaces.legality import absent_option, edges_of_nodes

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
]

NONE, CONV, POOL, SKIP = range(4)
NOW = Moment("evaluation", 0)


class Node(Tiny64):
    """A node with three edges, of which exactly two are there."""

    def __init__(self) -> None:
        options = (Option("none", learns=False, absent=True), Option("conv"), Option("pool"), Option("skip", skip=True))
        self.choices = tuple(Choice(f"edge{i}", options, node="node") for i in (1, 2, 3))

    def legal(self, prefix: Sequence[int]) -> tuple[int, ...]:
        there, left = sum(index != NONE for index in prefix), 3 - len(prefix)
        return ((NONE,) if there + left > 2 else ()) + ((CONV, POOL, SKIP) if there < 2 else ())


def worth(values: dict[tuple[str, int], float]) -> Callable[[Draw], float]:
    """An accuracy that is the sum of what the active options are worth."""

    def accuracy(draw: Draw) -> float:
        gates = draw(NOW)
        return sum(values.get((name, index), 0.0) for name, gate in gates.items() for index in gate.active)

    return accuracy


# The order.


def test_rounds_name_every_choice_once_and_nodes_come_after_their_cell() -> None:
    space = DARTS(channels=4, cells=3)
    rounds = projection_rounds(space, space.all_options(), edges=2, at_once=1, seed=0)
    assert len(rounds) == 14 + 3  # of each cell, 14 edges and the three nodes with more than two
    assert all(len(parts) == 2 for parts in rounds)
    choices = [part for parts in rounds[:14] for part in parts]
    assert sorted(choices) == [(place,) for place in range(28)]
    nodes = [part for parts in rounds[14:] for part in parts]
    assert sorted(len(part) for part in nodes) == [3, 3, 4, 4, 5, 5]
    again = projection_rounds(space, space.all_options(), edges=2, at_once=1, seed=0)
    assert again == rounds
    assert projection_rounds(space, space.all_options(), edges=2, at_once=1, seed=1) != rounds


def test_several_at_once_and_no_nodes_without_edges() -> None:
    space = DARTS(channels=4, cells=3)
    assert len(projection_rounds(space, space.all_options(), edges=2, at_once=7, seed=0)) == 2 + 1
    assert len(projection_rounds(space, space.all_options(), edges=None, at_once=1, seed=0)) == 14
    tiny = Tiny64()
    assert projection_rounds(tiny, {"layer1": (0, 1), "layer2": (2,), "layer3": (3,)}, 2, 1, 0) == [[(0,)]]


# The rules, by hand.


def test_a_choice_keeps_what_is_missed_most_and_none_is_no_operation() -> None:
    policy = Softmax(Node())
    accuracy = worth({("edge2", NONE): 9.0, ("edge2", POOL): 2.0, ("edge2", CONV): 1.0})
    project_choice(policy, 1, 2, accuracy)
    assert policy.allowed["edge2"] == (POOL,)
    assert policy.allowed["edge1"] == (NONE, CONV, POOL, SKIP)
    project_choice(policy, 2, None, worth({("edge3", NONE): 9.0, ("edge3", POOL): 2.0}))
    assert policy.allowed["edge3"] == (NONE,), "without edges to keep, none is an option like the others"


def test_a_node_keeps_the_edges_that_are_missed_most() -> None:
    policy = Softmax(Node())
    for choice in policy.space.choices:
        policy.restrict(choice.name, [CONV])
    accuracy = worth({("edge1", CONV): 0.1, ("edge2", CONV): 0.5, ("edge3", CONV): 0.3})
    project_node(policy, (0, 1, 2), [True] * 3, 2, accuracy)
    assert policy.allowed == {"edge1": (NONE,), "edge2": (CONV,), "edge3": (CONV,)}


def test_an_edge_that_may_not_go_stays() -> None:
    policy = Softmax(Node())
    for choice in policy.space.choices:
        policy.restrict(choice.name, [CONV])
    accuracy = worth({("edge1", CONV): 0.1, ("edge2", CONV): 0.5, ("edge3", CONV): 0.3})
    project_node(policy, (0, 1, 2), [False, True, True], 2, accuracy)
    assert policy.allowed == {"edge1": (CONV,), "edge2": (CONV,), "edge3": (NONE,)}


# In a run.


class Watch(pl.Callback):
    """What is allowed before each step, and the weights and alpha after it."""

    def __init__(self) -> None:
        self.allowed: list[dict[str, tuple[int, ...]]] = []
        self.alpha: list[torch.Tensor] = []
        self.weights: list[torch.Tensor] = []

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        assert isinstance(pl_module, TrainingModule)
        self.allowed.append(dict(pl_module.policy.allowed))
        self.alpha.append(torch.cat([p.detach().flatten().clone() for p in pl_module.policy.parameters()]))
        self.weights.append(torch.cat([p.detach().flatten() for p in pl_module.networks.parameters()]))


def watched(run: Run) -> Watch:
    watch = Watch()
    run.trainer.callbacks.append(watch)  # type: ignore[attr-defined]
    run.fit()
    return watch


def test_choices_are_decided_every_so_many_epochs_and_training_goes_on(
    make: Callable[..., Run], tmp_path: Path
) -> None:
    run = make("darts", {"op_projection": {"tune_epochs": 2}}, {"trainer.max_epochs": 6}, tmp_path)
    watch = watched(run)  # four steps an epoch
    sizes = [sum(len(options) for options in allowed.values()) for allowed in watch.allowed]
    assert sizes == [12] * 4 + [9] * 8 + [6] * 8 + [3] * 4
    assert all(not torch.equal(a, b) for a, b in zip(watch.weights, watch.weights[1:], strict=False))
    assert not torch.equal(watch.alpha[4], watch.alpha[11]), "alpha goes on, too"
    end = {name: options[0] for name, options in run.module.policy.allowed.items()}
    picked = run.module.space.format(tuple(end.values()))
    assert derived(tmp_path, tmp_path) == picked
    assert load_checkpoint(tmp_path)["state_dict"]["policy._extra_state"]["allowed"] == {n: [i] for n, i in end.items()}
    (trick,) = run.tricks
    assert trick.acts == 3


class Missing(pl.Callback):
    """Hits without each option of each choice, counted by hand on a copy of the network before the second epoch."""

    def __init__(self) -> None:
        self.hits: dict[str, list[int]] = {}

    @torch.no_grad()
    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        if trainer.global_step != 4:
            return
        module: Any = pl_module
        network = copy.deepcopy(module.networks[0]).train()  # in train mode, norms use the statistics of the batch
        for choice in module.space.choices:
            for option in range(4):
                gates = {
                    c.name: Gate((0, 1, 2, 3), torch.softmax(module.policy.alpha[c.name], 0))
                    for c in module.space.choices
                }
                left = [i for i in range(4) if i != option]
                gates[choice.name] = Gate(tuple(left), torch.softmax(module.policy.alpha[choice.name], 0)[left])
                batches = trainer.datamodule.evaluation_batches("validation")  # type: ignore[attr-defined]
                hits = [int((network(b.images, gates).argmax(1) == b.labels).sum()) for b in batches]
                self.hits.setdefault(choice.name, []).append(sum(hits))


def test_what_is_kept_is_what_the_supernet_misses_most(make: Callable[..., Run]) -> None:
    run, missing = make("darts", {"op_projection": {"tune_epochs": 5}}, {"trainer.max_epochs": 12}), Missing()
    run.trainer.callbacks.append(missing)  # type: ignore[attr-defined]
    watch = watched(run)
    (decided,) = [name for name, options in watch.allowed[4].items() if len(options) == 1]
    assert len(set(missing.hits[decided])) > 1
    assert watch.allowed[4][decided] == (min(range(4), key=lambda option: missing.hits[decided][option]),)


@pytest.mark.parametrize(
    ("arguments", "epochs", "needed"),
    [
        ({"tune_epochs": 5}, 11, 12),
        ({"tune_epochs": 1}, 3, 4),
        ({"at_once": 2, "tune_epochs": 4}, 5, 6),
        ({"at_once": 3}, 1, 2),
    ],
)
def test_a_run_that_is_too_short_is_told_how_long_it_must_be(
    arguments: dict[str, int], epochs: int, needed: int, make: Callable[..., Run]
) -> None:
    run = make("darts", {"op_projection": arguments}, {"trainer.max_epochs": epochs})
    with pytest.raises(InputError, match=rf"the run has {epochs}: set trainer.max_epochs to {needed},"):
        run.check()
    make("darts", {"op_projection": arguments}, {"trainer.max_epochs": needed}).check()


def test_a_length_in_steps_is_counted_too(make: Callable[..., Run]) -> None:
    run = make("darts", {"op_projection": {"tune_epochs": 5}}, {"trainer.max_epochs": -1, "trainer.max_steps": 20})
    with pytest.raises(InputError, match=r"the run has 5: set trainer.max_epochs to 12"):
        run.fit()
    assert run.module.steps_seen == 0


@pytest.mark.parametrize("name", ["tune_epochs", "edges", "at_once"])
def test_bad_values_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=rf"op_projection.{name} is 0: expected at least 1"):
        OpProjection(**{name: 0})


def test_more_edges_than_a_node_takes_are_refused_before_training() -> None:
    stack = ["recipes/spaces/darts.yaml", "recipes/data/digits.yaml", "recipes/algorithms/published/darts.yaml"]
    tricks = ["--space.init_args.channels=4", "--tricks.op_projection={edges: null, tune_epochs: 1}"]
    with pytest.raises(InputError, match=r"op_projection.edges is null, .* takes at most 2 inputs: set op_projection"):
        build(resolve(stack, tricks), None, quiet=True).check()


@pytest.mark.parametrize("operations", ["s2", "s4"])
def test_edges_leave_where_the_search_does_not_know_none(operations: str) -> None:
    """S1, S2 and S4 of RobustDARTS: two edges of each node are left, those that are missed most."""
    space = DARTS(channels=4, cells=3, operations=operations)  # type: ignore[arg-type]
    policy = Softmax(space)
    for choice in space.choices:
        policy.restrict(choice.name, [2])
    nodes = edges_of_nodes(space)
    places = tuple(nodes["normal_node5"])
    accuracy = worth({(space.choices[place].name, 2): 0.1 * number for number, place in enumerate(places)})
    may_go = [absent_option(choice) in policy.derivable[choice.name] for choice in space.choices]
    project_node(policy, places, may_go, 2, accuracy)
    left = [policy.allowed[space.choices[place].name][0] for place in places]
    assert left == [0, 0, 0, 2, 2]


def test_a_search_space_without_none_is_projected() -> None:
    stack = ["recipes/spaces/darts_s2.yaml", "recipes/data/digits.yaml", "recipes/algorithms/published/darts.yaml"]
    small = {
        "space.init_args.channels": 4,
        "space.init_args.cells": 3,
        "data.init_args.train_size": 16,
        "data.init_args.search_size": 16,
        "data.init_args.validation_size": 16,
        "data.init_args.batch_size": 16,
        "trainer.accelerator": "cpu",
        "trainer.max_epochs": 3,
        "tricks.op_projection": "{tune_epochs: 1, at_once: 14}",
        "model.init_args.derivation": "nastricks.derivations.Argmax",
    }
    run = build(resolve(stack, [f"--{key}={value}" for key, value in small.items()]), None, quiet=True)
    run.fit()
    space, policy = run.module.space, run.module.policy
    settled = [policy.allowed[choice.name] for choice in space.choices]
    assert all(len(options) == 1 for options in settled)
    for places in edges_of_nodes(space).values():
        assert sum(settled[place] != (0,) for place in places) == 2
    found = Argmax().derive(Trained(space, policy, dict))
    assert found == tuple(options[0] for options in settled)
