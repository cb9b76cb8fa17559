"""A problem small enough to enumerate: 3 choices, 12 architectures, and every estimator's mean and variance exactly.

And a step of a small supernet in double precision, without Lightning, on one rank or several.
"""

import copy
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nastricks.data import Batch, ImageSpec
from nastricks.estimators import Critic, Estimator, ExponentialBaseline, FixedBaseline, MeanBaseline, ScoreFunction
from nastricks.moment import Moment, Role
from nastricks.policies import Independent, LSTMController, Policy, Rollout, SequencePolicy, Softmax
from nastricks.rng import forked_rng, generator
from nastricks.spaces import Architecture, Choice, Cost, Gates, Network, Option, Tiny64

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


# A step of a supernet.

SMALL, SPEC = Tiny64(channels=4), ImageSpec(1, 8, 5)


def batch_of(purpose: str, size: int = 8) -> Batch:
    rng = generator("estimators", purpose)
    return Batch(torch.randn(size, 1, 8, 8, generator=rng).double(), torch.randint(5, (size,), generator=rng))


class Ranks:
    """Lets `world` threads average as the ranks of a distributed run do."""

    def __init__(self, world: int) -> None:
        self.barrier, self.given = threading.Barrier(world), [[torch.zeros(())]] * world

    def average(self, rank: int, gradients: Sequence[Tensor]) -> list[Tensor]:
        self.given[rank] = list(gradients)
        self.barrier.wait()
        means = [torch.stack(each).mean(0) for each in zip(*self.given, strict=True)]
        self.barrier.wait()
        return means


@dataclass
class PlainStep:
    """A step of a supernet without Lightning; gradients are averaged over `ranks`, where there are some."""

    network: Network
    policy: Policy
    weight_optimizer: torch.optim.Optimizer
    train: Batch = field(default_factory=lambda: batch_of("train"))
    search: Batch = field(default_factory=lambda: batch_of("search"))
    moment: Moment = field(default_factory=lambda: Moment(role="policy", seed=0))
    ranks: Ranks | None = None
    rank: int = 0
    averages: int = 0

    @property
    def weights(self) -> Sequence[nn.Parameter]:
        return list(self.network.parameters())

    def propose(self) -> Sequence[Gates]:
        return self.policy.propose(self.moment)

    def loss(self, gates: Gates, batch: Batch, *, role: Role = "policy") -> Tensor:
        return F.cross_entropy(self.network(batch.images, gates), batch.labels)

    def objective(self, gates: Gates) -> Tensor:
        return self.loss(gates, self.search)

    def reward(self, architectures: Sequence[Architecture]) -> Tensor:
        raise NotImplementedError

    def cost(self, architecture: Architecture) -> Cost:
        raise NotImplementedError

    def outcomes(self) -> Sequence[tuple[Architecture | None, Tensor]]:
        raise NotImplementedError

    def average(self, gradients: Sequence[Tensor]) -> list[Tensor]:
        self.averages += 1
        return list(gradients) if self.ranks is None else self.ranks.average(self.rank, gradients)

    def advance(self) -> None:
        raise NotImplementedError


def supernet_step(
    policy: Callable[..., Policy] = Softmax,
    optimizer: Callable[[Any], torch.optim.Optimizer] | None = None,
    history: int = 0,
    changed: Callable[[Network], None] = lambda network: None,
    **more: Any,
) -> PlainStep:
    """A step of tiny64 with four channels, after `history` steps of its weights on batches of their own."""
    with forked_rng("estimators"):
        network, made = SMALL.supernet(SPEC).double(), policy(SMALL, init_std=1.0).double()
    changed(network)
    opt = (optimizer or (lambda weights: torch.optim.SGD(weights, lr=0.1)))(network.parameters())
    step = PlainStep(network, made, opt, **more)
    for number in range(history):
        opt.zero_grad(set_to_none=True)
        step.loss(step.propose()[0], batch_of(f"history {number}")).backward()
        opt.step()
    opt.zero_grad(set_to_none=True)
    made.zero_grad(set_to_none=True)
    return step


def left_by(estimator: Estimator, step: PlainStep) -> dict[str, Tensor]:
    """The gradients that an update leaves on the policy; the network's parameters get none and stay as they are."""
    before = [p.detach().clone() for p in step.network.parameters()]
    estimator.update(step)
    for parameter, value in zip(step.network.parameters(), before, strict=True):
        assert parameter.grad is None
        assert torch.equal(parameter, value)
    return {key: p.grad for key, p in step.policy.named_parameters() if p.grad is not None}


def over_ranks(
    make: Callable[[Policy], Estimator], world: int, **settings: Any
) -> tuple[list[dict[str, Tensor]], list[PlainStep]]:
    """What an estimator leaves on each of `world` ranks, which hold a training and a search batch each."""
    ranks, found = Ranks(world), [dict[str, Tensor]()] * world
    batches = [{"train": batch_of(f"train {r}"), "search": batch_of(f"search {r}")} for r in range(world)]
    steps = [supernet_step(**settings, **batches[r], ranks=ranks, rank=r) for r in range(world)]

    def run(rank: int) -> None:
        try:
            found[rank] = left_by(make(steps[rank].policy), steps[rank])
        except BaseException:
            ranks.barrier.abort()
            raise

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found, steps


@pytest.fixture(scope="session")
def supernet() -> SimpleNamespace:
    """The tools above by name."""
    tools = (supernet_step, batch_of, left_by, over_ranks)
    return SimpleNamespace(space=SMALL, spec=SPEC, **{tool.__name__: tool for tool in tools})
