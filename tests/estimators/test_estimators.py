"""Estimators: the first-order gradient equals autograd's, and what cannot learn is refused."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nastricks.data import Batch, ImageSpec
from nastricks.errors import InputError
from nastricks.estimators import FirstOrder
from nastricks.moment import Moment, Role
from nastricks.policies import Softmax, UniformPath
from nastricks.rng import forked_rng, generator
from nastricks.spaces import Architecture, Gates, Network, Tiny64

SPACE, SPEC = Tiny64(channels=4), ImageSpec(1, 8, 5)


def batch(purpose: str) -> Batch:
    rng = generator("estimators", purpose)
    return Batch(torch.randn(8, 1, 8, 8, generator=rng).double(), torch.randint(5, (8,), generator=rng))


@dataclass
class PlainStep:
    """A step of a supernet without Lightning; `average` doubles, so that leaving it out shows."""

    network: Network
    policy: Softmax
    moment: Moment = field(default_factory=lambda: Moment(role="policy", seed=0))
    train: Batch = field(default_factory=lambda: batch("train"))
    search: Batch = field(default_factory=lambda: batch("search"))

    @property
    def weight_optimizer(self) -> torch.optim.Optimizer:
        raise NotImplementedError

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

    def average(self, gradients: Sequence[Tensor]) -> list[Tensor]:
        return [2 * g for g in gradients]


def step() -> PlainStep:
    with forked_rng("estimators"):
        return PlainStep(SPACE.supernet(SPEC).double(), Softmax(SPACE, init_std=1.0).double())


def test_first_order_equals_autograd_on_the_search_batch_and_leaves_the_weights_alone() -> None:
    at = step()
    FirstOrder(at.policy).update(at)
    found = {key: p.grad for key, p in at.policy.named_parameters()}
    assert all(p.grad is None for p in at.network.parameters())
    # The same by hand: the loss as a function of alpha alone, written out with torch's softmax.
    for key, gradient in found.items():
        alpha = dict(at.policy.named_parameters())[key]
        alpha.grad = None
        loss = F.cross_entropy(at.network(at.search.images, at.propose()[0]), at.search.labels)
        (expected,) = torch.autograd.grad(loss, alpha)
        torch.testing.assert_close(gradient, 2 * expected, atol=1e-12, rtol=0)
        # And by central differences.
        with torch.no_grad():
            for index in range(len(alpha)):
                values = []
                for sign in (1, -1):
                    alpha[index] += sign * 1e-5
                    values.append(float(at.loss(at.propose()[0], at.search)))
                    alpha[index] -= sign * 1e-5
                slope = (values[0] - values[1]) / 2e-5
                assert gradient is not None
                assert float(gradient[index]) == pytest.approx(2 * slope, abs=1e-6)


def test_a_choice_that_the_loss_does_not_see_gets_a_zero_gradient() -> None:
    at = step()
    alpha = at.policy.alpha["layer1"]
    FirstOrder(at.policy).leave(at, alpha.square().sum())
    torch.testing.assert_close(alpha.grad, 4 * alpha.detach())
    for other in ("layer2", "layer3"):
        gradient = at.policy.alpha[other].grad
        assert gradient is not None
        assert not bool(gradient.any())


def test_a_policy_that_learns_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="FirstOrder has nothing to update: UniformPath has no parameters"):
        FirstOrder(UniformPath(SPACE))


@pytest.mark.parametrize("every", [0, -1])
def test_updates_less_than_every_step_are_refused(every: int) -> None:
    with pytest.raises(InputError, match=f"estimator.every is {every}: expected at least 1"):
        FirstOrder(Softmax(SPACE), every=every)


def test_updates_are_due_every_so_many_steps() -> None:
    estimator = FirstOrder(Softmax(SPACE), every=3)
    due = [s for s in range(10) if estimator.due(Moment(role="policy", seed=0, step=s))]
    assert due == [0, 3, 6, 9]


def test_the_policys_parameters_are_not_the_estimators_own() -> None:
    assert list(FirstOrder(Softmax(SPACE)).parameters()) == []
    assert FirstOrder(Softmax(SPACE)).configure_optimizer() is None
