"""Policies that learn from rewards alone: the score-function gradient, E[R d log p] (Williams 1992)."""

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from nastricks.errors import InputError
from nastricks.estimators.base import Estimator, Order, Step, Updater
from nastricks.estimators.baselines import Baseline, NoBaseline
from nastricks.policies import Policy, Rollout, Scored, SequencePolicy
from nastricks.spaces import Architecture, Resource

BaselineMaker = Callable[[SequencePolicy], Baseline]

MOST_REMEMBERED = 65_536
"""Drawn architectures that `repeats` remembers; the oldest are forgotten first."""


class ScoreFunction(Estimator):
    """Draws architectures, and makes those that earned more than expected more likely.

    Used in two ways: `update` is one step inside a supernet's training, with rewards from its search batch [ENAS];
    a black-box search draws for itself, trains the children, and hands the rewards to `learn`.

    Args:
        policy: The policy to update; it draws and scores sequences.
        episodes: Architectures an update, at least 1.
        baseline: Makes what a reward is compared with; None compares it with nothing.
        discount: In (0, 1]: the return of token t of T is discount^(T - 1 - t) times the reward.
        entropy: Weight, at least 0, of the entropy bonus: the mean over architectures of the sum over tokens, each
            given the tokens drawn before it. Its gradient is that of these entropies, in nats; how the policy changes
            which prefixes come up is left out.
        illegal_reward: What an illegal draw earns, without masks; it is never built.
        every: Update in every this many training steps, at least 1.
        resource: Takes the cost of a child off its reward; None does not. For updates inside a supernet's training: a
            black-box search has rewards of its own.

    Attributes:
        measures: Of the last update: `mean_reward`; `entropy`, the mean a token; `repeats`, the share of its legal
            architectures that were drawn before in this run or earlier in the same update; `baseline`, the expected
            reward, a mean over architectures.
        updates: Updates so far.
    """

    order: Order = "after"

    def __init__(
        self,
        policy: Policy,
        episodes: int = 1,
        baseline: BaselineMaker | None = None,
        discount: float = 1.0,
        entropy: float = 0.0,
        illegal_reward: float = 0.0,
        every: int = 1,
        resource: Resource | None = None,
    ) -> None:
        super().__init__(policy, every)
        if not isinstance(policy, SequencePolicy):
            raise InputError(
                f"{type(self).__name__} learns from drawn architectures, and {type(policy).__name__} draws none: take "
                "LSTMController or Independent"
            )
        if episodes < 1:
            raise InputError(f"estimator.episodes is {episodes}: an update needs at least 1 architecture")
        if not 0 < discount <= 1:
            raise InputError(f"estimator.discount is {discount}: expected a number above 0, at most 1")
        if not 0 <= entropy < float("inf"):
            raise InputError(f"estimator.entropy is {entropy}: expected a weight of at least 0")
        if not math.isfinite(illegal_reward):
            raise InputError(f"estimator.illegal_reward is {illegal_reward}: expected a finite number")
        if policy.masked and illegal_reward != 0:
            raise InputError(
                f"estimator.illegal_reward is {illegal_reward}, and a masked policy draws nothing illegal: leave it "
                "out, or set policy.masked false"
            )
        self.episodes, self.discount, self.entropy = episodes, discount, entropy
        self.illegal_reward, self.resource = illegal_reward, resource
        self.baseline = NoBaseline(policy) if baseline is None else baseline(policy)
        self.measures: dict[str, float] = {}
        self.updates = 0
        self._seen: dict[Architecture, None] = {}

    @property
    def policy(self) -> SequencePolicy:
        assert isinstance(self._policy[0], SequencePolicy), "the constructor refuses others"
        return self._policy[0]

    def configure_optimizer(self) -> torch.optim.Optimizer | None:
        return self.baseline.configure_optimizer()

    def check_rewards(self, low: float, high: float) -> None:
        """Refuse settings that do not fit rewards in [low, high].

        Raises:
            InputError: a fixed baseline outside.
        """
        self.baseline.check_rewards(low, high)

    def update(self, step: Step) -> None:
        """Draw, take the rewards of the search batch (their mean over ranks), and learn."""
        self.check_rewards(0.0 if self.resource is None else -math.inf, 1.0)
        rollout = self.policy.draw(step.moment.generator("controller"), self.episodes)
        (rewards,) = step.average([self._rewards(rollout, partial(self._worth, step))])
        self.learn(rollout, rewards, step)

    def _worth(self, step: Step, architectures: Sequence[Architecture]) -> Tensor:
        """What architectures are worth (A,): their accuracy, less what their cost takes off."""
        accuracies = step.reward(architectures)
        if self.resource is None:
            return accuracies
        return accuracies - accuracies.new_tensor([self.resource.term(step.cost(a)) for a in architectures])

    def learn(self, rollout: Rollout, rewards: Tensor, updater: Updater) -> None:
        """Leave gradients on the policy's parameters and the estimator's own; the caller steps their optimizers.

        Args:
            rollout: N architectures, drawn from the policy as it is.
            rewards: What each earned (N,).
            updater: Averages gradients; steps in between where an estimator takes several steps an update.

        Raises:
            InputError: another number of rewards than architectures, or one that is not finite.
        """
        if rewards.shape != (len(rollout),):
            raise InputError(f"{tuple(rewards.shape)} rewards for {len(rollout)} architectures: expected one for each")
        with torch.autocast(rollout.tokens.device.type, enabled=False):  # as the policy draws and scores
            self._learn(rollout, rewards.to(rollout.log_probs), updater)

    def _learn(self, rollout: Rollout, rewards: Tensor, updater: Updater) -> None:
        expected = self.baseline.expected(rollout.tokens, self._discounts(rewards))
        drawn = rollout.entropies.mean()
        mean_reward, entropy, baseline = torch.stack([rewards.mean(), drawn, expected[:, -1].mean()]).tolist()
        if not math.isfinite(mean_reward):
            raise InputError(f"the mean reward is {mean_reward}: give what failed a finite reward, such as 0")
        returns = rewards[:, None] * self._discounts(rewards)
        self._improve(rollout, returns, returns - expected, updater)
        self.baseline.observe(rewards)
        self.updates += 1
        repeats = self._remember(rollout.architectures)
        self.measures = {"mean_reward": mean_reward, "entropy": entropy, "repeats": repeats, "baseline": baseline}

    @abstractmethod
    def _improve(self, rollout: Rollout, returns: Tensor, advantages: Tensor, updater: Updater) -> None:
        """Leave the gradients, from returns and returns less what was expected, both (N, T)."""

    def _bonus(self, scored: Scored) -> Tensor:
        """The weighted entropy () of the policy."""
        return self.entropy * scored.entropies.sum(1).mean()

    def _leave_baseline(self, tokens: Tensor, returns: Tensor, updater: Updater) -> None:
        loss = self.baseline.loss(tokens, returns)
        if loss is not None:
            self.leave(updater, loss, self.baseline.parameters())

    def _discounts(self, like: Tensor) -> Tensor:
        """The weight of the reward in each token's return (T,)."""
        left = torch.arange(self.policy.vocabulary.length - 1, -1, -1, device=like.device)
        return self.discount ** left.to(like)

    def _rewards(self, rollout: Rollout, reward: Callable[[Sequence[Architecture]], Tensor]) -> Tensor:
        """(N,): what the legal ones earn, and the stated reward of the illegal ones."""
        legal = [number for number, architecture in enumerate(rollout.architectures) if architecture is not None]
        rewards = torch.full_like(rollout.log_probs[:, 0], self.illegal_reward)
        if legal:
            rewards[legal] = reward([a for a in rollout.architectures if a is not None]).to(rewards)
        return rewards

    # What was drawn before.

    def _remember(self, architectures: Sequence[Architecture | None]) -> float:
        """Note what was drawn; the share of the legal ones that had been drawn before."""
        legal = [a for a in architectures if a is not None]
        repeated = 0
        for architecture in legal:
            repeated += architecture in self._seen
            self._seen[architecture] = None
        while len(self._seen) > MOST_REMEMBERED:
            del self._seen[next(iter(self._seen))]
        return repeated / len(legal) if legal else 0.0

    def get_extra_state(self) -> dict[str, Any]:
        seen = torch.tensor(list(self._seen), dtype=torch.int16).view(-1, self.policy.vocabulary.length)
        return {"updates": self.updates, "seen": seen}

    def set_extra_state(self, state: Any) -> None:
        self.updates = state["updates"]
        self._seen = {tuple(row): None for row in state["seen"].tolist()}


class Reinforce(ScoreFunction):
    """The gradient of the log-probability of each drawn token, times its return less the baseline (Williams 1992)."""

    def _improve(self, rollout: Rollout, returns: Tensor, advantages: Tensor, updater: Updater) -> None:
        scored = self.policy.score(rollout.tokens)
        gain = (advantages * scored.log_probs).sum(1).mean()
        self.leave(updater, -(gain + self._bonus(scored)))
        self._leave_baseline(rollout.tokens, returns, updater)
