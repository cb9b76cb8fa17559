"""What goes and what stays, by hand; legal spaces; and whole runs."""

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import pytest
import pytorch_lightning as pl
import torch
from jsonargparse import Namespace

from nastricks.callbacks.op_pruning import OpPruning, options_left, prune
from nastricks.commands.check import built, score_child
from nastricks.data.batch import ImageSpec
from nastricks.derivations import Argmax, BestEdges, Derivation, Perturbation, Threshold, Trained
from nastricks.errors import InputError
from nastricks.modules import SupernetModule, TrainingModule
from nastricks.modules.measures import strengths_of
from nastricks.modules.proof import prove
from nastricks.moment import Moment
from nastricks.policies import EdgeNormalised, Policy, Sigmoid, Softmax
from nastricks.rng import generator
from nastricks.run import Run
from nastricks.spaces import DARTS, Allowed, Choice, Network, Option, Space
from nastricks.spaces.legality import first_legal

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
]

STRENGTHS = {"a": {0: 0.4, 1: 0.3, 2: 0.2, 3: 0.1}, "b": {0: 0.05, 1: 0.9, 2: 0.05}, "c": {2: 1.0}}


def anything(allowed: Allowed) -> bool:
    return True


def test_options_go_one_after_another() -> None:
    assert [options_left(e / 7, 8, 1) for e in range(8)] == [8, 7, 6, 5, 4, 3, 2, 1]
    assert [options_left(part, 4, 2) for part in (-1.0, 0.0, 0.49, 0.5, 0.99, 1.0, 2.0)] == [4, 4, 4, 3, 3, 2, 2]
    assert [options_left(part, 2, 3) for part in (0.0, 0.5, 1.0)] == [2, 2, 2]


def test_the_strongest_stay() -> None:
    assert prune(STRENGTHS, {"a": 2, "b": 1, "c": 1}, anything) == {"a": (0, 1), "b": (1,), "c": (2,)}
    assert prune(STRENGTHS, {"a": 4, "b": 2, "c": 1}, anything) == {"a": (0, 1, 2, 3), "b": (1, 2), "c": (2,)}


def test_a_threshold_and_its_limit() -> None:
    one = dict.fromkeys("abc", 1)
    assert prune(STRENGTHS, one, anything, below=0.2) == {"a": (0, 1, 2), "b": (1,), "c": (2,)}
    assert prune(STRENGTHS, one, anything, below=2.0) == {"a": (0,), "b": (1,), "c": (2,)}  # never the last one
    assert prune(STRENGTHS, one, anything, below=0.2, most=1) == {"a": (0, 1, 2, 3), "b": (1, 2), "c": (2,)}
    assert prune(STRENGTHS, one, anything, below=0.01) == {name: tuple(own) for name, own in STRENGTHS.items()}


def test_an_option_without_which_nothing_is_legal_stays() -> None:
    def needs_the_weakest_of_a(allowed: Allowed) -> bool:
        return 3 in allowed["a"]

    assert prune(STRENGTHS, dict.fromkeys("abc", 1), needs_the_weakest_of_a)["a"] == (3,)


def darts(strengths: Callable[[int], Sequence[float]]) -> tuple[Space, Softmax]:
    """A policy over the cells of DARTS: two inputs a node; `strengths(edge)` of none, skip and a convolution."""
    space = DARTS(channels=4, cells=3, operations=("none", "skip_connect", "sep_conv_3x3"))
    policy = Softmax(space)
    with torch.no_grad():
        for place, choice in enumerate(space.choices):
            policy.alpha[choice.name].copy_(torch.tensor(strengths(place)).log())
    return space, policy


def pruned(policy: Policy, k: int) -> dict[str, tuple[int, ...]]:
    space = policy.space
    return prune(strengths_of(policy), {c.name: k for c in space.choices}, lambda a: first_legal(space, a) is not None)


@pytest.mark.parametrize(
    "strengths",
    [
        lambda edge: [0.9, 0.06, 0.04],  # all edges would rather be absent
        lambda edge: [0.02, 0.5, 0.48],  # all edges would rather be there
        lambda edge: torch.rand(3, generator=generator(edge, "strengths")).clamp(0.01).tolist(),
    ],
)
def test_two_inputs_a_node_are_left_to_be_chosen(strengths: Callable[[int], Sequence[float]]) -> None:
    space, policy = darts(strengths)
    for k in (3, 2, 1):
        left = pruned(policy, k)
        assert first_legal(space, left) is not None
        assert {len(options) for options in left.values()} == {k}
    for name, options in left.items():
        policy.restrict(name, options)
    only = tuple(left[choice.name][0] for choice in space.choices)
    assert space.check(only) == only
    derivations: list[Derivation] = [Argmax(), BestEdges(), BestEdges(edges=2, skips=8), Threshold()]
    for derivation in derivations:
        assert derivation.derive(Trained(space, policy, dict)) == only
    assert Perturbation().derive(Trained(space, policy, dict, lambda draw: 0.0)) == only


