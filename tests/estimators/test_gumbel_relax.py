"""RELAX in a supernet: its mean by enumeration of all 64 paths, its variance, and what its control variate learns."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nastricks.errors import InputError
from nastricks.estimators import GumbelRelax
from nastricks.estimators.hessian import flat
from nastricks.policies import Policy, Softmax
from nastricks.rng import generator
from nastricks.spaces import Gate, Gates, Network, Tiny64

SPACE = Tiny64(channels=4)


def unequal(network: Network) -> None:
    """So that paths differ: logits twenty times as large."""
    with torch.no_grad():
        for parameter in network.segments["head"].parameters():
            parameter *= 20


def two_left(space: Any, **settings: Any) -> Policy:
    """A policy that has lost options."""
    policy = Softmax(space, **settings)
    policy.restrict("layer1", [0, 2])
    return policy


@dataclass
class Paths:
    """All paths that a policy allows: their log-probabilities (n,), differentiable, and their search losses (n,)."""

    log_p: Tensor
    losses: Tensor
    alpha: list[nn.Parameter]

    @classmethod
    def of(cls, step: Any) -> "Paths":
        policy, log_p, losses = step.policy, [], []
        logs = {c.name: torch.log_softmax(policy.allowed_alpha(c), 0) for c in SPACE.choices}
        for path in itertools.product(*(policy.allowed[c.name] for c in SPACE.choices)):
            picked = {c.name: option for c, option in zip(SPACE.choices, path, strict=True)}
            log_p.append(torch.stack([logs[n][policy.allowed[n].index(i)] for n, i in picked.items()]).sum())
            with torch.no_grad():
                losses.append(step.loss({name: Gate((option,)) for name, option in picked.items()}, step.search))
        return cls(torch.stack(log_p), torch.stack(losses), list(policy.parameters()))

    def gradient(self) -> Tensor:
        """Of the expected loss (12,)."""
        p = self.log_p.exp()
        assert float(p.detach().sum()) == pytest.approx(1)
        return flat(torch.autograd.grad((p * self.losses).sum(), self.alpha, retain_graph=True))

    def variance(self) -> float:
        """Total variance of REINFORCE without a baseline."""
        scores = [flat(torch.autograd.grad(each, self.alpha, retain_graph=True)) for each in self.log_p]
        gradients, p = torch.stack(scores) * self.losses[:, None], self.log_p.detach().exp()
        return float(p @ (gradients - p @ gradients).square().sum(1))


def samples(estimator: GumbelRelax, step: Any, number: int) -> Tensor:
    """The gradients (number, 12) of as many updates; nothing is stepped."""
    found = []
    for index in range(number):
        step.moment = step.moment.at(step=index)
        estimator.update(step)
        found.append(flat([p.grad for p in step.policy.parameters()]).clone())
    return torch.stack(found)


def stirred(estimator: GumbelRelax) -> GumbelRelax:
    """With a control variate that is far from its start."""
    with torch.no_grad():
        estimator.scale.fill_(0.8)
        estimator.log_temperature.fill_(0.3)
        for number, parameter in enumerate(estimator.last.parameters()):
            parameter.normal_(std=0.3, generator=generator("stirred", number))
    return estimator


@pytest.mark.parametrize(("policy", "number"), [(Softmax, 500), (two_left, 150)])
def test_the_mean_is_the_gradient_of_the_expected_loss_of_a_path(
    policy: Callable[..., Policy], number: int, supernet: Any
) -> None:
    step = supernet.supernet_step(policy=policy, changed=unequal)
    exact = Paths.of(step).gradient()
    gradients = samples(stirred(GumbelRelax(step.policy, seed=0).double()), step, number)
    error = gradients.std(0) / number**0.5
    assert bool(((gradients.mean(0) - exact).abs() <= 4 * error + 1e-12).all())
    if policy is Softmax:
        assert float((exact / error).abs().max()) > 4.5  # a gradient of zero would be seen
    else:
        assert not bool(gradients[:, [1, 3]].any())


def test_without_its_control_variate_it_is_reinforce(supernet: Any) -> None:
    step = supernet.supernet_step(history=1)
    paths, space = Paths.of(step), list(SPACE.architectures())
    seen: list[tuple[int, ...]] = []

    def objective(gates: Gates) -> Tensor:
        seen.append(tuple(gates[c.name].active[0] for c in SPACE.choices))
        return step.loss(gates, step.search)

    step.objective = objective
    for found in samples(GumbelRelax(step.policy, scale=0.0, seed=0).double(), step, 5):
        number = space.index(seen.pop(0))
        score = flat(torch.autograd.grad(paths.log_p[number], paths.alpha, retain_graph=True))
        torch.testing.assert_close(found, paths.losses[number] * score)


def test_its_variance_is_below_that_of_reinforce_and_learning_lowers_it(supernet: Any) -> None:
    step = supernet.supernet_step(changed=unequal)
    plain = Paths.of(step).variance()
    estimator = GumbelRelax(step.policy, lr=0.03, seed=0).double()
    before = float(samples(estimator, step, 100).var(0).sum())
    optimizer = estimator.configure_optimizer()
    for number in range(100):
        step.moment = step.moment.at(step=1000 + number)
        estimator.update(step)
        optimizer.step()
    after = float(samples(estimator, step, 100).var(0).sum())
    assert before < 0.1 * plain
    assert after < 0.8 * before


def test_the_control_variate_descends_the_squared_norm(supernet: Any) -> None:
    step = supernet.supernet_step(history=1)
    estimator = stirred(GumbelRelax(step.policy, seed=0).double())

    def norm() -> float:
        estimator.update(step)
        return float(flat([p.grad for p in step.policy.parameters()]).square().sum())

    norm()
    slopes = {name: p.grad.clone() for name, p in estimator.named_parameters() if p.grad is not None}
    assert set(slopes) == {name for name, _ in estimator.named_parameters()}
    for name, parameter in estimator.named_parameters():
        flat_slope = slopes[name].view(-1)
        index = int(flat_slope.abs().argmax())
        here, sides = float(parameter.data.view(-1)[index]), []
        for sign in (1, -1):
            parameter.data.view(-1)[index] = here + sign * 1e-6
            sides.append(norm())
        parameter.data.view(-1)[index] = here
        slope = (sides[0] - sides[1]) / 2e-6
        assert float(flat_slope[index]) == pytest.approx(slope, rel=1e-4, abs=1e-7), name


def test_what_tricks_add_to_the_loss_is_learnt_exactly(supernet: Any) -> None:
    """A term of alpha alone adds its own gradient, and no noise but that of its value."""
    step = supernet.supernet_step(history=1)
    estimator = GumbelRelax(step.policy, seed=0).double()
    plain = samples(estimator, step, 1)[0]
    term = [10 * p.detach().clone() for p in step.policy.parameters()]

    def objective(gates: Gates) -> Tensor:
        extra = sum((t * (p - p.detach())).sum() for t, p in zip(term, step.policy.parameters(), strict=True))
        return step.loss(gates, step.search) + extra

    step.objective = objective
    torch.testing.assert_close(samples(estimator, step, 1)[0] - plain, flat(term))


def test_draws_are_keyed_by_the_step(supernet: Any) -> None:
    step = supernet.supernet_step()
    estimator = GumbelRelax(step.policy, seed=0).double()
    once, again = samples(estimator, step, 3), samples(estimator, step, 3)
    assert torch.equal(once, again)
    assert not torch.equal(once[0], once[1])


def test_ranks_leave_the_mean(supernet: Any) -> None:
    def make(policy: Policy) -> GumbelRelax:
        return GumbelRelax(policy, seed=0).double()

    found, steps = supernet.over_ranks(make, 2)
    alone = []
    for step in steps:
        step.ranks = None
        alone.append(supernet.left_by(make(step.policy), step))
    for key, gradient in found[0].items():
        assert torch.equal(gradient, found[1][key])
        torch.testing.assert_close(gradient, (alone[0][key] + alone[1][key]) / 2)


class Loose(Softmax):
    """Strengths that do not add up to one."""

    def strength(self, choice: Any, alpha: Tensor) -> Tensor:
        return torch.sigmoid(alpha)


@pytest.mark.parametrize(
    ("policy", "settings", "words"),
    [
        (Loose, {}, "those of Loose are no probabilities: use Softmax or GumbelSoftmax"),
        (Softmax, {"temperature": 0.0}, "estimator.temperature is 0.0: expected a number above 0"),
        (Softmax, {"lr": -1.0}, "estimator.lr is -1.0: expected a number above 0"),
        (Softmax, {"scale": float("nan")}, "estimator.scale is nan: expected a number, such as 1"),
        (Softmax, {"hidden": 0}, "estimator.hidden is 0: expected at least 1"),
    ],
)
def test_bad_settings_are_refused(policy: Any, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        GumbelRelax(policy(SPACE), **settings)
