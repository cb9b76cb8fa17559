"""Proximal policy optimisation (Schulman et al. 2017), which NASNet trains its controller with."""

import torch
from torch import Tensor

from nastricks.errors import InputError
from nastricks.estimators.base import Updater
from nastricks.estimators.score_function import BaselineMaker, ScoreFunction
from nastricks.policies import Policy, Rollout
from nastricks.rng import generator, inherited_seed
from nastricks.spaces import Resource


def clipped_gain(ratio: Tensor, advantages: Tensor, clip: float) -> Tensor:
    """Equation 7 for each token, before the mean: min(r A, clamp(r, 1 - clip, 1 + clip) A); shapes (N, T)."""
    return torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)


class PPO(ScoreFunction):
    """Several steps on the same architectures, none of which moves a token's probability far from the one drawn with.

    The ratio is that of each token given those before it. Advantages are fixed at the start of the update.

    Args:
        policy: The policy to update; it draws and scores sequences.
        episodes: Architectures an update, at least 1.
        clip: How far a ratio may move from 1 before it earns nothing more, above 0 (Schulman et al. 0.2).
        epochs: Passes over the update's architectures, at least 1.
        minibatch: Architectures a step, from 1 to `episodes`, shuffled in each epoch; None takes them all.
        baseline: Makes what a reward is compared with; None compares it with nothing.
        discount: In (0, 1]: the return of token t of T is discount^(T - 1 - t) times the reward.
        entropy: Weight of the entropy bonus, at least 0 (NASNet 1e-5).
        illegal_reward: What an illegal draw earns, without masks.
        every: Update in every this many training steps, at least 1.
        seed: Key of the shuffling; None takes the run's own.
        resource: Takes the cost of a child off its reward, inside a supernet's training; None does not.
    """

    def __init__(
        self,
        policy: Policy,
        episodes: int = 20,
        clip: float = 0.2,
        epochs: int = 4,
        minibatch: int | None = None,
        baseline: BaselineMaker | None = None,
        discount: float = 1.0,
        entropy: float = 0.0,
        illegal_reward: float = 0.0,
        every: int = 1,
        seed: int | None = None,
        resource: Resource | None = None,
    ) -> None:
        super().__init__(policy, episodes, baseline, discount, entropy, illegal_reward, every, resource)
        if not 0 < clip < float("inf"):
            raise InputError(f"estimator.clip is {clip}: expected a number above 0")
        if epochs < 1:
            raise InputError(f"estimator.epochs is {epochs}: expected at least 1")
        if minibatch is not None and not 1 <= minibatch <= episodes:
            raise InputError(
                f"estimator.minibatch is {minibatch}: expected from 1 to the {episodes} episodes of an update, or null"
            )
        self.clip, self.epochs, self.minibatch, self.seed = clip, epochs, minibatch, inherited_seed(seed)

    def _improve(self, rollout: Rollout, returns: Tensor, advantages: Tensor, updater: Updater) -> None:
        parts = [part for epoch in range(self.epochs) for part in self._parts(len(rollout), epoch)]
        for number, part in enumerate(parts):
            if number > 0:
                updater.advance()
            rows = part.to(rollout.tokens.device)
            tokens = rollout.tokens[rows]
            scored = self.policy.score(tokens)
            ratio = (scored.log_probs - rollout.log_probs[rows]).exp()
            gain = clipped_gain(ratio, advantages[rows], self.clip).sum(1).mean()
            self.leave(updater, -(gain + self._bonus(scored)))
            self._leave_baseline(tokens, returns[rows], updater)

    def _parts(self, n: int, epoch: int) -> list[Tensor]:
        """The rows of each step of an epoch; the last may be fewer."""
        if self.minibatch is None:
            return [torch.arange(n)]
        rng = generator(self.seed, "ppo", self.updates, epoch)
        return list(torch.split(torch.randperm(n, generator=rng), self.minibatch))