def test_the_strongest_edges_survive_where_none_is_strong() -> None:
    space, policy = darts(lambda edge: [0.9, 0.001 * (edge + 1), 0.0005])
    left = pruned(policy, 1)
    kept = [choice.name for choice in space.choices if left[choice.name] != (0,)]
    assert [name for name in kept if name.startswith("normal_5")] == ["normal_5_3", "normal_5_4"]
    assert len(kept) == 16


def test_what_is_pruned_is_obeyed_and_weights_sum_to_one() -> None:
    space, policy = darts(lambda edge: [0.2, 0.5, 0.3])
    for name, options in pruned(policy, 2).items():
        policy.restrict(name, options)
    (gates,) = policy.propose(Moment("weights", 0))
    for name, gate in gates.items():
        assert gate.active == policy.allowed[name]
        assert gate.weights is not None
        assert float(gate.weights.sum().detach()) == pytest.approx(1)
    gone = tuple(next(i for i in range(3) if i not in policy.allowed[c.name]) for c in space.choices)
    assert policy.log_prob(gone) == -math.inf


@pytest.mark.parametrize("kind", [Softmax, EdgeNormalised])
def test_none_that_is_no_part_of_the_search_is_always_there(kind: Callable[[Space], Policy]) -> None:
    """S2 of RobustDARTS: one operation an edge is left, and an architecture still leaves edges out."""
    space = DARTS(channels=4, cells=3, operations="s2")
    policy, trick = kind(space), OpPruning(k=1)
    trick.on_epoch(Held(space, policy), Moment("weights", 0, step=9, steps_per_epoch=1, epochs=10))  # type: ignore[arg-type]
    assert {len(options) for options in policy.allowed.values()} == {1}
    picked = BestEdges().derive(Trained(space, policy, dict))
    assert space.check(picked) == picked
    assert trick.acts == 1


class Held:
    """What the trick reads of a module."""

    def __init__(self, space: Space, policy: Policy) -> None:
        self.space, self.policy = space, policy
        self.networks = [Network({}, policy.allowed)]


class Watch(pl.Callback):
    """How many options each choice has during each epoch."""

    def __init__(self) -> None:
        self.sizes: list[list[int]] = []

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        assert isinstance(pl_module, TrainingModule)
        if trainer.is_last_batch:
            self.sizes.append([len(options) for options in pl_module.policy.allowed.values()])


@pytest.mark.parametrize(
    ("arguments", "expected", "acts"),
    [
        ({"k": 1}, [4, 4, 3, 3, 2, 1], 3),  # begins at the start of the run, ends at the start of the last epoch
        ({"k": 2}, [4, 4, 4, 3, 3, 2], 2),
        ({"start": 0.5}, [4, 4, 4, 4, 3, 1], 2),
        ({"start": 0.3, "end": 0.5}, [4, 4, 4, 1, 1, 1], 1),
        ({"rule": "threshold", "threshold": 0.9, "end": 0.2}, [4, 1, 1, 1, 1, 1], 1),
    ],
)
def test_the_schedule_of_a_run(
    arguments: dict[str, Any], expected: list[int], acts: int, make: Callable[..., Run]
) -> None:
    run, watch = make("darts", {"op_pruning": arguments}, {"trainer.max_epochs": 6}), Watch()
    run.trainer.callbacks.append(watch)  # type: ignore[attr-defined]
    run.fit()
    assert watch.sizes == [[n] * 3 for n in expected]
    assert run.tricks[0].acts == acts


def test_a_threshold_is_alive_where_it_looks(configure: Callable[..., Namespace]) -> None:
    config = configure("darts", {"op_pruning": {"rule": "threshold", "threshold": 0.01}})
    proof = prove("op_pruning", lambda without: built(config, without), score_child)
    assert proof.alive
    assert (proof.first, proof.step) == (4, 4)
    assert proof.measured.words == "0 options below 0.01"


