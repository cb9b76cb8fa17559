"""How often paths are dropped, and what stands in for them."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nastricks.callbacks.drop_path import DropPath, drop_gate, places_of
from nastricks.data import ImageSpec
from nastricks.errors import InputError
from nastricks.moment import Moment
from nastricks.spaces import DARTS, Choice, Gate, GatedOps, Gates, NASNet, Option, Space, Tiny64
from nastricks.spaces.network import Placed

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


@pytest.mark.parametrize("choice", [BESIDE, ALONE])
def test_the_weight_of_an_edge_stays(choice: Choice) -> None:
    share = torch.tensor(0.3)
    assert dropped(0.4, choice, Gate((0, 1), torch.tensor([0.3, 0.7]), scale=share)).scale is share


# Cells that share an architecture.


@pytest.mark.parametrize("choice", [BESIDE, ALONE])
def test_places_are_drawn_apart(choice: Choice) -> None:
    trick = DropPath(0.4)
    trick._choices, trick._places = {choice.name: choice}, {choice.name: 3}
    gates: Gates = {choice.name: Gate((0, 2), torch.tensor([0.3, 0.7]), torch.rand(SAMPLES))}
    gate = trick.on_gates(gates, END)[choice.name]
    assert gate.weights is not None
    assert gate.weights.shape == (2, SAMPLES, 3)
    kept = (gate.weights[0] > 0).double()
    for place in range(3):
        assert within_3_standard_errors(kept[:, place], 0.6)
    assert within_3_standard_errors(kept[:, 0] * kept[:, 1] * kept[:, 2], 0.6**3)
    torch.testing.assert_close(gate.weights[1], torch.full((SAMPLES, 3), 0.7))
    alone = gate.at(1)
    assert alone.weights is not None
    assert torch.equal(alone.weights, gate.weights[..., 1])
    assert (gate.bypass is gates[choice.name].bypass) == (choice is BESIDE)
    if choice is ALONE:
        assert alone.bypass is not None
        torch.testing.assert_close(alone.weights.sum(0) + alone.bypass, 1 + gates[choice.name].bypass)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("space", "normal"),
    [
        (DARTS(channels=4, cells=5), {"normal_2_0": 3, "reduce_2_0": 2}),
        (NASNet(blocks=1, channels=4, stem_channels=4, cells=2, reductions=1), {"normal_block0_combine": 4}),
        (Tiny64(channels=4), {"layer1": 1}),
    ],
    ids=["darts", "nasnet", "tiny64"],
)
def test_a_network_counts_the_places_of_a_choice(space: Space, normal: dict[str, int]) -> None:
    network = space.supernet(ImageSpec(1, 8, 10))
    found = places_of(nn.ModuleList([network]))
    assert {name: found[name] for name in normal} == normal
    own = [m.place for m in network.modules() if isinstance(m, Placed) and m.choice_name == next(iter(normal))]
    assert own == list(range(len(own)))


def test_cells_that_share_an_architecture_drop_apart() -> None:
    """What each cell's edge gives out is zero for other samples than in the next cell."""
    space = DARTS(channels=4, cells=5)
    spec = ImageSpec(1, 8, 10)
    network, gates = space.supernet(spec).train(), space.gates(next(iter(space.architectures())))
    name = next(n for n, g in gates.items() if n.startswith("normal") and g.active[0])
    gates = {**gates, name: Gate((4,))}  # a separable convolution
    trick = DropPath(0.5)
    trick._choices, trick._places = {c.name: c for c in space.choices}, places_of(nn.ModuleList([network]))
    at = END.at(samples=64)
    outputs: list[Tensor] = []
    for module in network.modules():
        if isinstance(module, GatedOps) and module.choice_name == name:
            module.register_forward_hook(lambda m, inputs, output: outputs.append(output.detach()))
    with torch.no_grad():
        network(torch.randn(64, 1, 8, 8), trick.on_gates(gates, at))
    gone = torch.stack([(y == 0).flatten(1).all(1) for y in outputs])
    assert gone.shape == (3, 64)
    assert (gone.sum(1) > 10).all()
    assert (gone.sum(1) < 54).all()
    assert len({tuple(row) for row in gone.tolist()}) == 3


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
    module: Any = SimpleNamespace(space=SimpleNamespace(choices=(choice,)), policy=policy, networks=nn.ModuleList())
    assert "no identity" in str(DropPath(0.2).refusal(module))


@pytest.mark.parametrize("probability", [1.0, 1.5, -0.1])
def test_probability_out_of_range_is_refused(probability: float) -> None:
    with pytest.raises(InputError, match=rf"drop_path.probability is {probability}: expected a number in \[0, 1\)"):
        DropPath(probability)
