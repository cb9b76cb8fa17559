"""Estimators: the first-order gradient equals autograd's, and what cannot learn is refused."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from nastricks.errors import InputError
from nastricks.estimators import Estimator, FirstOrder, MixedLevel, SecondOrder, SingleLevel
from nastricks.moment import Moment
from nastricks.policies import BinaryGates, EdgeNormalised, Policy, Softmax, UniformPath
from nastricks.spaces import Tiny64, WeightSharing64

SPACE = Tiny64(channels=4)


def test_first_order_equals_autograd_on_the_search_batch_and_leaves_the_weights_alone(supernet: Any) -> None:
    at = supernet.supernet_step()
    found = supernet.left_by(FirstOrder(at.policy), at)
    assert set(found) == {f"alpha.layer{i}" for i in (1, 2, 3)}
    # The same by hand: the loss as a function of alpha alone, written out with torch's softmax.
    for key, gradient in found.items():
        alpha = dict(at.policy.named_parameters())[key]
        alpha.grad = None
        loss = F.cross_entropy(at.network(at.search.images, at.propose()[0]), at.search.labels)
        (expected,) = torch.autograd.grad(loss, alpha)
        torch.testing.assert_close(gradient, expected, atol=1e-12, rtol=0)
        # And by central differences.
        with torch.no_grad():
            for index in range(len(alpha)):
                values = []
                for sign in (1, -1):
                    alpha[index] += sign * 1e-5
                    values.append(float(at.loss(at.propose()[0], at.search)))
                    alpha[index] -= sign * 1e-5
                slope = (values[0] - values[1]) / 2e-5
                assert float(gradient[index]) == pytest.approx(slope, abs=1e-6)


def test_a_choice_that_the_loss_does_not_see_gets_a_zero_gradient(supernet: Any) -> None:
    at = supernet.supernet_step()
    alpha = at.policy.alpha["layer1"]
    FirstOrder(at.policy).leave(at, alpha.square().sum())
    torch.testing.assert_close(alpha.grad, 2 * alpha.detach())
    for other in ("layer2", "layer3"):
        gradient = at.policy.alpha[other].grad
        assert gradient is not None
        assert not bool(gradient.any())


def test_mixed_level_is_the_sum_of_both_batches(supernet: Any) -> None:
    at = supernet.supernet_step()
    found = supernet.left_by(MixedLevel(at.policy, train_weight=0.5), at)
    for key, alpha in at.policy.named_parameters():
        slopes = []
        for batch in (at.search, at.train):
            loss = F.cross_entropy(at.network(batch.images, at.propose()[0]), batch.labels)
            slopes += torch.autograd.grad(loss, alpha)
        torch.testing.assert_close(found[key], slopes[0] + 0.5 * slopes[1], atol=1e-12, rtol=0)
        assert float(slopes[1].abs().max()) > 1e-3


def test_mixed_level_without_the_training_loss_is_first_order(supernet: Any) -> None:
    at = supernet.supernet_step()
    found = [supernet.left_by(e, at) for e in (MixedLevel(at.policy, train_weight=0.0), FirstOrder(at.policy))]
    for key, gradient in found[0].items():
        assert torch.equal(gradient, found[1][key])


@pytest.mark.parametrize("weight", [-0.1, float("inf"), float("nan")])
def test_a_negative_share_of_the_training_loss_is_refused(weight: float) -> None:
    with pytest.raises(InputError, match=f"estimator.train_weight is {weight}: expected at least 0"):
        MixedLevel(Softmax(SPACE), train_weight=weight)


MAKERS: dict[str, Callable[..., Estimator]] = {
    "first": FirstOrder,
    "mixed": MixedLevel,
    "second": SecondOrder,
}


@pytest.mark.parametrize("name", ["first", "mixed"])
def test_ranks_leave_the_mean_of_their_gradients(name: str, supernet: Any) -> None:
    found, steps = supernet.over_ranks(MAKERS[name], 2)
    alone = []
    for step in steps:
        step.ranks = None
        alone.append(supernet.left_by(MAKERS[name](step.policy), step))
    for key, gradient in found[0].items():
        assert torch.equal(gradient, found[1][key])
        torch.testing.assert_close(gradient, (alone[0][key] + alone[1][key]) / 2, atol=1e-14, rtol=0)
        assert not torch.allclose(alone[0][key], alone[1][key])


@pytest.mark.parametrize("name", MAKERS)
def test_the_order_is_the_one_asked_for(name: str) -> None:
    policy = Softmax(SPACE)
    assert [MAKERS[name](policy, order=order).order for order in (None, "before", "after")] == [
        "before",
        "before",
        "after",
    ]
    assert all(MAKERS[name](policy).through_gates for name in MAKERS)
    assert SingleLevel(policy).order == "joined"


def test_a_policy_that_learns_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="FirstOrder has nothing to update: UniformPath has no parameters"):
        FirstOrder(UniformPath(SPACE))


@pytest.mark.parametrize("policy", [BinaryGates(SPACE), EdgeNormalised(WeightSharing64(), BinaryGates)])
def test_one_level_of_gates_without_weights_is_refused(policy: Policy) -> None:
    """The weights' pass of ProxylessNAS runs one drawn path: alpha would have stood still without a word."""
    with pytest.raises(InputError, match=f"{type(policy).__name__} runs one path without weights.*use FirstOrder"):
        SingleLevel(policy)


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
