"""Bias and variance of the gradient estimators for one sampled path, against temperature, by enumeration.

The truth: the exact gradient by alpha of the expected loss of a path of tiny64 drawn from softmax(alpha), on one search
batch and the weights of a supernet trained for 40 epochs by uniform paths. An estimator's bias is the distance of its
mean from the truth, its deviation the root of its summed variances, both relative to the truth's length.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nastricks.estimators import RELAX, ExponentialBaseline, GumbelRelax, Reinforce, ScoreFunction, Step
from nastricks.files import write_text
from nastricks.moment import Moment
from nastricks.policies import ConstantTemperature, GumbelHard, GumbelSoftmax, Independent, Softmax
from nastricks.recipe import resolve
from nastricks.rng import generator
from nastricks.run import build
from nastricks.spaces import Architecture, Gates, Network

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "gumbel.md"
TEMPERATURES = (0.1, 0.3, 1.0, 3.0, 10.0)
Losses = dict[Architecture, float]


@dataclass(frozen=True)
class Setting:
    """A trained network and one batch."""

    network: Network
    images: Tensor
    labels: Tensor

    def loss(self, gates: Gates) -> Tensor:
        return F.cross_entropy(self.network(self.images, gates), self.labels)


@dataclass(frozen=True)
class Estimate:
    """What `n` draws of a gradient say: bias and deviation relative to the truth, the bias's own standard error."""

    name: str
    temperature: float | None
    bias: float
    error: float
    deviation: float

    @staticmethod
    def of(name: str, temperature: float | None, draws: Tensor, truth: Tensor) -> "Estimate":
        """From draws (n, 12) and the truth (12,)."""
        length, deviation = float(truth.norm()), float(draws.var(0).sum().sqrt())
        bias = float((draws.mean(0) - truth).norm())
        return Estimate(name, temperature, bias / length, deviation / len(draws) ** 0.5 / length, deviation / length)


def trained(epochs: int) -> tuple[Setting, Softmax]:
    """The supernet with its batch, and alpha with a spread of 1."""
    stack = [f"recipes/{part}.yaml" for part in ("spaces/tiny64", "data/digits", "algorithms/spos")]
    run = build(resolve(stack, ["--trainer.accelerator=cpu", f"--trainer.max_epochs={epochs}"]), None, quiet=True)
    run.fit()
    batch, network = run.data.batch("search", 0), run.module.networks[0].train()
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.track_running_stats = False  # normalise by the batch, and leave the statistics
    assert isinstance(network, Network)
    return Setting(network, batch.images, batch.labels), Softmax(run.module.space, init_std=1.0, seed=0)


def by_path(at: Setting, policy: Softmax) -> Losses:
    """The loss of each of the 64 paths."""
    with torch.no_grad():
        return {a: float(at.loss(policy.space.gates(a))) for a in policy.space.architectures()}


def exact(policy: Softmax, losses: Losses) -> Tensor:
    """The gradient (12,) of the expected loss by alpha, over all paths."""
    terms = [policy.log_prob(a).exp() * loss for a, loss in losses.items()]
    return torch.cat(torch.autograd.grad(torch.stack(terms).sum(), list(policy.alpha.values())))


def through_gates(made: GumbelSoftmax, at: Setting, like: Softmax, samples: int) -> Tensor:
    """Draws (samples, 12) of the gradient that goes through the gates of a policy with the same alpha."""
    made.load_state_dict(like.state_dict())
    draws = []
    for step in range(samples):
        (gates,) = made.propose(Moment(role="policy", seed=0, step=step))
        draws.append(torch.cat(torch.autograd.grad(at.loss(gates), list(made.alpha.values()))))
    return torch.stack(draws)


class Alone:
    """Applies nothing: the estimator's own optimizer is stepped by hand, and the policy stays."""

    def average(self, gradients: Sequence[Tensor]) -> list[Tensor]:
        return list(gradients)

    def advance(self) -> None:
        """Nothing moves."""


def by_score(estimator: ScoreFunction, losses: Losses, like: Softmax, warm_up: int, samples: int) -> Tensor:
    """Draws (samples, 12) of a score-function estimate, after `warm_up` updates of its baseline or control variate."""
    policy = estimator.policy
    with torch.no_grad():
        for row, alpha in zip(next(policy.parameters()), like.alpha.values(), strict=True):
            row.copy_(alpha)
    optimizer, draws = estimator.configure_optimizer(), []
    for number in range(warm_up + samples):
        rollout = policy.draw(generator("gumbel", number), 1)
        rewards = torch.tensor([-losses[a] for a in rollout.architectures if a is not None])
        policy.zero_grad(set_to_none=True)
        estimator.learn(rollout, rewards, Alone())
        if optimizer is not None:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if number >= warm_up:
            (gradient,) = [p.grad for p in policy.parameters() if p.grad is not None]
            draws.append(gradient.flatten().clone())
    return torch.stack(draws)


