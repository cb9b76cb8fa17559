"""How often paths stay, that a node never loses all of them, and what of the gates is left."""

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from jsonargparse import Namespace
from torch import Tensor

from nastricks.callbacks.path_dropout import PathDropout, nodes_of, stays, thinned
from nastricks.errors import InputError
from nastricks.moment import Moment
from nastricks.rng import generator
from nastricks.run import Run
from nastricks.spaces import DARTS, Choice, Gate, Gates, Option, Tiny64, WeightSharing64

DRAWS = 4000
OPTIONS = tuple(Option(name) for name in "abcd")
ROW = (Choice("first", OPTIONS), Choice("second", OPTIONS[:2]))
NODE = (Choice("left", OPTIONS, node="n"), Choice("right", (Option("none", absent=True), *OPTIONS[:2]), node="n"))


def at(step: int, **more: Any) -> Moment:
    return Moment(role=more.pop("role", "weights"), seed=0, step=step, steps_per_epoch=DRAWS, epochs=1, **more)


def acting(rate: float, choices: tuple[Choice, ...]) -> PathDropout:
    trick = PathDropout(rate)
    policy = SimpleNamespace(mixed=True)
    trick.refusal(SimpleNamespace(space=SimpleNamespace(choices=choices), policy=policy))  # type: ignore[arg-type]
    return trick


def all_on(choices: tuple[Choice, ...], weights: bool = False) -> Gates:
    sizes = {choice.name: len(choice.options) for choice in choices}
    return {n: Gate(tuple(range(k)), torch.full((k,), 1 / k) if weights else None) for n, k in sizes.items()}


def keep_rate(rate: float, paths: int) -> float:
    """Of independent drops at rate^(1/k), given that one of the k stays."""
    return (1 - rate ** (1 / paths)) / (1 - rate)


@pytest.mark.parametrize("paths", [2, 4, 7])
@pytest.mark.parametrize("rate", [0.05, 0.5, 0.9])
def test_keep_rates(paths: int, rate: float) -> None:
    drawn = torch.tensor([stays(paths, rate, generator("keep", n)) for n in range(DRAWS)])
    expected = keep_rate(rate, paths)
    error = math.sqrt(expected * (1 - expected) / DRAWS)
    assert bool(((drawn.double().mean(0) - expected).abs() < 3 * error).all())  # each path's own
    assert bool(drawn.any(1).all())
    # All of them stay as often as independent draws say, given that one does.
    together = (1 - rate ** (1 / paths)) ** paths / (1 - rate)
    assert abs(float(drawn.all(1).double().mean()) - together) < 3 * math.sqrt(together * (1 - together) / DRAWS) + 1e-9


def test_the_only_path_stays() -> None:
    assert all(stays(1, 0.99, generator("one", n)) == [True] for n in range(50))


def test_the_rate_rises_along_a_line() -> None:
    trick = acting(0.8, ROW)
    for part in (0.25, 0.5, 0.9):
        step, kept = int(part * DRAWS), []
        for gate_set in range(DRAWS):
            gates = trick.on_gates(all_on(ROW), at(step, gate_set=gate_set))
            kept.append([index in gates["first"].active for index in range(4)])
        expected = keep_rate(0.8 * part, 4)
        error = math.sqrt(expected * (1 - expected) / DRAWS)
        assert bool(((torch.tensor(kept).double().mean(0) - expected).abs() < 3 * error).all())
    gates = all_on(ROW)
    assert trick.on_gates(gates, at(0)) is gates
    for role in ("policy", "attack", "evaluation"):
        assert trick.on_gates(gates, at(DRAWS, role=role)) is gates


