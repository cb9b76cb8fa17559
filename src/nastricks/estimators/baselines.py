"""What an architecture is expected to earn: taken from its reward, it lowers the variance of the policy's gradient.

Any baseline that does not depend on the token it stands beside leaves the expected gradient as it is (Williams 1992,
"Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement Learning", section 3). So each gives
its value before it sees the rewards that the value is compared with.
"""

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nastricks.errors import InputError
from nastricks.policies import SequencePolicy
from nastricks.rng import forked_rng, inherited_seed


class Baseline(nn.Module, ABC):
    """The return that is expected of each token. Its state is part of the checkpoint.

    Args:
        policy: The policy whose returns are expected.
    """

    def __init__(self, policy: SequencePolicy) -> None:
        super().__init__()

    @abstractmethod
    def expected(self, tokens: Tensor, discounts: Tensor) -> Tensor:
        """Tokens (N, T) and the discount of each place (T,) -> expected returns (N, T), without gradient."""

    def observe(self, rewards: Tensor) -> None:
        """Take in the rewards (N,) of an update, after its gradients are made."""

    def loss(self, tokens: Tensor, returns: Tensor) -> Tensor | None:
        """What the baseline's own parameters minimise (), from tokens and returns (N, T); None where it has none."""
        return None

    def configure_optimizer(self) -> torch.optim.Optimizer | None:
        """The optimizer of the baseline's own parameters."""
        return None

    def check_rewards(self, low: float, high: float) -> None:
        """Refuse rewards in [low, high] that the baseline cannot be meant for."""


class NoBaseline(Baseline):
    """Rewards as they are."""

    def expected(self, tokens: Tensor, discounts: Tensor) -> Tensor:
        return discounts.new_zeros(tokens.shape)


class _OneNumber(Baseline):
    """One expected reward for all architectures; a token's return is discounted like the reward itself."""

    def __init__(self, policy: SequencePolicy) -> None:
        super().__init__(policy)
        self.value = 0.0
        self.rewards_seen = 0

    def expected(self, tokens: Tensor, discounts: Tensor) -> Tensor:
        return (self.value * discounts).expand(tokens.shape)

    def get_extra_state(self) -> dict[str, float]:
        return {"value": self.value, "rewards_seen": self.rewards_seen}

    def set_extra_state(self, state: Any) -> None:
        self.value, self.rewards_seen = state["value"], state["rewards_seen"]


class FixedBaseline(_OneNumber):
    """A constant.

    Args:
        policy: The policy whose returns are expected.
        value: The constant, in the range of the rewards.
    """

    def __init__(self, policy: SequencePolicy, value: float) -> None:
        super().__init__(policy)
        if not math.isfinite(value):
            raise InputError(f"baseline.value is {value}: expected a number in the range of the rewards")
        self.value = value

    def check_rewards(self, low: float, high: float) -> None:
        if not low <= self.value <= high:
            raise InputError(
                f"baseline.value is {self.value}: expected a number from {low:g} to {high:g}, where the rewards lie"
            )


class MeanBaseline(_OneNumber):
    """The mean of all rewards of earlier updates; 0 in the first."""

    def observe(self, rewards: Tensor) -> None:
        self.rewards_seen += len(rewards)
        self.value += (float(rewards.double().sum()) - len(rewards) * self.value) / self.rewards_seen


class ExponentialBaseline(_OneNumber):
    """An exponential moving average of each update's mean reward; 0 in the first update, whose mean it starts from.

    ENAS's code starts from 0 and takes in the present reward before it subtracts the baseline, which shrinks the
    gradient by the decay; here neither is so.

    Args:
        policy: The policy whose returns are expected.
        decay: What is kept at each update, in (0, 1): 0.95 in TuNAS, 0.99 in ENAS's code.
    """

    def __init__(self, policy: SequencePolicy, decay: float = 0.95) -> None:
        super().__init__(policy)
        if not 0 < decay < 1:
            raise InputError(f"baseline.decay is {decay}: expected a number between 0 and 1, both excluded")
        self.decay = decay

    def observe(self, rewards: Tensor) -> None:
        mean = float(rewards.double().mean())
        self.value = self.decay * self.value + (1 - self.decay) * mean if self.rewards_seen else mean
        self.rewards_seen += len(rewards)


class PrefixLayer(nn.Module):
    """The first layer of a network that knows, in each place, the place and the tokens before it, and no others.

    A linear layer on the multi-hot vector of (place, slot) pairs so far and the one-hot vector of the place, computed
    as a running sum of embeddings.
    """

    def __init__(self, policy: SequencePolicy, hidden: int) -> None:
        super().__init__()
        words = policy.vocabulary
        self.width = words.width
        self.tokens = nn.Embedding(words.length * words.width, hidden)
        self.places = nn.Parameter(torch.zeros(words.length, hidden))
        nn.init.normal_(self.tokens.weight, std=words.length**-0.5)

    def forward(self, tokens: Tensor) -> Tensor:
        """(N, T) -> (N, T, hidden)."""
        places = torch.arange(tokens.shape[1], device=tokens.device)
        own: Tensor = self.tokens(tokens + places * self.width)
        # Shifted before it is summed: subtracting a token from a sum that holds it would leave its rounding behind.
        before = torch.cat([torch.zeros_like(own[:, :1]), own[:, :-1]], dim=1)
        return before.cumsum(1) + self.places


class Critic(Baseline):
    """A small network that learns the discounted return of each place from the tokens before it (actor-critic).

    Its last layer starts at zero, so it starts as no baseline.

    Args:
        policy: The policy whose returns are expected.
        hidden: Width of its one hidden layer, at least 1.
        lr: Learning rate of its own Adam, above 0.
        seed: Key of its start; None takes the run's own.
    """

    def __init__(self, policy: SequencePolicy, hidden: int = 64, lr: float = 1e-2, seed: int | None = None) -> None:
        super().__init__(policy)
        if hidden < 1:
            raise InputError(f"baseline.hidden is {hidden}: expected at least 1")
        if not 0 < lr < float("inf"):
            raise InputError(f"baseline.lr is {lr}: expected a number above 0")
        self.lr = lr
        with forked_rng(inherited_seed(seed), "critic"):
            self.before = PrefixLayer(policy, hidden)
            self.last = nn.Linear(hidden, 1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (N, T) -> expected returns (N, T)."""
        return self.last(torch.tanh(self.before(tokens)))[..., 0]

    @torch.no_grad()
    def expected(self, tokens: Tensor, discounts: Tensor) -> Tensor:
        return self(tokens)

    def loss(self, tokens: Tensor, returns: Tensor) -> Tensor:
        """Mean squared error."""
        return F.mse_loss(self(tokens), returns)

    def configure_optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.lr)
