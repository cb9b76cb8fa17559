"""REINFORCE and its baselines: exact means and variances by enumeration, exact continuation, and refusals."""

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from nastricks.errors import InputError
from nastricks.estimators import (
    PPO,
    RELAX,
    Critic,
    ExponentialBaseline,
    FixedBaseline,
    MeanBaseline,
    Reinforce,
    ScoreFunction,
    score_function,
)
from nastricks.moment import Moment
from nastricks.policies import Independent, LSTMController, SequencePolicy, Softmax
from nastricks.rng import forked_rng, generator
from nastricks.spaces import Tiny64

every_policy = pytest.mark.parametrize("name", ["lstm", "independent"])
with_and_without_masks = pytest.mark.parametrize("masked", [True, False], ids=["masked", "unmasked"])

# REINFORCE.


@every_policy
@with_and_without_masks
def test_the_mean_of_reinforce_is_the_gradient_of_the_expected_reward(name: str, masked: bool, problem: Any) -> None:
    policy = problem.policy(name, masked)
    exact = problem.exact_gradient(policy)
    mean, variance = problem.moments(Reinforce(policy, illegal_reward=0.0 if masked else problem.illegal))
    torch.testing.assert_close(mean, exact, atol=1e-12, rtol=0)
    assert float(exact.norm()) > 0.04
    assert variance > 0


@every_policy
@pytest.mark.parametrize("baseline", ["fixed", "mean", "exponential", "critic"])
def test_a_baseline_leaves_the_mean_and_lowers_the_variance(name: str, baseline: str, problem: Any) -> None:
    policy = problem.policy(name)
    plain_mean, plain_variance = problem.moments(Reinforce(policy))
    mean, variance = problem.moments(Reinforce(policy, baseline=problem.baseline(baseline)))
    torch.testing.assert_close(mean, plain_mean, atol=1e-12, rtol=0)
    assert variance < 0.6 * plain_variance


@every_policy
def test_the_discount_weighs_the_tokens_and_leaves_the_last(name: str, problem: Any) -> None:
    policy = problem.policy(name)
    every = problem.rows(problem.all_sequences(policy), [3, 8, 8, 1])
    earned = problem.rewards_of(every)
    gradients = []
    for discount in (1.0, 0.5):
        Reinforce(policy, discount=discount).learn(every, earned, problem.Alone())
        gradients.append(problem.flat_gradient(policy))
    log_probs = policy.score(every.tokens).log_probs
    for discount, found in zip((1.0, 0.5), gradients, strict=True):
        weights = torch.tensor([discount**2, discount, 1.0])
        loss = -(earned[:, None] * weights * log_probs).sum(1).mean()
        expected = torch.autograd.grad(loss, list(policy.parameters()), retain_graph=True)
        torch.testing.assert_close(found, torch.cat([g.flatten() for g in expected]), atol=1e-12, rtol=0)
    if name == "independent":  # a row of logits a token: what the discount does to each can be read off
        whole, half = (g.view(3, 4) for g in gradients)
        assert torch.equal(half[2], whole[2])
        torch.testing.assert_close(half[1], whole[1] / 2)
        torch.testing.assert_close(half[0], whole[0] / 4)


@pytest.mark.parametrize("discount", [1.0, 0.7])
@pytest.mark.parametrize("baseline", ["fixed", "critic"])
def test_baselines_are_unbiased_under_a_discount_too(discount: float, baseline: str, problem: Any) -> None:
    policy = problem.lstm()
    plain, _ = problem.moments(Reinforce(policy, discount=discount))
    mean, _ = problem.moments(Reinforce(policy, discount=discount, baseline=problem.baseline(baseline)))
    torch.testing.assert_close(mean, plain, atol=1e-12, rtol=0)


@every_policy
def test_the_entropy_bonus_has_the_gradient_of_the_conditional_entropies(name: str, problem: Any) -> None:
    policy = problem.policy(name)
    rollout = policy.draw(generator("entropy"), 3)
    Reinforce(policy, entropy=0.7).learn(rollout, torch.zeros(3), problem.Alone())
    found = problem.flat_gradient(policy)
    # The same from the probabilities of the options after each prefix, one at a time.
    total = torch.zeros((), dtype=torch.float64)
    for architecture in rollout.architectures:
        assert architecture is not None
        for place in range(3):
            prefix = architecture[:place]
            options = problem.space.legal(prefix)
            continued = [(*prefix, option, *([0] * (2 - place))) for option in options]
            log_p = policy.score(torch.tensor(continued)).log_probs[:, place]
            total = total - (log_p.exp() * log_p).sum()
    expected = torch.autograd.grad(-0.7 * total / 3, list(policy.parameters()))
    torch.testing.assert_close(found, torch.cat([g.flatten() for g in expected]), atol=1e-12, rtol=0)
    assert float(found.norm()) > 1e-3


