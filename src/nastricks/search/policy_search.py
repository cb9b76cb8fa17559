"""A policy that learns from the rewards of the architectures it draws: controllers (Zoph & Le 2017)."""

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from nastricks.errors import InputError
from nastricks.estimators.score_function import ScoreFunction
from nastricks.modules.training import OptimizerMaker
from nastricks.policies import Policy
from nastricks.policies.sequence import Rollout, SequencePolicy
from nastricks.rng import forked_rng, generator
from nastricks.search.algorithm import Outcome, Proposal, SearchAlgorithm
from nastricks.spaces import Space

MOST_ILLEGAL_UPDATES = 1_000


class PolicySearch(SearchAlgorithm):
    """Draws an episode of architectures, learns from their rewards, and draws again.

    Illegal draws, which only a policy without masks makes, are answered with the estimator's stated penalty and cost
    no evaluation.

    Args:
        space: The space to search.
        seed: Key of everything random.
        policy: Makes the policy from the space.
        estimator: Makes the estimator from the policy; its `episodes` is the number of architectures an update.
        optimizer: Makes the policy's optimizer.
    """

    takes_constraints: ClassVar[bool] = False

    def __init__(
        self,
        space: Space,
        seed: int,
        policy: Callable[[Space], Policy],
        estimator: Callable[[Policy], ScoreFunction],
        optimizer: OptimizerMaker,
    ) -> None:
        super().__init__(space, seed)
        with forked_rng(seed, "policy"):
            made = policy(space)
            if not isinstance(made, SequencePolicy):
                raise InputError(
                    f"PolicySearch needs a policy that draws architectures, and {type(made).__name__} draws none: take "
                    "LSTMController or Independent"
                )
            self.policy: SequencePolicy = made
            self.estimator = estimator(made)
        if self.estimator.resource is not None:
            raise InputError(
                "estimator.resource is for updates in a supernet's training: in a search, set search.reward.resource"
            )
        own = self.estimator.configure_optimizer()
        self.optimizers: list[Optimizer] = [optimizer(self.policy.parameters()), *([] if own is None else [own])]
        self.updates = 0
        self._rollout: Rollout | None = None
        self._drawn = self._illegal = 0  # since the last outcomes
        self._measures: dict[str, float] = {}

    def check_rewards(self, low: float, high: float) -> None:
        self.estimator.check_rewards(low, high)

    def ask(self) -> list[Proposal]:
        for _ in range(MOST_ILLEGAL_UPDATES):
            self._rollout = self.policy.draw(generator(self.seed, "controller", self.updates), self.estimator.episodes)
            legal = [Proposal(a) for a in self._rollout.architectures if a is not None]
            self._drawn += len(self._rollout)
            self._illegal += len(self._rollout) - len(legal)
            if legal:
                return legal
            self._learn([])
        raise InputError(
            f"the policy drew nothing legal in {MOST_ILLEGAL_UPDATES} updates: set policy.masked true, or a lower "
            "estimator.illegal_reward"
        )

    def tell(self, outcomes: Sequence[Outcome]) -> None:
        assert self._rollout is not None, "tell follows ask"
        if len(outcomes) == sum(a is not None for a in self._rollout.architectures):  # else the budget ended inside
            self._learn([outcome.reward for outcome in outcomes])
        self._measures = {**self.estimator.measures, "illegal": self._illegal / self._drawn, "updates": self.updates}
        self._drawn = self._illegal = 0

    def measures(self) -> dict[str, float]:
        """Of the last update; `illegal` is the share of illegal draws since the last outcomes, `updates` counts all."""
        return self._measures

    def _learn(self, rewards: Sequence[float]) -> None:
        assert self._rollout is not None
        waiting = iter(rewards)
        illegal = self.estimator.illegal_reward
        given = [illegal if a is None else next(waiting) for a in self._rollout.architectures]
        self._clear()
        self.estimator.learn(self._rollout, torch.tensor(given, dtype=torch.float32), self)
        self.advance()
        self.updates += 1

    # What the estimator asks of whoever applies its gradients.

    def average(self, gradients: Sequence[Tensor]) -> list[Tensor]:
        """There is one process."""
        return list(gradients)

    def advance(self) -> None:
        """Step the optimizers with the gradients left so far, then clear them."""
        for optimizer in self.optimizers:
            optimizer.step()
        self._clear()

    def _clear(self) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
