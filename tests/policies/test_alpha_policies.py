"""Policies over alpha against closed forms and enumeration; errors over samples are stated in standard errors."""

import itertools
from collections import Counter
from collections.abc import Callable

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from nastricks.errors import InputError
from nastricks.moment import Moment, Role
from nastricks.policies import (
    AlphaPolicy,
    BinaryConcrete,
    BinaryGates,
    ConstantTemperature,
    EdgeNormalised,
    ExponentialTemperature,
    GroupedSoftmax,
    GumbelHard,
    GumbelSoftmax,
    LinearTemperature,
    Policy,
    Sigmoid,
    Softmax,
    Temperature,
    UniformPath,
)
from nastricks.spaces import DARTS, Gate, Gates, Space, Tiny64, WeightSharing64

SPACE: Space = Tiny64(channels=4)
CELL: Space = WeightSharing64()
ALPHA = torch.tensor([0.5, -1.0, 1.2, 0.0], dtype=torch.float64)
SAMPLES = 4000

MAKERS: dict[str, Callable[[], AlphaPolicy]] = {
    "softmax": lambda: Softmax(SPACE),
    "sigmoid": lambda: Sigmoid(SPACE),
    "binary_concrete": lambda: BinaryConcrete(SPACE),
    "gumbel_softmax": lambda: GumbelSoftmax(SPACE),
    "gumbel_hard": lambda: GumbelHard(SPACE),
    "binary_gates": lambda: BinaryGates(SPACE),
    "grouped_softmax": lambda: GroupedSoftmax(SPACE),
}
every_policy = pytest.mark.parametrize("name", MAKERS)


def at(step: int, role: Role = "policy", epoch: float = 0.0) -> Moment:
    return Moment(role=role, seed=0, step=step, steps_per_epoch=100_000, epochs=1.0)


def with_alpha(policy: AlphaPolicy) -> AlphaPolicy:
    policy.double()
    with torch.no_grad():
        for parameter in policy.alpha.values():
            parameter.copy_(ALPHA)
    return policy


def gate(policy: Policy, moment: Moment, choice: str = "layer1") -> Gate:
    (gates,) = policy.propose(moment)
    return gates[choice]


def dense(found: Gate) -> Tensor:
    """The weight of each option (4,), 0 where it does not run."""
    found = found.scaled()
    weights = torch.ones(len(found.active), dtype=torch.float64) if found.weights is None else found.weights
    return torch.zeros(4, dtype=torch.float64).index_put((torch.tensor(found.active),), weights.double())


def within(values: Tensor, expected: Tensor, standard_errors: float = 4.5) -> None:
    """The mean over samples (S, ...) is within some standard errors of what is expected."""
    error = values.std(0) / len(values) ** 0.5
    assert bool(((values.mean(0) - expected).abs() <= standard_errors * error + 1e-9).all()), (values.mean(0), expected)


@every_policy
def test_gates_are_keyed_by_the_moment_and_obey_the_mask(name: str) -> None:
    policy = with_alpha(MAKERS[name]())
    policy.restrict("layer1", [0, 3])
    policy.restrict("layer2", [2])
    for role in ("weights", "policy", "evaluation"):
        first = [gate(policy, at(step, role)) for step in range(20)]
        again = [gate(policy, at(step, role)) for step in range(20)]
        for one, other in zip(first, again, strict=True):
            assert one.active == other.active
            assert set(one.active) <= {0, 3}
            assert torch.equal(dense(one), dense(other))
        assert gate(policy, at(0, role), "layer2").active == (2,)
    preferences = policy.preferences()
    assert torch.isneginf(preferences["layer1"]).tolist() == [False, True, True, False]
    assert all(bool((s >= 0).all()) for s in policy.strengths().values())