@every_policy
@with_and_without_masks
def test_the_gradient_of_updates_agrees_with_the_exact_one(name: str, masked: bool, problem: Any) -> None:
    policy = problem.policy(name, masked)
    estimator = Reinforce(policy, 200, MeanBaseline, illegal_reward=0.0 if masked else problem.illegal)
    exact, found = problem.exact_gradient(policy), []
    for number in range(100):
        step = problem.DrawingStep(moment=Moment(role="weights", seed=5, step=number))
        estimator.update(step)  # type: ignore[arg-type]
        assert all(problem.space.check(a) for a in step.asked)
        assert len(step.asked) == 200 if masked else 0 < len(step.asked) < 200
        found.append(problem.flat_gradient(policy))
    gradients = torch.stack(found)
    error = gradients.std(0) / 10
    assert bool(((gradients.mean(0) - exact).abs() <= 5 * error + 1e-12).all())
    assert float((exact / error.clamp_min(1e-12)).abs().max()) > 20  # a gradient of zero would be seen


def test_an_update_without_a_legal_draw_asks_for_no_reward(problem: Any) -> None:
    policy = Independent(problem.space, masked=False)
    with torch.no_grad():
        policy.logits[0, 3] = 1e3  # the first choice has three options
    estimator, step = Reinforce(policy, 4, illegal_reward=-0.5), problem.DrawingStep()
    estimator.update(step)  # type: ignore[arg-type]
    assert step.asked == []
    assert estimator.measures["mean_reward"] == pytest.approx(-0.5)
    assert estimator.measures["repeats"] == 0


def test_masks_give_illegal_slots_no_gradient(problem: Any) -> None:
    for masked in (True, False):
        policy = problem.independent(masked)
        every = problem.rows(problem.all_sequences(policy), range(4))
        Reinforce(policy, entropy=0.1).learn(every, problem.rewards_of(every), problem.Alone())
        gradient = policy.get_parameter("logits").grad
        assert gradient is not None
        assert bool(gradient[[0, 2], 3].any()) != masked  # these choices have three options


# Baselines.


def test_values_of_the_baselines(problem: Any) -> None:
    policy = problem.lstm()
    tokens, discounts = problem.all_sequences(policy).tokens[:2], torch.tensor([0.25, 0.5, 1.0])
    mean, moving = MeanBaseline(policy), ExponentialBaseline(policy, decay=0.9)
    for baseline in (mean, moving):
        assert not bool(baseline.expected(tokens, discounts).any())
    for batch in ([0.2, 0.4], [0.9], [0.5, 0.1, 0.3]):
        mean.observe(torch.tensor(batch))
        moving.observe(torch.tensor(batch))
    assert mean.value == pytest.approx(2.4 / 6)
    assert moving.value == pytest.approx(0.9 * (0.9 * 0.3 + 0.1 * 0.9) + 0.1 * 0.3)
    torch.testing.assert_close(mean.expected(tokens, discounts), (0.4 * discounts).expand(2, 3))
    fixed = FixedBaseline(policy, 0.5)
    fixed.check_rewards(0, 1)
    with pytest.raises(InputError, match=r"baseline.value is 0.5: expected a number from 0.6 to 1"):
        Reinforce(policy, baseline=partial(FixedBaseline, value=0.5)).check_rewards(0.6, 1)
    with pytest.raises(InputError, match=r"baseline.value is 1.5: expected a number from 0 to 1"):
        Reinforce(policy, baseline=partial(FixedBaseline, value=1.5)).update(problem.DrawingStep())  # type: ignore[arg-type]