class OnOneBatch(Alone):
    """What `GumbelRelax` asks of a training step; its search batch is always the setting's."""

    search = None

    def __init__(self, at: Setting, number: int) -> None:
        self.moment = Moment(role="policy", seed=0, step=number)
        self.objective = at.loss

    def loss(self, gates: Gates, batch: None) -> Tensor:
        return self.objective(gates)


def by_relaxation(estimator: GumbelRelax, at: Setting, learns: int, samples: int) -> Tensor:
    """Draws (samples, 12) of the estimate with a control variate, which first learns for `learns` updates."""
    optimizer, draws = estimator.configure_optimizer(), []
    for number in range(learns + samples):
        estimator.update(cast(Step, OnOneBatch(at, number)))
        if number < learns:
            optimizer.step()
        else:
            draws.append(torch.cat([alpha.grad for alpha in estimator.policy.parameters() if alpha.grad is not None]))
    return torch.stack(draws)


def study(epochs: int = 40, samples: int = 1000, warm_up: int = 3000) -> list[Estimate]:
    """Every estimator at every temperature."""
    at, policy = trained(epochs)
    losses, space = by_path(at, policy), policy.space
    truth = exact(policy, losses)
    found = []
    for temperature in TEMPERATURES:
        for name, kind in (("Gumbel-softmax", GumbelSoftmax), ("Gumbel hard, straight-through", GumbelHard)):
            draws = through_gates(kind(space, ConstantTemperature(temperature)), at, policy, samples)
            found.append(Estimate.of(name, temperature, draws, truth))
        fixed = GumbelRelax(policy, temperature=temperature, seed=0)
        draws = by_relaxation(fixed, at, 0, samples)
        found.append(Estimate.of("Gumbel with a control variate, as it starts", temperature, draws, truth))
    learned = by_relaxation(GumbelRelax(policy, seed=0), at, warm_up // 10, samples)
    found.append(Estimate.of("Gumbel with a control variate, learned", None, learned, truth))
    scores: dict[str, ScoreFunction] = {
        "REINFORCE": Reinforce(Independent(space)),
        "REINFORCE, moving baseline": Reinforce(Independent(space), baseline=ExponentialBaseline),
        "RELAX, learned control variate": RELAX(Independent(space), seed=0),
    }
    for name, estimator in scores.items():
        many = by_score(estimator, losses, policy, warm_up, 20 * samples)  # no pass through the network: cheap
        found.append(Estimate.of(name, None, many, truth))
    return found


def page(found: Sequence[Estimate], epochs: int, samples: int, warm_up: int) -> str:
    """The page with its table."""
    rows = [
        f"| {e.name} | {'' if e.temperature is None else f'{e.temperature:g}'} | {e.bias:.3f} ± {e.error:.3f} "
        f"| {e.deviation:.2f} |"
        for e in sorted(found, key=lambda e: e.name)
    ]
    return "\n".join(
        [
            "# Bias and variance of the estimators for one sampled path",
            "",
            f"Made by `make gumbel`: tiny64 on digits, weights of {epochs} epochs of uniform paths, one search batch,",
            "alpha drawn with a spread of 1. The truth is the exact gradient by alpha of the expected loss of a path",
            "drawn from softmax(alpha), over all 64 paths. Bias: distance of the mean from the truth, with its",
            "standard error; deviation of one draw: the root of the summed variances; both relative to the truth's",
            "length.",
            f"{samples} draws through the network, {20 * samples} of the score functions, after {warm_up} updates of",
            f"baseline and control variate ({warm_up // 10} of the learned one that passes through the network). The",
            "control variate is the supernet's own loss under relaxed gates (`GumbelRelax`) or a small network of the",
            "noise (`RELAX`).",
            "",
            "| estimator | temperature | bias | deviation of one draw |",
            "|---|---|---|---|",
            *rows,
            "",
        ]
    )


def main(given: argparse.Namespace) -> int:
    """Run the study and write the page."""
    epochs, samples, warm_up = 40, 300, 2000
    write_text(PAGE, page(study(epochs, samples, warm_up), epochs, samples, warm_up))
    print(PAGE)
    return 0