def test_a_node_keeps_a_path_though_one_of_its_edges_may_lose_all() -> None:
    trick, lost = acting(0.95, NODE), 0
    for step in range(DRAWS // 2, DRAWS):
        gates = trick.on_gates(all_on(NODE), at(step))
        left, right = gates["left"], gates["right"]
        paths = [*left.active, *(index for index in right.active if index > 0)]
        assert 1 <= len(paths) <= 6
        assert 0 in right.active  # no connection is no path
        if not left.active:
            lost += 1
            assert left.weights is None
            assert float(torch.as_tensor(left.bypass)) == 0.0
    assert lost > 50


def test_the_sum_of_a_nodes_weights_stays() -> None:
    weights = torch.tensor([0.1, 0.2, 0.3, 0.4], requires_grad=True)
    gates: Gates = {"left": Gate((0, 1, 2, 3), weights), "right": Gate((0, 1, 2), torch.tensor([0.5, 0.25, 0.25]))}
    made = thinned(gates, {"left": [True, False, False, True], "right": [True, False, True]})
    assert made["left"].active == (0, 3)
    assert made["right"].active == (0, 2)
    scale = 2 / (0.5 + 0.75)
    torch.testing.assert_close(made["left"].weights, torch.tensor([0.1, 0.4]) * scale)
    torch.testing.assert_close(made["right"].weights, torch.tensor([0.5, 0.25]) * scale)
    assert made["left"].weights is not None
    (gradient,) = torch.autograd.grad(made["left"].weights[0], weights)
    # d/dw_0 of w_0 (sum of all) / (sum of kept), and the same by the others.
    torch.testing.assert_close(gradient, torch.tensor([scale - 0.1 * (2 - 1.25) / 1.25**2, 0.08, 0.08, -0.048]))


def test_the_weights_of_edges_count_in_a_nodes_sum_and_stay() -> None:
    left, right = torch.tensor(0.8), torch.tensor(0.2)
    gates: Gates = {
        "left": Gate((0, 1), torch.tensor([0.4, 0.6]), scale=left),
        "right": Gate((0, 1), torch.tensor([0.5, 0.5]), scale=right),
    }
    made = thinned(gates, {"left": [True, False], "right": [True, True]})
    # Of 0.8 + 0.2 there is left 0.8 * 0.4 + 0.2.
    torch.testing.assert_close(made["left"].weights, torch.tensor([0.4]) / 0.52)
    assert made["left"].scale is left
    lost = thinned(gates, {"left": [False, False], "right": [True, True]})
    assert lost["left"].scale is left  # what passes beside the operations keeps the edge's weight
    torch.testing.assert_close(lost["right"].weights, torch.tensor([0.5, 0.5]) / 0.2)


def test_per_sample_weights_and_a_bypass_stay_what_they_are() -> None:
    weights = torch.rand(4, 5) + 0.1
    gate = Gate((0, 1, 2, 3), weights, torch.tensor(0.3))
    made = thinned({"first": gate}, {"first": [False, True, True, False]})["first"]
    torch.testing.assert_close(made.weights, weights[1:3] * weights.sum(0) / weights[1:3].sum(0))
    assert made.bypass is gate.bypass
    added = thinned({"first": Gate((0, 1, 2, 3))}, {"first": [False, True, True, False]})["first"]
    assert added == Gate((1, 2))


def test_draws_are_keyed_by_the_step_and_the_set_of_gates() -> None:
    trick = acting(0.9, ROW)

    def drawn(step: int, **more: int) -> list[tuple[int, ...]]:
        return [gate.active for gate in trick.on_gates(all_on(ROW), at(step, **more)).values()]

    steps = range(DRAWS - 40, DRAWS)
    assert [drawn(s) for s in steps] == [drawn(s, micro_batch=1, rank=3, samples=7) for s in steps]
    assert [drawn(s) for s in steps] != [drawn(s, gate_set=1) for s in steps]


def test_nodes_are_those_of_the_space() -> None:
    assert nodes_of(Tiny64()) == [["layer1"], ["layer2"], ["layer3"]]
    assert nodes_of(WeightSharing64()) == [["edge01"], ["edge02", "edge12"]]
    assert [len(names) for names in nodes_of(DARTS())] == [2, 3, 4, 5] * 2


class LastStep(pl.Callback):
    """The weights before the last step, and the options of the first layer that ran in it."""

    def __init__(self) -> None:
        self.before: dict[str, Tensor] = {}
        self.ran: set[str] = set()

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        layer = pl_module.networks[0].segments["layer1"].choice
        layer.register_forward_pre_hook(lambda place, given: self.ran.update(place.names[i] for i in given[1].active))

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        self.before = {key: p.detach().clone() for key, p in pl_module.named_parameters()}
        self.ran.clear()


def test_what_is_dropped_does_not_run_or_move(make: Callable[..., Run]) -> None:
    """Also not by momentum and weight decay: L2 on the active paths only."""
    run = make("spos", {"path_dropout": {"rate": 0.9}}, {"model.init_args.policy": ALL})
    last = LastStep()
    run.trainer.callbacks.append(last)  # type: ignore[attr-defined]
    run.fit()
    assert 1 <= len(last.ran) < 4
    own = {key: p for key, p in run.module.named_parameters() if ".layer1." in key}
    assert len(own) > 4
    for key, p in own.items():
        assert torch.equal(p, last.before[key]) == (key.split(".ops.")[1].split(".")[0] not in last.ran), key


ALL = Namespace(class_path="nastricks.policies.AllOptions", init_args=Namespace(average=True))


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_rate_out_of_range_is_refused(rate: float) -> None:
    with pytest.raises(InputError, match=rf"path_dropout.rate is {rate}: expected a number in \[0, 1\)"):
        PathDropout(rate)