@pytest.mark.parametrize("baseline", [MeanBaseline, ExponentialBaseline, partial(Critic, seed=0)])
def test_a_baseline_does_not_see_the_rewards_that_it_is_compared_with(baseline: Any, problem: Any) -> None:
    measured = []
    for last in (0.1, 0.9):
        policy = problem.lstm()
        estimator = Reinforce(policy, baseline=baseline)
        own = estimator.configure_optimizer()
        for number, value in enumerate((0.6, 0.4, last)):
            rollout = policy.draw(generator("baseline", number), 3)
            estimator.learn(rollout, torch.full((3,), value), problem.Alone())
            if own is not None:
                own.step()
        measured.append(estimator.measures["baseline"])
    assert measured[0] == measured[1]
    assert measured[0] != 0


def test_the_critic_sees_the_tokens_before_and_no_others(problem: Any) -> None:
    critic = problem.trained_critic(problem.lstm())
    tokens = torch.tensor([[0, 1, 2]])
    value = critic(tokens)
    for place in range(3):
        changed = tokens.clone()
        changed[0, place] = 3 - changed[0, place]
        other = critic(changed)
        assert torch.equal(other[:, : place + 1], value[:, : place + 1])
        assert bool((other[:, place + 1 :] != value[:, place + 1 :]).all())
    # Trained to the end it is the expected reward after each prefix: of none, the mean over the whole space.
    policy = problem.lstm()
    every = problem.all_sequences(policy)
    expected = (problem.probabilities(policy, every) * problem.rewards_of(every)).sum()
    assert float(value.detach()[0, 0]) == pytest.approx(float(expected.detach()), abs=0.02)


def test_the_critics_gradient_is_that_of_the_squared_error_of_the_discounted_returns(problem: Any) -> None:
    policy = problem.lstm()
    estimator = Reinforce(policy, discount=0.5, baseline=problem.trained_critic)
    critic = estimator.baseline
    assert isinstance(critic, Critic)
    rollout = policy.draw(generator("critic"), 5)
    earned = problem.rewards_of(rollout)
    estimator.learn(rollout, earned, problem.Alone())
    found = [p.grad for p in critic.parameters()]
    returns = earned[:, None] * torch.tensor([0.25, 0.5, 1.0])
    loss = (critic(rollout.tokens) - returns).square().mean()
    for gradient, expected in zip(found, torch.autograd.grad(loss, list(critic.parameters())), strict=True):
        torch.testing.assert_close(gradient, expected)
    optimizer = estimator.configure_optimizer()
    assert optimizer is not None
    assert {id(p) for g in optimizer.param_groups for p in g["params"]} == {id(p) for p in critic.parameters()}
    assert Reinforce(policy, baseline=MeanBaseline).configure_optimizer() is None


# What is measured, kept and refused.


def test_measures(problem: Any) -> None:
    policy = problem.lstm()
    estimator = Reinforce(policy, baseline=partial(FixedBaseline, value=0.4), discount=0.5)
    every = problem.all_sequences(policy)
    first = problem.rows(every, [0, 1, 1, 2])
    estimator.learn(first, torch.tensor([0.1, 0.2, 0.3, 0.6]), problem.Alone())
    assert estimator.measures == {
        "mean_reward": pytest.approx(0.3),
        "entropy": pytest.approx(float(first.entropies.mean())),
        "repeats": 0.25,
        "baseline": pytest.approx(0.4),
    }
    estimator.learn(problem.rows(every, [5, 2, 0]), torch.zeros(3), problem.Alone())
    assert estimator.measures["repeats"] == pytest.approx(2 / 3)
    assert estimator.updates == 2


def test_what_repeats_remember_is_bounded(monkeypatch: pytest.MonkeyPatch, problem: Any) -> None:
    monkeypatch.setattr(score_function, "MOST_REMEMBERED", 3)
    policy = problem.lstm()
    estimator, every = Reinforce(policy), problem.all_sequences(policy)
    estimator.learn(problem.rows(every, [0, 1, 2, 3, 4]), torch.zeros(5), problem.Alone())
    assert estimator.get_extra_state()["seen"].shape == (3, 3)
    estimator.learn(problem.rows(every, [0, 4]), torch.zeros(2), problem.Alone())
    assert estimator.measures["repeats"] == 0.5


ESTIMATORS: dict[str, Callable[[SequencePolicy], ScoreFunction]] = {
    "critic": lambda policy: Reinforce(policy, 6, Critic, entropy=0.01),
    "exponential": lambda policy: Reinforce(policy, 6, ExponentialBaseline),
    "mean": lambda policy: Reinforce(policy, 6, MeanBaseline),
    "ppo": lambda policy: PPO(policy, 6, epochs=2, minibatch=4, baseline=Critic),
    "relax": lambda policy: RELAX(policy, 6, hidden=8),
}


