"""What it adds to alpha's gradient is the eigenvalue's, held against differences of dense Hessians."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from nastricks.callbacks.hessian_penalty import HessianPenalty, growth
from nastricks.errors import InputError
from nastricks.estimators import FirstOrder, SecondOrder, SingleLevel
from nastricks.estimators.hessian import HessianProduct, dense_hessian, flat
from nastricks.modules import Trick
from nastricks.modules.step import TrainingStep
from nastricks.run import Run

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
]

DOUBLE = {"trainer.precision": "64-true", "trainer.max_steps": 1}


SOME = [3, 5]  # of the twelve alphas: differences of dense Hessians take their time


class Growth(Trick):
    """Measures, before the penalty is added, the dominant eigenvalue's magnitude, and how it grows in some alphas."""

    name = "growth"
    changes = "loss"

    def __init__(self, split: str, slopes: bool = False) -> None:
        super().__init__()
        self.split, self.slopes = split, slopes
        self.magnitude = 0.0
        self.slope = torch.zeros(12, dtype=torch.float64)

    def on_policy_loss(self, loss: Tensor, gates: Any, step: Any) -> Tensor:
        self.act()
        parameters = list(step.module.policy.parameters())
        self.magnitude = self._magnitude(step, parameters)
        for index in SOME if self.slopes else []:
            alpha, at = parameters[index // 4].data, index % 4
            here = float(alpha[at])
            for sign in (1, -1):
                alpha[at] = here + sign * 1e-5
                self.slope[index] += sign * self._magnitude(step, parameters) / 2e-5
            alpha[at] = here
        return loss

    def _magnitude(self, step: TrainingStep, parameters: Any) -> float:
        batch = step.train if self.split == "train" else step.search
        product = HessianProduct(step.loss(step.propose()[0], batch), parameters)
        dense = dense_hessian(product, flat(parameters).detach())
        return float(torch.linalg.eigvalsh(dense).abs().max())


def first_gradients(make: Callable[..., Run], estimator: Any, tricks: dict[str, Any], spy: Growth) -> tuple[Any, Any]:
    """What the first step leaves on alpha (12,), and the weights after it."""
    run = make("darts", tricks, DOUBLE)
    run.module.estimator = estimator(run.module.policy)
    run.trainer.callbacks.insert(0, spy)  # type: ignore[attr-defined]
    run.fit()
    gradients = [p.grad for p in run.module.policy.parameters() if p.grad is not None]
    return flat(gradients), [p.detach() for p in run.module.networks.parameters()]


@pytest.mark.parametrize("estimator", [FirstOrder, SecondOrder, SingleLevel])
def test_the_gradient_gains_that_of_the_eigenvalue(estimator: Any, make: Callable[..., Run]) -> None:
    split = "train" if estimator is SingleLevel else "search"  # what the policy learns from
    spies = Growth(split), Growth(split, slopes=True)
    plain, weights = first_gradients(make, estimator, {}, spies[0])
    found, moved = first_gradients(make, estimator, {"hessian_penalty": {"weight": 0.5, "iterations": 12}}, spies[1])
    slope = spies[1].slope[SOME]
    torch.testing.assert_close((found - plain)[SOME], 0.5 * slope, atol=1e-3 * float(slope.abs().max()), rtol=0)
    assert float(slope.abs().max()) > 1e-3
    if estimator is SingleLevel:  # the weights' own gradient is as it was, though both come of one pass
        assert all(torch.equal(a, b) for a, b in zip(weights, moved, strict=True))


def test_the_loss_grows_by_the_magnitude(make: Callable[..., Run]) -> None:
    seen: list[float] = []

    class After(Trick):
        name, changes, order = "after", "loss", 100

        def on_policy_loss(self, loss: Tensor, gates: Any, step: Any) -> Tensor:
            self.act()
            seen.append(float((loss - step.loss(gates, step.search)).detach()))
            return loss

    spy = Growth("search")
    run = make("darts", {"hessian_penalty": {"weight": 2.0, "iterations": 12}}, DOUBLE)
    for trick in (spy, After()):
        run.trainer.callbacks.append(trick)  # type: ignore[attr-defined]
    run.fit()
    assert seen == [pytest.approx(2 * spy.magnitude, rel=1e-4)]


def test_a_few_products_an_update_find_most_of_the_eigenvalue(make: Callable[..., Run]) -> None:
    run, spy = make("darts", {"hessian_penalty": {"weight": 1e-6}}), Growth("search")
    (trick,) = run.tricks
    assert isinstance(trick, HessianPenalty)
    run.trainer.callbacks.insert(0, spy)  # type: ignore[attr-defined]
    found: list[float] = []
    act = trick.act

    def watched() -> None:
        step = run.module.current
        assert step is not None
        product = HessianProduct(step.loss(step.propose()[0], step.search), list(run.module.policy.parameters()))
        assert trick.vector is not None
        found.append(abs(float(trick.vector @ product(trick.vector))) / spy.magnitude)
        act()

    trick.act = watched  # type: ignore[method-assign]
    run.fit()
    assert len(found) == 8
    assert all(0.3 < share < 1 + 1e-4 for share in found)
    assert sum(found) / 8 > 0.85, found


def test_growth_is_a_gradient_without_a_value() -> None:
    a, b = torch.arange(3.0).requires_grad_(), torch.ones(2, requires_grad=True)
    value = growth([a, b], torch.arange(5.0))
    assert float(value.detach()) == 0.0
    slopes = torch.autograd.grad(value, [a, b])
    assert torch.equal(flat(slopes), torch.arange(5.0))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"weight": -1.0}, "hessian_penalty.weight is -1.0: expected at least 0, such as 0.1"),
        ({"weight": float("inf")}, "hessian_penalty.weight is inf"),
        ({"iterations": 0}, "hessian_penalty.iterations is 0: expected at least 1"),
    ],
)
def test_bad_values_are_refused(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        HessianPenalty(**arguments)