def test_the_last_one_is_derived(make: Callable[..., Run]) -> None:
    run = make("darts", {"op_pruning": {"k": 1}}, {"trainer.max_epochs": 3})
    run.fit()
    module = run.module
    assert isinstance(module, SupernetModule)
    only = tuple(module.policy.allowed[choice.name][0] for choice in module.space.choices)
    assert module.derivation.derive(Trained(module.space, module.policy, dict)) == only


def test_edge_weights_count() -> None:
    """PC-DARTS: the strength of an option is the product, and both masks are one."""
    space = DARTS(channels=4, cells=3, operations=("none", "skip_connect", "sep_conv_3x3"))
    policy = EdgeNormalised(space)
    with torch.no_grad():
        policy.beta["normal_node3"].copy_(torch.tensor([0.0, 5.0, 5.0]))
    left = prune(strengths_of(policy), {c.name: 1 for c in space.choices}, anything, below=0.05)
    assert [name for name, options in left.items() if len(options) == 1] == ["normal_3_0"]
    policy.restrict("normal_3_0", left["normal_3_0"])
    assert policy.operations.allowed["normal_3_0"] == left["normal_3_0"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"rule": "best"}, r"op_pruning.rule is 'best': expected 'top_k' or 'threshold'"),
        ({"k": 0}, r"op_pruning.k is 0: expected at least 1"),
        ({"threshold": 0.1}, r"op_pruning.threshold is 0.1, which the rule 'top_k' does not read"),
        ({"most": 2}, r"op_pruning.most is 2, which the rule 'top_k' does not read"),
        ({"rule": "threshold", "k": 2}, r"op_pruning.k is 2, which the rule 'threshold' does not read"),
        ({"rule": "threshold", "threshold": 1.0}, r"op_pruning.threshold is 1.0: expected a number in \(0, 1\)"),
        ({"rule": "threshold", "most": 0}, r"op_pruning.most is 0: expected at least 1"),
        ({"start": 0.5, "end": 0.5}, r"op_pruning.start is 0.5 and end 0.5: expected 0 <= start < end <= 1"),
        ({"end": 1.5}, r"op_pruning.start is 0.0 and end 1.5"),
    ],
)
def test_bad_values_are_refused(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        OpPruning(**arguments)


def test_what_cannot_act_is_refused(make: Callable[..., Run]) -> None:
    with pytest.raises(InputError, match=r"op_pruning.k is 4, and no choice of tiny64 has more options"):
        make("darts", {"op_pruning": {"k": 4}}).fit()
    with pytest.raises(InputError, match=r"op_pruning.start is 0.6, and the last of 2 epochs begins at 0.5 of the run"):
        make("darts", {"op_pruning": {"start": 0.6}}).fit()


class OnOff(Space):
    """Six operations of two nodes, each on or off; a node needs one."""

    name: ClassVar[str] = "on_off"

    def __init__(self) -> None:
        options = (Option("off", learns=False, absent=True), Option("on"))
        self.choices = tuple(Choice(f"op{i}", options, node=f"node{i // 3}") for i in range(6))

    def build(self, spec: ImageSpec, allowed: Allowed) -> Network:
        raise AssertionError("nothing is built")

    def legal(self, prefix: Sequence[int]) -> tuple[int, ...]:
        return (1,) if len(prefix) % 3 == 2 and not any(prefix[-2:]) else (0, 1)


def test_on_or_off_choices_are_pruned_by_sigmoid_gates() -> None:
    """What GOLD-NAS needs: each operation of each edge on or off, and the weakest few go at a time."""
    space = OnOff()
    policy = Sigmoid(space)
    with torch.no_grad():
        for place, choice in enumerate(space.choices):
            policy.alpha[choice.name].copy_(torch.tensor([0.0, place - 4.0]))  # on: 0.02, 0.05, 0.12, 0.27, 0.5, 0.73
    seen = []
    for _ in range(4):
        one = {choice.name: 1 for choice in space.choices}
        left = prune(strengths_of(policy), one, lambda a: first_legal(space, a) is not None, below=0.3, most=2)
        for name, options in left.items():
            policy.restrict(name, options)
        seen.append([name for name, options in left.items() if options == (0,)])
    # op2 is as weak as the others that went, and the last of its node.
    assert seen == [["op0", "op1"], ["op0", "op1", "op3"], ["op0", "op1", "op3"], ["op0", "op1", "op3"]]
    assert Threshold(0.6, edges=None).derive(Trained(space, policy, dict)) == (0, 0, 1, 0, 0, 1)