class Search:
    """A loop that trains a policy by an estimator, and can be stopped and continued."""

    def __init__(self, name: str, problem: Any) -> None:
        self.problem = problem
        with forked_rng("search"):  # as those that make policies do, with the seed of the run
            self.policy = LSTMController(problem.space, hidden=5)
            self.estimator = ESTIMATORS[name](self.policy)
        own = self.estimator.configure_optimizer()
        self.optimizers = [torch.optim.Adam(self.policy.parameters(), lr=0.05), *([] if own is None else [own])]
        self.done = 0

    def parts(self) -> list[Any]:
        return [self.policy, self.estimator, *self.optimizers]

    def run(self, updates: int) -> list[dict[str, float]]:
        measured, updater = [], self.problem.Alone(self.optimizers)
        for _ in range(updates):
            rollout = self.policy.draw(generator("search", self.done), 6)
            self.estimator.learn(rollout, self.problem.rewards_of(rollout), updater)
            updater.advance()
            self.done += 1
            measured.append(self.estimator.measures)
        return measured


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_continued_search_equals_a_straight_one(name: str, tmp_path: Path, problem: Any) -> None:
    straight, first, second = (Search(name, problem) for _ in range(3))
    start = copy.deepcopy(straight.policy.state_dict())
    measured = straight.run(8)
    first.run(4)
    torch.save([part.state_dict() for part in first.parts()], tmp_path / "state.pt")
    states = torch.load(tmp_path / "state.pt", weights_only=True)
    for part, state in zip(second.parts(), states, strict=True):
        part.load_state_dict(state)
    second.done = 4
    assert second.run(4) == measured[4:]
    assert any(not torch.equal(p, start[key]) for key, p in straight.policy.named_parameters())
    for one, other in zip(straight.parts(), second.parts(), strict=True):
        assert problem.same(one.state_dict(), other.state_dict())


def test_learning_finds_the_best_architecture(problem: Any) -> None:
    search = Search("exponential", problem)
    search.run(200)
    best = max(problem.space.architectures(), key=problem.reward)
    assert float(search.policy.log_prob(best).detach().exp()) > 0.5


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"episodes": 0}, "estimator.episodes is 0: an update needs at least 1 architecture"),
        ({"discount": 0.0}, "estimator.discount is 0.0: expected a number above 0, at most 1"),
        ({"discount": 1.1}, "estimator.discount is 1.1"),
        ({"entropy": -1.0}, "estimator.entropy is -1.0: expected a weight of at least 0"),
        ({"illegal_reward": float("nan")}, "estimator.illegal_reward is nan: expected a finite number"),
        ({"illegal_reward": -1.0}, "a masked policy draws nothing illegal: leave it out"),
        ({"every": 0}, "estimator.every is 0"),
        ({"baseline": partial(FixedBaseline, value=float("inf"))}, "baseline.value is inf: expected a number"),
        ({"baseline": partial(ExponentialBaseline, decay=1.0)}, "baseline.decay is 1.0: expected a number between 0"),
        ({"baseline": partial(Critic, hidden=0)}, "baseline.hidden is 0: expected at least 1"),
        ({"baseline": partial(Critic, lr=0.0)}, "baseline.lr is 0.0: expected a number above 0"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], words: str, problem: Any) -> None:
    for kind in (Reinforce, PPO):
        with pytest.raises(InputError, match=words):
            kind(problem.lstm(), **settings)


def test_bad_rewards_and_policies_are_refused(problem: Any) -> None:
    policy = problem.lstm()
    rollout = policy.draw(generator(0), 3)
    with pytest.raises(InputError, match=r"\(2,\) rewards for 3 architectures: expected one for each"):
        Reinforce(policy).learn(rollout, torch.zeros(2), problem.Alone())
    with pytest.raises(InputError, match="the mean reward is nan: give what failed a finite reward"):
        Reinforce(policy).learn(rollout, torch.tensor([0.1, float("nan"), 0.2]), problem.Alone())
    with pytest.raises(
        InputError, match="Reinforce learns from drawn architectures, and Softmax draws none: take LSTM"
    ):
        Reinforce(Softmax(Tiny64(channels=4)))
