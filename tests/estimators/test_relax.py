"""RELAX: its conditional noise, its mean, its variance, and what its control variate learns."""

import copy
from typing import Any

import pytest
import torch
from scipy.stats import ks_2samp
from torch import Tensor

from nastricks.errors import InputError
from nastricks.estimators import RELAX, ExponentialBaseline, Reinforce
from nastricks.estimators.relax import conditional_gumbel
from nastricks.policies import SequencePolicy
from nastricks.rng import generator

every_policy = pytest.mark.parametrize("name", ["lstm", "independent"])
with_and_without_masks = pytest.mark.parametrize("masked", [True, False], ids=["masked", "unmasked"])


def clocks(*shape: int, key: object = 0) -> Tensor:
    return torch.empty(*shape, dtype=torch.float64).exponential_(generator=generator("clocks", key))


def stirred(estimator: RELAX) -> RELAX:
    """With a control variate that is far from zero, as after training."""
    with torch.no_grad():
        for parameter in estimator.control.last.parameters():
            parameter.normal_(std=0.5, generator=generator("stirred", parameter.shape))
    return estimator


# The noise.


def test_conditional_noise_has_the_distribution_of_the_noise_that_gave_the_token() -> None:
    log_p = torch.log_softmax(torch.tensor([0.3, -1.5, 1.0, 0.0], dtype=torch.float64), 0)
    z = log_p - clocks(60_000, 4).log()  # minus the log of an exponential variable is a Gumbel variable
    tokens = z.argmax(1)
    found = conditional_gumbel(log_p.expand(60_000, 4), tokens, clocks(60_000, 4, key=1))
    assert torch.equal(found.argmax(1), tokens)
    for token in range(4):
        given = tokens == token
        for slot in range(4):
            assert ks_2samp(z[given, slot], found[given, slot]).pvalue > 1e-4
    # The joint distribution too: differences and sums of two slots.
    given = tokens == 2
    for sign in (1, -1):
        assert ks_2samp(*(v[given, 0] + sign * v[given, 2] for v in (z, found))).pvalue > 1e-4


def test_conditional_noise_has_exact_first_and_second_derivatives() -> None:
    log_p = torch.log_softmax(torch.tensor([[0.3, -1.5, 1.0], [2.0, 0.0, -4.0]], dtype=torch.float64), 1)
    tokens, noise = torch.tensor([2, 0]), clocks(2, 3)

    def z(log_probabilities: Tensor) -> Tensor:
        return conditional_gumbel(log_probabilities, tokens, noise)

    leaf = log_p.requires_grad_()
    assert torch.autograd.gradcheck(z, (leaf,))
    assert torch.autograd.gradgradcheck(z, (leaf,))


def test_improbable_slots_give_finite_numbers_to_the_second_derivative() -> None:
    log_p = torch.log_softmax(torch.tensor([[0.0, -300.0, -1e4, 50.0]]), 1).requires_grad_()
    noise = torch.tensor([[1e-30, 80.0, 1e-38, 1e-38]])
    for token in (0, 3):
        z = conditional_gumbel(log_p, torch.tensor([token]), noise)
        (slope,) = torch.autograd.grad(z.sum(), log_p, create_graph=True)
        (curve,) = torch.autograd.grad(slope.sum(), log_p)
        for found in (z, slope, curve):
            assert bool(found.isfinite().all())


# The gradient.


@every_policy
@with_and_without_masks
def test_the_mean_is_the_gradient_of_the_expected_reward(name: str, masked: bool, problem: Any) -> None:
    policy = problem.policy(name, masked)
    estimator = stirred(RELAX(policy, 300, 8, illegal_reward=problem.illegal * (not masked), seed=0).double())
    exact, found = problem.exact_gradient(policy), []
    for number in range(100):
        rollout = policy.draw(generator("relax", number), 300)
        estimator.learn(rollout, problem.rewards_of(rollout), problem.Alone())
        found.append(problem.flat_gradient(policy))
    gradients = torch.stack(found)
    error = gradients.std(0) / 10
    assert bool(((gradients.mean(0) - exact).abs() <= 5 * error + 1e-12).all())
    assert float((exact / error.clamp_min(1e-12)).abs().max()) > 12  # a gradient of zero would be seen


def test_it_starts_as_reinforce_without_a_baseline(problem: Any) -> None:
    policy = problem.lstm()
    rollout = policy.draw(generator("start"), 20)
    found = []
    settings: dict[str, Any] = {"episodes": 20, "entropy": 0.1, "discount": 0.8}
    for estimator in (Reinforce(policy, **settings), RELAX(policy, **settings, seed=0)):
        estimator.double().learn(rollout, problem.rewards_of(rollout), problem.Alone())
        found.append(problem.flat_gradient(policy))
    torch.testing.assert_close(found[0], found[1], atol=1e-12, rtol=0)
    assert float(found[0].norm()) > 1e-3


def variance(estimator: Any, problem: Any, draws: int = 60) -> float:
    """Total variance of the gradient of an update of 8 architectures; nothing is stepped."""
    found = []
    for number in range(draws):
        rollout = estimator.policy.draw(generator("variance", number), 8)
        estimator.learn(rollout, problem.rewards_of(rollout), problem.Alone())
        found.append(problem.flat_gradient(estimator.policy))
    return float(torch.stack(found).var(0).sum())