@every_policy
def test_alpha_starts_by_the_runs_seed_unless_it_has_its_own(name: str) -> None:
    def start(run_seed: int, **own: int) -> Tensor:
        torch.manual_seed(run_seed)
        return torch.cat([p.detach() for p in type(MAKERS[name]())(SPACE, **own).alpha.values()])

    assert not torch.equal(start(0), start(1))
    assert torch.equal(start(0, seed=3), start(1, seed=3))


def test_sigmoid_is_torchs() -> None:
    torch.testing.assert_close(gate(with_alpha(Sigmoid(SPACE)), at(0)).weights, torch.sigmoid(ALPHA))


def test_binary_concrete_is_on_with_the_probability_of_its_sigmoid() -> None:
    policy = with_alpha(BinaryConcrete(SPACE, ConstantTemperature(0.5)))
    draws = torch.stack([dense(gate(policy, at(step))).detach() for step in range(SAMPLES)])
    within((draws > 0.5).double(), torch.sigmoid(ALPHA))
    # Independent between options: the joint frequency is the product.
    both = ((draws[:, 0] > 0.5) & (draws[:, 2] > 0.5)).double()
    within(both, torch.sigmoid(ALPHA[0]) * torch.sigmoid(ALPHA[2]))


@pytest.mark.parametrize("temperature", [0.2, 1.0, 5.0])
def test_a_relaxed_sample_is_largest_at_an_option_with_its_softmax_probability(temperature: float) -> None:
    policy = with_alpha(GumbelSoftmax(SPACE, ConstantTemperature(temperature)))
    draws = torch.stack([dense(gate(policy, at(step))).detach() for step in range(SAMPLES)])
    torch.testing.assert_close(draws.sum(1), torch.ones(SAMPLES, dtype=torch.float64))
    counts = Counter(draws.argmax(1).tolist())
    expected = torch.softmax(ALPHA, 0) * SAMPLES
    assert chisquare([counts[i] for i in range(4)], expected.numpy()).pvalue > 1e-4


def test_a_cold_sample_is_nearly_one_hot_and_a_hot_one_nearly_even() -> None:
    cold = with_alpha(GumbelSoftmax(SPACE, ConstantTemperature(0.01)))
    hot = with_alpha(GumbelSoftmax(SPACE, ConstantTemperature(1000.0)))
    assert float(torch.stack([dense(gate(cold, at(s))).detach().max() for s in range(50)]).median()) > 0.999
    assert float((dense(gate(hot, at(0))).detach() - 0.25).abs().max()) < 0.01


def test_the_hard_sample_is_the_soft_ones_largest_and_has_its_gradient() -> None:
    soft, hard = with_alpha(GumbelSoftmax(SPACE)), with_alpha(GumbelHard(SPACE))
    for step in range(30):
        relaxed, chosen = gate(soft, at(step)), gate(hard, at(step))
        (index,) = chosen.active
        assert relaxed.weights is not None
        assert chosen.weights is not None
        assert index == int(relaxed.weights.detach().argmax())
        assert float(chosen.weights.detach()) == 1.0
        (expected,) = torch.autograd.grad(relaxed.weights[index], soft.alpha["layer1"])
        (found,) = torch.autograd.grad(chosen.weights[0], hard.alpha["layer1"])
        torch.testing.assert_close(found, expected)


def test_hard_samples_have_the_softmax_as_their_mean() -> None:
    policy = with_alpha(GumbelHard(SPACE))
    draws = torch.stack([dense(gate(policy, at(step))).detach() for step in range(SAMPLES)])
    within(draws, torch.softmax(ALPHA, 0))


def test_the_weights_pass_and_the_policys_draw_apart() -> None:
    policy = with_alpha(GumbelHard(SPACE))
    paths = {role: [gate(policy, at(s, role)).active for s in range(40)] for role in ("weights", "policy")}
    assert paths["weights"] != paths["policy"]


# ProxylessNAS.

SLOPES = torch.tensor([0.3, -0.7, 1.1, 0.2], dtype=torch.float64)


