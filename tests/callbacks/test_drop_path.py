"""How often paths are dropped, and what stands in for them."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from nastricks.callbacks.drop_path import DropPath, drop_gate
from nastricks.errors import InputError
from nastricks.moment import Moment
from nastricks.spaces import Choice, Gate, Gates, Option

PATHS = (Option("a"), Option("b"), Option("skip", identity=True, learns=False))
BESIDE = Choice("node", PATHS, dropped="zero")
ALONE = Choice("layer", PATHS, dropped="input")
FIXED = Choice("layer", PATHS, dropped="never")
SAMPLES = 20000
END = Moment(role="weights", seed=0, step=100, steps_per_epoch=10, epochs=10, samples=SAMPLES)


def dropped(probability: float, choice: Choice, gate: Gate, at: Moment = END) -> Gate:
    trick = DropPath(probability)
    trick._choices = {choice.name: choice}
    gates: Gates = {choice.name: gate}
    return trick.on_gates(gates, at)[choice.name]


def within_3_standard_errors(draws: torch.Tensor, expected: float) -> bool:
    return abs(float(draws.mean()) - expected) < 3 * math.sqrt(expected * (1 - expected) / draws.numel())


@pytest.mark.parametrize("choice", [BESIDE, ALONE])
@pytest.mark.parametrize("progress", [0.25, 0.5, 1.0])
def test_keep_rate_falls_linearly(choice: Choice, progress: float) -> None:
    at = END.at(step=int(100 * progress))
    weights = dropped(0.4, choice, Gate((0, 1)), at).weights
    assert weights is not None
    for row in weights:  # each path is drawn on its own
        assert within_3_standard_errors((row > 0).double(), 1 - 0.4 * progress)
    assert within_3_standard_errors((weights > 0).all(0).double(), (1 - 0.4 * progress) ** 2)


def test_an_identity_is_never_dropped() -> None:
    for choice in (BESIDE, ALONE):
        weights = dropped(0.9, choice, Gate((0, 2), torch.tensor([0.3, 0.7]))).weights
        assert weights is not None
        torch.testing.assert_close(weights[1], torch.full((SAMPLES,), 0.7))
        assert (weights[0] == 0).any()


def test_an_identity_alone_is_left_as_it_is() -> None:
    gate = Gate((2,))
    assert dropped(0.9, ALONE, gate) is gate


def test_no_connection_is_nothing_to_drop() -> None:
    choice = Choice("edge", (Option("none", learns=False, absent=True), Option("a")), dropped="zero")
    gate = Gate((0,))
    assert dropped(0.9, choice, gate) is gate


def test_beside_others_the_sum_keeps_its_expectation() -> None:
    gate = dropped(0.4, BESIDE, Gate((0, 1), torch.tensor([0.3, 0.7])))
    assert gate.weights is not None
    assert gate.bypass is None
    assert gate.weights[0].unique().tolist() == pytest.approx([0.0, 0.3 / 0.6])
    for row, weight in zip(gate.weights, (0.3, 0.7), strict=True):
        error = weight * math.sqrt(0.4 / 0.6 / SAMPLES)
        assert abs(float(row.mean()) - weight) < 3 * error


def test_where_the_path_is_the_only_way_the_input_passes() -> None:
    gate = dropped(0.4, ALONE, Gate((0, 1), torch.tensor([0.3, 0.7])))
    assert gate.weights is not None
    assert gate.bypass is not None
    torch.testing.assert_close(gate.weights.sum(0) + gate.bypass, torch.ones(SAMPLES))
    assert within_3_standard_errors((gate.weights[0] > 0).double(), 0.6)


def test_a_bypass_that_is_there_already_is_added_to() -> None:
    keep = torch.tensor([[1.0, 0.0]])
    gate = drop_gate(Gate((0,), None, torch.tensor(0.25)), ALONE, keep, 0.5)
    assert gate.bypass is not None
    assert gate.weights is not None
    assert gate.bypass.tolist() == [0.25, 1.25]
    assert gate.weights.tolist() == [[1.0, 0.0]]


def test_weights_keep_their_gradient() -> None:
    alpha = torch.tensor([0.3, 0.7], requires_grad=True)
    weights = dropped(0.4, BESIDE, Gate((0, 1), alpha)).weights
    assert weights is not None
    weights.sum().backward()
    assert alpha.grad is not None
    assert alpha.grad.isfinite().all()


def test_the_same_moment_drops_the_same() -> None:
    one, other = (dropped(0.4, ALONE, Gate((0,))).weights for _ in range(2))
    later = dropped(0.4, ALONE, Gate((0,)), END.at(step=99)).weights
    assert one is not None
    assert other is not None
    assert later is not None
    assert torch.equal(one, other)
    assert not torch.equal(one, later)


@pytest.mark.parametrize("at", [END.at(step=0), END.at(role="policy"), END.at(role="evaluation")])
def test_nothing_is_dropped_at_the_start_or_for_the_policy(at: Moment) -> None:
    gate = Gate((0,))
    assert dropped(0.9, ALONE, gate, at) is gate


def test_what_has_no_stand_in_is_never_dropped() -> None:
    gate = Gate((0, 1), torch.tensor([0.3, 0.7]))
    assert dropped(0.9, FIXED, gate) is gate


@pytest.mark.parametrize(("choice", "allowed"), [(ALONE, (2,)), (FIXED, (0, 1))])
def test_a_network_without_a_path_to_drop_is_refused(choice: Choice, allowed: tuple[int, ...]) -> None:
    policy = SimpleNamespace(allowed={"layer": allowed})
    module: Any = SimpleNamespace(space=SimpleNamespace(choices=(choice,)), policy=policy)
    assert "no identity" in str(DropPath(0.2).refusal(module))


@pytest.mark.parametrize("probability", [1.0, 1.5, -0.1])
def test_probability_out_of_range_is_refused(probability: float) -> None:
    with pytest.raises(InputError, match=rf"drop_path.probability is {probability}: expected a number in \[0, 1\)"):
        DropPath(probability)