@every_policy
def test_its_variance_is_below_that_of_reinforce(name: str, problem: Any) -> None:
    policy = problem.policy(name)
    estimator = RELAX(policy, 32, hidden=16, lr=0.03, seed=0).double()
    before, optimizer = variance(estimator, problem), estimator.configure_optimizer()
    for number in range(100):
        rollout = policy.draw(generator("training", number), 32)
        estimator.learn(rollout, problem.rewards_of(rollout), problem.Alone())
        optimizer.step()
    after, plain = variance(estimator, problem), variance(Reinforce(policy).double(), problem)
    assert before == pytest.approx(plain, rel=0.01)
    assert after < 0.5 * plain


# The control variate.


def squared_norm(estimator: RELAX, policy: SequencePolicy, tokens: Tensor, returns: Tensor) -> Tensor:
    """What the control variate minimises, by autograd through each token's logits."""
    log_p = policy.score(tokens).log_probabilities.detach()
    legal = log_p > -torch.inf
    logits = log_p.masked_fill(~legal, 0.0).requires_grad_()
    normal = torch.log_softmax(logits.masked_fill(~legal, -torch.inf), -1).masked_fill(~legal, 0.0)
    towards = estimator.gradient_by_log_probabilities(normal.detach(), legal, tokens, returns)
    (by_logits,) = torch.autograd.grad(normal, logits, towards)
    return by_logits.square().sum() / len(tokens)


@with_and_without_masks
def test_the_control_variate_descends_the_squared_norm(masked: bool, problem: Any) -> None:
    policy = problem.lstm(masked)
    estimator = stirred(RELAX(policy, 5, hidden=6, seed=0).double())
    every = problem.all_sequences(policy)
    rollout = problem.rows(every, [0, 3, 4, 9, 11])
    earned = problem.rewards_of(rollout)
    norm = squared_norm(estimator, policy, rollout.tokens, earned[:, None].expand(-1, 3)).detach()
    state = copy.deepcopy(estimator.state_dict())
    estimator.learn(rollout, earned, problem.Alone())
    found = {key: p.grad for key, p in estimator.named_parameters()}
    estimator.load_state_dict(state)  # the noise is that of the first update again
    largest = 0.0
    for key, parameter in estimator.named_parameters():
        gradient, values = found[key], []
        assert gradient is not None
        if not bool(gradient.any()):
            continue
        index = int(gradient.abs().argmax())
        for sign in (1, -1):
            with torch.no_grad():
                parameter.view(-1)[index] += sign * 1e-6
            values.append(squared_norm(estimator, policy, rollout.tokens, earned[:, None].expand(-1, 3)).detach())
            with torch.no_grad():
                parameter.view(-1)[index] -= sign * 1e-6
        slope = float(values[0] - values[1]) / 2e-6
        assert float(gradient.view(-1)[index]) == pytest.approx(slope, rel=1e-4, abs=1e-8), key
        largest = max(largest, abs(slope))
    assert largest > 1e-2
    assert float(norm) > 0
    assert bool(found["control.log_temperature"].any())


def test_the_control_variate_sees_no_later_token(problem: Any) -> None:
    policy = problem.lstm()
    estimator = stirred(RELAX(policy, hidden=6, seed=0).double())
    tokens = torch.tensor([[0, 1, 2]])
    z, legal = torch.randn(1, 3, 4, generator=generator("z")).double(), torch.ones(1, 3, 4, dtype=torch.bool)
    value = estimator.control(z, legal, tokens)
    for place in range(3):
        other = tokens.clone()
        other[0, place] = 3 - other[0, place]
        changed = estimator.control(z, legal, other)
        assert torch.equal(changed[:, : place + 1], value[:, : place + 1])
        assert bool((changed[:, place + 1 :] != value[:, place + 1 :]).all())


def test_hardly_possible_and_illegal_slots_give_finite_gradients(problem: Any) -> None:
    policy = problem.independent().float()
    with torch.no_grad():
        policy.logits.copy_(torch.tensor([[90.0, -90, 0, 9], [0, 200, -200, 1], [1e3, -1e3, 0, 5]]))
    estimator = stirred(RELAX(policy, hidden=6, entropy=0.1, seed=0))
    for rollout in (policy.draw(generator("extreme"), 50), problem.all_sequences(policy)):
        estimator.learn(rollout, problem.rewards_of(rollout), problem.Alone())
        for parameter in [*policy.parameters(), *estimator.parameters()]:
            assert parameter.grad is not None
            assert bool(parameter.grad.isfinite().all())
        assert not bool(policy.logits.grad[[0, 2], 3].any())


def test_the_noise_is_that_of_the_update(problem: Any) -> None:
    policy = problem.lstm()
    rollout = policy.draw(generator("keyed"), 5)
    found = []
    for seed, updates in ((0, 2), (0, 2), (1, 2)):
        estimator = stirred(RELAX(policy, hidden=6, seed=seed).double())
        for _ in range(updates):
            estimator.learn(rollout, problem.rewards_of(rollout), problem.Alone())
            found.append(problem.flat_gradient(policy))
    assert torch.equal(found[1], found[3])
    assert not torch.equal(found[0], found[1])
    assert not torch.equal(found[1], found[5])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"baseline": ExponentialBaseline}, "RELAX's control variate is its baseline: set it to null"),
        ({"hidden": 0}, "estimator.hidden is 0: expected at least 1"),
        ({"temperature": 0.0}, "estimator.temperature is 0.0: expected a number above 0"),
        ({"lr": -1.0}, "estimator.lr is -1.0: expected a number above 0"),
        ({"episodes": 0}, "estimator.episodes is 0"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], words: str, problem: Any) -> None:
    with pytest.raises(InputError, match=words):
        RELAX(problem.lstm(), **settings)
