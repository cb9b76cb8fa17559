"""The zero-one loss against its derivative by hand, through every way in which a policy learns."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from nastricks.callbacks.zero_one_loss import ZeroOneLoss, zero_one_loss
from nastricks.errors import InputError
from nastricks.estimators import FirstOrder, SingleLevel
from nastricks.modules.proof import Observation, Observer
from nastricks.policies import Policy, Sigmoid, Softmax
from nastricks.run import Run

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
]

Make = Callable[..., Run]
DOUBLE = {"trainer.precision": "64-true"}


def test_the_loss_is_lowest_where_all_is_decided() -> None:
    assert float(zero_one_loss([torch.tensor([0.0, 1.0]), torch.tensor([1.0])])) == -0.25
    assert float(zero_one_loss([torch.tensor([0.5, 0.5, 0.5])])) == 0.0
    # The mean is over options, not over choices.
    assert float(zero_one_loss([torch.tensor([0.5, 0.5, 0.5]), torch.tensor([1.0])])) == -0.0625


def by_hand(policy: Policy) -> Tensor:
    """-(1 / N) d/dalpha sum (s - 0.5)^2 for s = sigmoid(alpha), and for s = softmax(alpha) of each choice."""
    alphas = [p.detach() for p in policy.parameters()]
    count, rows = sum(map(len, alphas)), []
    for alpha in alphas:
        if isinstance(policy, Sigmoid):
            s = torch.sigmoid(alpha)
            jacobian = torch.diag(s * (1 - s))
        else:
            s = torch.softmax(alpha, 0)
            jacobian = torch.diag(s) - torch.outer(s, s)
        rows.append(jacobian @ (-2 / count * (s - 0.5)))
    return torch.cat(rows)


def first_step(
    make: Make, policy: type[Policy], estimator: type[Any], tricks: dict[str, Any]
) -> tuple[Observation, Tensor]:
    """What happened in the first step, and the gradient of the zero-one loss by hand before it."""
    run = make("darts", tricks, {**DOUBLE, "model.init_args.micro_batches": 2})
    module = run.module
    module.policy = policy(module.space).double()
    with torch.no_grad():
        for number, alpha in enumerate(module.policy.parameters()):
            alpha.copy_(torch.linspace(-1.0, 1.0 + number, len(alpha)))
    module.estimator = estimator(module.policy)
    expected = by_hand(module.policy)
    observer = Observer(run.data, None, 0, 0, None)
    run.trainer.callbacks.append(observer)  # type: ignore[attr-defined]
    run.fit()
    return observer.seen, expected


@pytest.mark.parametrize("policy", [Softmax, Sigmoid])
@pytest.mark.parametrize("estimator", [FirstOrder, SingleLevel])
@pytest.mark.parametrize("others", [{}, {"sam": {"rho": 0.1}}], ids=["one pass", "two passes"])
def test_alpha_gets_its_gradient_once(policy: Any, estimator: Any, others: dict[str, Any], make: Make) -> None:
    """Also where alpha learns with the weights, in two micro-batches and two passes; the weights get none of it."""
    on, expected = first_step(make, policy, estimator, {**others, "zero_one_loss": {"weight": 10.0}})
    off, _ = first_step(make, policy, estimator, others)
    torch.testing.assert_close(on.policy_gradients - off.policy_gradients, 10 * expected, rtol=1e-8, atol=1e-12)
    if estimator is SingleLevel:  # elsewhere alpha has moved before the weights' pass
        torch.testing.assert_close(on.gradients, off.gradients, rtol=1e-8, atol=1e-12)


def test_strengths_move_away_from_one_half(make: Make) -> None:
    def spread(weight: float) -> float:
        run = make("darts", {"zero_one_loss": {"weight": weight}})
        with torch.no_grad():
            for alpha in run.module.policy.parameters():
                alpha.copy_(torch.tensor([2.0, 0.0, 0.0, -1.0]))
        run.fit()
        return float(torch.cat(list(run.module.policy.strengths().values())).detach().sub(0.5).abs().mean())

    assert spread(1000.0) > spread(1e-6)


def test_a_policy_without_strengths_is_refused(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make("darts", {"zero_one_loss": {"weight": 10.0}})
    monkeypatch.setattr(Softmax, "strengths", lambda self: {})
    with pytest.raises(InputError, match="zero_one_loss needs strengths of options, and Softmax has none"):
        run.check()


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_bad_weights_are_refused(weight: float) -> None:
    with pytest.raises(InputError, match=r"zero_one_loss.weight is .*: expected at least 0"):
        ZeroOneLoss(weight)