def loss_of(found: Gate) -> Tensor:
    """A smooth loss of the mixture, so that dL/dg depends on which gate is on."""
    assert found.weights is not None
    mixture = (found.weights * SLOPES[list(found.active)]).sum()
    return mixture + mixture.square()


def enumerated_gradient() -> Tensor:
    """Equation 4 over the two drawn paths, weighted by the probability of each draw."""
    p = torch.softmax(ALPHA, 0)
    total = torch.zeros(4, dtype=torch.float64)
    for i, j in itertools.permutations(range(4), 2):
        drawn = p[i] * p[j] / (1 - p[i])
        pair = torch.stack([p[i], p[j]]) / (p[i] + p[j])
        for on in (0, 1):
            gates = torch.zeros(2, dtype=torch.float64)
            gates[on] = 1.0
            by_gate = SLOPES[[i, j]] * (1 + 2 * (gates * SLOPES[[i, j]]).sum())
            for place, option in enumerate((i, j)):
                delta = torch.zeros(2, dtype=torch.float64)
                delta[place] = 1.0
                total[option] += drawn * pair[on] * (by_gate * pair * (delta - pair[place])).sum()
    return total


def test_binary_gates_have_the_gradient_of_their_equation() -> None:
    policy = with_alpha(BinaryGates(SPACE))
    gradients = []
    for step in range(SAMPLES):
        found = gate(policy, at(step))
        assert len(found.active) == 2
        assert found.weights is not None
        assert sorted(found.weights.tolist()) == [0.0, 1.0]
        gradients.append(torch.autograd.grad(loss_of(found), policy.alpha["layer1"])[0])
    within(torch.stack(gradients), enumerated_gradient())


def test_binary_gates_train_the_weights_on_one_path_drawn_by_the_softmax() -> None:
    policy = with_alpha(BinaryGates(SPACE))
    found = [gate(policy, at(step, "weights")) for step in range(SAMPLES)]
    assert all(g.weights is None and len(g.active) == 1 for g in found)
    counts = Counter(g.active[0] for g in found)
    assert chisquare([counts[i] for i in range(4)], (torch.softmax(ALPHA, 0) * SAMPLES).numpy()).pvalue > 1e-4


def test_after_a_step_the_other_paths_keep_their_probability() -> None:
    policy = with_alpha(BinaryGates(SPACE))
    pair = list(gate(policy, at(7)).active)
    others = [i for i in range(4) if i not in pair]
    before = policy.strengths()["layer1"].detach().clone()
    with torch.no_grad():
        policy.alpha["layer1"][pair] += torch.tensor([0.8, -0.3], dtype=torch.float64)
    policy.updated(at(7))
    after = policy.strengths()["layer1"].detach()
    torch.testing.assert_close(after[others], before[others])
    assert not torch.allclose(after[pair], before[pair])


# Groups and edges.


def test_groups_compete_apart() -> None:
    policy = GroupedSoftmax(SPACE, init_std=0.0).double()
    torch.testing.assert_close(dense(gate(policy, at(0))), torch.full((4,), 0.25, dtype=torch.float64))
    policy = with_alpha(GroupedSoftmax(SPACE))  # identity, the last one, is alone in its group
    expected = torch.cat([0.75 * torch.softmax(ALPHA[:3], 0), torch.tensor([0.25], dtype=torch.float64)])
    torch.testing.assert_close(dense(gate(policy, at(0))), expected)
    policy.restrict("layer1", [0, 1])
    torch.testing.assert_close(gate(policy, at(0)).weights, torch.softmax(ALPHA[:2], 0))


