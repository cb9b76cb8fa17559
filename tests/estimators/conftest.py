"""A problem small enough to enumerate: 3 choices, 12 architectures, and every estimator's mean and variance exactly."""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from nastricks.estimators import Critic, ExponentialBaseline, FixedBaseline, MeanBaseline, ScoreFunction
from nastricks.moment import Moment
from nastricks.policies import Independent, LSTMController, Rollout, SequencePolicy
from nastricks.rng import generator
from nastricks.spaces import Architecture, Choice, Option, Tiny64

SIZES = (3, 4, 3)


class Row(Tiny64):
    """Three choices of 3, 4 and 3 options, none twice in a row; nothing is built."""

    def __init__(self) -> None:
        names = ["a", "b", "c", "d"]
        self.choices = tuple(Choice(f"at{i}", tuple(Option(o) for o in names[:n])) for i, n in enumerate(SIZES))

    def legal(self, prefix: Sequence[int]) -> tuple[int, ...]:
        return tuple(i for i in range(SIZES[len(prefix)]) if not prefix or i != prefix[-1])

    def architectures(self) -> Iterator[Architecture]:
        return (a for a in super().architectures() if a[0] != a[1] != a[2])


SPACE = Row()
ILLEGAL = -0.3


def lstm(masked: bool = True) -> SequencePolicy:
    return LSTMController(SPACE, hidden=4, init_range=1.0, masked=masked, seed=1).double()


def independent(masked: bool = True) -> SequencePolicy:
    policy = Independent(SPACE, masked=masked, temperature=1.5).double()
    with torch.no_grad():
        policy.logits.normal_(generator=generator("independent"))
    return policy


MAKERS: dict[str, Callable[..., SequencePolicy]] = {"lstm": lstm, "independent": independent}


@dataclass
class Alone:
    """One process; counts the steps in between, and takes them where there are optimizers."""

    optimizers: Sequence[torch.optim.Optimizer] = ()
    advances: int = 0

    def average(self, gradients: Sequence[Tensor]) -> list[Tensor]:
        return list(gradients)

    def advance(self) -> None:
        self.advances += 1
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)


def all_sequences(policy: SequencePolicy) -> Rollout:
    """Every sequence that the policy can draw."""
    legal = {tuple(t): a for a in SPACE.architectures() for t in policy.vocabulary.tokens([a]).tolist()}
    tokens = torch.tensor(list(legal)) if policy.masked else torch.cartesian_prod(*[torch.arange(4)] * 3)
    with torch.no_grad():
        scored = policy.score(tokens)
    architectures = tuple(legal.get(tuple(row)) for row in tokens.tolist())
    return Rollout(tokens, architectures, scored.log_probs, scored.entropies)


def rows(rollout: Rollout, chosen: Sequence[int]) -> Rollout:
    picked = list(chosen)
    architectures = tuple(rollout.architectures[i] for i in picked)
    return Rollout(rollout.tokens[picked], architectures, rollout.log_probs[picked], rollout.entropies[picked])


def reward(architecture: Architecture | None) -> float:
    """In [0, 1] and far from additive."""
    if architecture is None:
        return ILLEGAL
    return float(torch.rand((), generator=generator("reward", architecture)))


def rewards_of(rollout: Rollout) -> Tensor:
    return torch.tensor([reward(a) for a in rollout.architectures], dtype=torch.float64)


def same(a: Any, b: Any) -> bool:
    """Whether two states are equal to the last bit."""
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(value, b[key]) for key, value in a.items())
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return torch.equal(a, b) if isinstance(a, Tensor) else bool(a == b)


def flat_gradient(policy: SequencePolicy) -> Tensor:
    return torch.cat([torch.zeros(p.numel()) if p.grad is None else p.grad.flatten() for p in policy.parameters()])


def probabilities(policy: SequencePolicy, every: Rollout) -> Tensor:
    return policy.score(every.tokens).log_probs.sum(1).exp()


def exact_gradient(policy: SequencePolicy) -> Tensor:
    """Of the expected reward, by enumeration; the optimizers descend, so with its sign turned."""
    every = all_sequences(policy)
    p = probabilities(policy, every)
    assert float(p.detach().sum()) == pytest.approx(1, abs=1e-12)
    gradients = torch.autograd.grad(-(p * rewards_of(every)).sum(), list(policy.parameters()), allow_unused=True)
    pairs = zip(gradients, policy.parameters(), strict=True)
    return torch.cat([torch.zeros(p.numel()) if g is None else g.flatten() for g, p in pairs]).double()


def moments(estimator: ScoreFunction) -> tuple[Tensor, float]:
    """Mean and total variance of the gradient that one drawn architecture leaves, exact by enumeration."""
    policy, state = estimator.policy, copy.deepcopy(estimator.state_dict())
    every = all_sequences(policy)
    p, earned = probabilities(policy, every).detach(), rewards_of(every)
    found = []
    for row in range(len(every)):
        estimator.load_state_dict(state)
        estimator.learn(rows(every, [row]), earned[row : row + 1], Alone())
        found.append(flat_gradient(policy))
    gradients = torch.stack(found)
    mean = p @ gradients
    return mean, float(p @ (gradients - mean).square().sum(1))


def trained_critic(policy: SequencePolicy) -> Critic:
    critic = Critic(policy, hidden=16, seed=2).double()
    every = all_sequences(policy)
    p, earned = probabilities(policy, every).detach(), rewards_of(every)[:, None].expand(-1, 3)
    optimizer = torch.optim.Adam(critic.parameters(), lr=0.05)
    for _ in range(60):
        optimizer.zero_grad()
        (p[:, None] * (critic(every.tokens) - earned).square()).sum().backward()
        optimizer.step()
    return critic


def seen(baseline: MeanBaseline | ExponentialBaseline) -> Any:
    baseline.observe(torch.full((10,), 0.55))
    return baseline


BASELINES: dict[str, Any] = {
    "fixed": partial(FixedBaseline, value=0.5),
    "mean": lambda policy: seen(MeanBaseline(policy)),
    "exponential": lambda policy: seen(ExponentialBaseline(policy)),
    "critic": trained_critic,
}


@dataclass
class DrawingStep(Alone):
    """A step of a supernet whose rewards are those above; notes what was asked for."""

    moment: Moment = field(default_factory=lambda: Moment(role="weights", seed=0))
    asked: list[Architecture] = field(default_factory=list)

    def reward(self, architectures: Sequence[Architecture]) -> Tensor:
        self.asked += architectures
        return torch.tensor([reward(a) for a in architectures])


@pytest.fixture(scope="session")
def problem() -> SimpleNamespace:
    """All of the above by name, which tests cannot import from here."""
    tools = (lstm, independent, all_sequences, rows, reward, rewards_of, flat_gradient, probabilities, same)
    more = (exact_gradient, moments, trained_critic, Alone, DrawingStep)
    return SimpleNamespace(
        space=SPACE,
        illegal=ILLEGAL,
        policy=lambda name, masked=True: MAKERS[name](masked),
        baseline=lambda name: BASELINES[name],
        **{tool.__name__: tool for tool in (*tools, *more)},
    )
