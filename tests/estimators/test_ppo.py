"""PPO: its first step, its clip, its epochs, and refusals."""

from typing import Any

import pytest
import torch

from nastricks.errors import InputError
from nastricks.estimators import PPO, Reinforce
from nastricks.estimators.ppo import clipped_gain
from nastricks.rng import generator

every_policy = pytest.mark.parametrize("name", ["lstm", "independent"])
with_and_without_masks = pytest.mark.parametrize("masked", [True, False], ids=["masked", "unmasked"])


@every_policy
@with_and_without_masks
@pytest.mark.parametrize("baseline", [None, "fixed", "critic"])
def test_the_first_step_of_ppo_is_that_of_reinforce(
    name: str, masked: bool, baseline: str | None, problem: Any
) -> None:
    policy = problem.policy(name, masked)
    rollout = policy.draw(generator("first"), 20)
    settings: dict[str, Any] = {
        "baseline": problem.baseline(baseline) if baseline else None,
        "entropy": 0.3,
        "discount": 0.9,
    }
    found = []
    for estimator in (Reinforce(policy, 20, **settings), PPO(policy, 20, epochs=1, **settings)):
        estimator.learn(rollout, problem.rewards_of(rollout), problem.Alone())
        found.append(problem.flat_gradient(policy))
        own = [p.grad for p in estimator.parameters() if p.grad is not None]
        found[-1] = torch.cat([found[-1], *(g.flatten() for g in own)])
    assert torch.equal(found[0], found[1])
    assert float(found[0].norm()) > 0


def test_the_clip_ends_what_a_ratio_can_gain() -> None:
    ratio = torch.tensor([[0.5, 0.9, 1.0, 1.1, 1.5]] * 2, requires_grad=True)
    advantages = torch.tensor([[2.0], [-2.0]]).expand(2, 5)
    gain = clipped_gain(ratio, advantages, 0.2)
    torch.testing.assert_close(gain.detach()[0], 2 * torch.tensor([0.5, 0.9, 1.0, 1.1, 1.2]))
    torch.testing.assert_close(gain.detach()[1], -2 * torch.tensor([0.8, 0.9, 1.0, 1.1, 1.5]))
    (slope,) = torch.autograd.grad(gain.sum(), ratio)
    assert slope.tolist() == [[2, 2, 2, 2, 0], [0, -2, -2, -2, -2]]


def test_later_steps_of_ppo_are_taken_from_the_probabilities_of_the_draw(problem: Any) -> None:
    policy = problem.lstm()
    rollout = policy.draw(generator("later"), 8)
    earned = problem.rewards_of(rollout)
    moved = torch.optim.SGD(policy.parameters(), lr=3.0)
    PPO(policy, 8, clip=0.2, epochs=2).learn(rollout, earned, problem.Alone([moved]))
    found = problem.flat_gradient(policy)
    ratio = (policy.score(rollout.tokens).log_probs - rollout.log_probs).exp()
    advantages = earned[:, None].expand(-1, 3)
    assert bool((ratio > 1.2).any())
    gain = torch.min(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages).sum(1).mean()
    expected = torch.autograd.grad(-gain, list(policy.parameters()))
    torch.testing.assert_close(found, torch.cat([g.flatten() for g in expected]))


@pytest.mark.parametrize(("minibatch", "steps"), [(None, 3), (20, 3), (8, 9), (1, 60)])
def test_every_epoch_of_ppo_takes_every_architecture_once(minibatch: int | None, steps: int, problem: Any) -> None:
    policy, updater = problem.independent(), problem.Alone()
    estimator = PPO(policy, 20, epochs=3, minibatch=minibatch, seed=0)
    parts = [[row for part in estimator._parts(20, epoch) for row in part.tolist()] for epoch in range(3)]
    assert all(sorted(epoch) == list(range(20)) for epoch in parts)
    assert (parts[0] != parts[1]) == (minibatch is not None)
    rollout = policy.draw(generator("epochs"), 20)
    estimator.learn(rollout, problem.rewards_of(rollout), updater)
    assert updater.advances == steps - 1
    assert float(problem.flat_gradient(policy).norm()) > 0  # those of the last step are left


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"clip": 0.0}, "estimator.clip is 0.0: expected a number above 0"),
        ({"epochs": 0}, "estimator.epochs is 0: expected at least 1"),
        ({"minibatch": 21}, "estimator.minibatch is 21: expected from 1 to the 20 episodes of an update, or null"),
        ({"minibatch": 0}, "estimator.minibatch is 0"),
    ],
)
def test_bad_settings_of_ppo_are_refused(settings: dict[str, Any], words: str, problem: Any) -> None:
    with pytest.raises(InputError, match=words):
        PPO(problem.lstm(), **settings)