@pytest.mark.parametrize(
    ("space", "words"),
    [
        (DARTS(operations="s2"), "normal_2_0 of darts has one of each .sep_conv_3x3, skip_connect.*use Softmax"),
        (DARTS(operations="s4"), "normal_2_0 of darts has one of each .sep_conv_3x3, noise"),
        (
            DARTS(operations=["sep_conv_3x3"], ops_per_edge=None, inputs_per_node=None),
            "normal_2_0_sep_conv_3x3 of darts has one of each .sep_conv_3x3, off",
        ),
    ],
    ids=["S2", "S4", "on or off"],
)
def test_groups_of_one_option_each_are_refused(space: Space, words: str) -> None:
    with pytest.raises(InputError, match=words):
        GroupedSoftmax(space)


def edges(policy: EdgeNormalised) -> Gates:
    (gates,) = policy.propose(at(0))
    return gates


@pytest.mark.parametrize("operations", [None, Sigmoid, GumbelHard, BinaryGates])
def test_edge_normalisation_multiplies_the_gates_of_a_nodes_inputs(
    operations: Callable[[Space], Policy] | None,
) -> None:
    policy = EdgeNormalised(CELL, operations, init_std=1.0, seed=5)
    assert policy.edges == {"node2": ["edge02", "edge12"]}
    beta = torch.softmax(policy.beta["node2"], 0)
    (plain,), found = policy.operations.propose(at(0)), edges(policy)
    for name, share in (("edge01", torch.tensor(1.0)), ("edge02", beta[0]), ("edge12", beta[1])):
        assert found[name].active == plain[name].active
        torch.testing.assert_close(dense(found[name]), dense(plain[name]) * share.double())
    products = policy.strengths()
    torch.testing.assert_close(products["edge02"], policy.operations.strengths()["edge02"] * beta[0])
    torch.testing.assert_close(policy.preferences()["edge12"], products["edge12"].detach())


def test_edge_normalisation_hands_the_mask_on() -> None:
    policy = EdgeNormalised(CELL)
    policy.restrict("edge02", [1, 3])
    assert edges(policy)["edge02"].active == (1, 3)
    other = EdgeNormalised(CELL)
    other.load_state_dict(policy.state_dict())
    assert edges(other)["edge02"].active == (1, 3)
    policy.allow("edge02", [0])
    assert edges(policy)["edge02"].active == (0, 1, 3)


def test_edge_normalisation_needs_nodes_with_several_inputs_and_a_policy_over_alpha() -> None:
    with pytest.raises(InputError, match="no node of tiny64 has several"):
        EdgeNormalised(SPACE)
    with pytest.raises(InputError, match="is UniformPath: expected one over alpha"):
        EdgeNormalised(CELL, UniformPath)


# Temperatures.


def test_temperatures_against_their_formulas() -> None:
    def moment(epoch: float) -> Moment:
        return Moment(role="policy", seed=0, step=round(epoch * 10), steps_per_epoch=10, epochs=50)

    linear = LinearTemperature(10.0, 0.1)
    assert [linear.at(moment(e)) for e in (0, 25, 50)] == pytest.approx([10.0, 5.05, 0.1])
    falling = ExponentialTemperature(5.0, 0.045, 0.5)
    # By whole epochs, as FBNet does; 5 exp(-0.045 * 50) is 0.527.
    assert [falling.at(moment(e)) for e in (0, 0.9, 1, 50)] == pytest.approx([5.0, 5.0, 4.77999, 0.526996], rel=1e-5)
    assert falling.at(moment(60)) == 0.5
    assert ConstantTemperature(2.0).at(moment(3)) == 2.0


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ConstantTemperature(0.0), "temperature.value is 0.0"),
        (lambda: LinearTemperature(10.0, 0.0), "temperature.end is 0.0: expected a number above 0"),
        (lambda: LinearTemperature(-1.0), "temperature.start is -1.0"),
        (lambda: ExponentialTemperature(floor=0.0), "temperature.floor is 0.0"),
        (lambda: ExponentialTemperature(rate=-1.0), "temperature.rate is -1.0"),
    ],
)
def test_temperatures_that_reach_zero_are_refused(make: Callable[[], Temperature], words: str) -> None:
    with pytest.raises(InputError, match=words):
        make()
