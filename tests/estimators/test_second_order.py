"""Second order equals differentiation through a virtual step that torch's own SGD takes."""

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from nastricks.cli import main
from nastricks.errors import InputError
from nastricks.estimators import FirstOrder, SecondOrder, Step
from nastricks.policies import Policy, Softmax
from nastricks.run import Run
from nastricks.spaces import Gate, Gates, Tiny64

# Lightning 2.6 calls the parser by its old name; the reference below gives gradients to tensors that are no leaves.
pytestmark = [
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),
]

STACK = ["recipes/spaces/tiny64.yaml", "recipes/data/digits.yaml", "recipes/algorithms/darts.yaml"]
SGD = torch.optim.SGD
OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "plain": partial(SGD, lr=0.1),
    "weight decay": partial(SGD, lr=0.1, weight_decay=0.05),
    "momentum": partial(SGD, lr=0.05, momentum=0.9, weight_decay=3e-4),
    "dampening": partial(SGD, lr=0.05, momentum=0.9, dampening=0.3),
    "nesterov": partial(SGD, lr=0.05, momentum=0.9, nesterov=True, weight_decay=3e-4),
}
both_histories = pytest.mark.parametrize("history", [0, 3])


def grouped(weights: Any) -> torch.optim.Optimizer:
    """Three groups, each with settings of its own."""
    every = list(weights)
    groups: list[dict[str, Any]] = [
        {"params": every[::3], "lr": 0.02},
        {"params": every[1::3], "momentum": 0.0, "weight_decay": 0.0},
        {"params": every[2::3], "weight_decay": 0.1, "nesterov": True},
    ]
    return SGD(groups, lr=0.05, momentum=0.8, weight_decay=0.01)


def virtual_weights(step: Any) -> dict[str, Tensor]:
    """w'(alpha), differentiable in alpha: torch's own SGD steps copies of the weights whose history it keeps.

    It takes the first gradient as the velocity, but detached; a velocity of zero without dampening gives the same.
    """
    names, weights = zip(*step.network.named_parameters(), strict=True)
    losses = [F.cross_entropy(step.network(step.train.images, g), step.train.labels) for g in step.propose()]
    slopes = torch.autograd.grad(torch.stack(losses).sum(), weights, create_graph=True, allow_unused=True)
    copies = {id(w): w.detach().clone().requires_grad_() * 1.0 for w in weights}
    real = step.weight_optimizer
    groups = [
        group
        | {"params": [copies[id(w)] for w in group["params"]], "differentiable": True}
        | ({} if real.state else {"dampening": 0.0})
        for group in real.param_groups
    ]
    optimizer = SGD(groups, lr=1.0, differentiable=True)
    for w, slope in zip(weights, slopes, strict=True):
        copies[id(w)].grad = slope
        velocity = real.state[w]["momentum_buffer"] if real.state.get(w) else torch.zeros_like(w)
        optimizer.state[copies[id(w)]] = {"momentum_buffer": None if velocity is None else velocity.clone()}
    optimizer.step()
    return {name: copies[id(w)] for name, w in zip(names, weights, strict=True)}


def through_the_virtual_step(step: Any) -> dict[str, Tensor]:
    """d L_search(w'(alpha), alpha) / d alpha by autograd."""
    after = virtual_weights(step)
    losses = []
    for gates in step.propose():
        logits = functional_call(step.network, after, (step.search.images, gates))
        losses.append(F.cross_entropy(logits, step.search.labels))
    keys, alpha = zip(*step.policy.named_parameters(), strict=True)
    found = torch.autograd.grad(torch.stack(losses).sum(), alpha)
    return dict(zip(keys, found, strict=True))


def apart(found: dict[str, Tensor], exact: dict[str, Tensor]) -> float:
    """The largest difference over all entries, relative to the largest entry."""
    assert found.keys() == exact.keys()
    return max(float((found[key] - exact[key]).abs().max()) for key in exact) / largest(exact)


def largest(gradients: dict[str, Tensor]) -> float:
    return max(float(gradient.abs().max()) for gradient in gradients.values())


def smooth(network: nn.Module) -> None:
    """Without kinks: finite differences across the kink of a ReLU or a maximum are off, whatever their radius."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU):
                setattr(module, name, nn.Softplus())
            elif isinstance(child, nn.MaxPool2d):
                setattr(module, name, nn.AvgPool2d(child.kernel_size, child.stride, child.padding))


@both_histories
@pytest.mark.parametrize("name", [*OPTIMIZERS, "groups"])
def test_both_products_equal_the_virtual_step(name: str, history: int, supernet: Any) -> None:
    step = supernet.supernet_step(optimizer=OPTIMIZERS.get(name, grouped), history=history)
    exact = through_the_virtual_step(step)
    first = supernet.left_by(FirstOrder(step.policy), step)
    found = supernet.left_by(SecondOrder(step.policy, "exact"), step)
    assert apart(found, exact) < 1e-8
    assert apart(first, exact) > 1e-2  # what a virtual step without effect would give
    smooth(step.network)
    exact = through_the_virtual_step(step)
    assert 0 < apart(supernet.left_by(SecondOrder(step.policy), step), exact) < 1e-3
    assert apart(supernet.left_by(SecondOrder(step.policy, "exact"), step), exact) < 1e-8
    assert apart(supernet.left_by(FirstOrder(step.policy), step), exact) > 1e-2


def test_the_rate_is_the_present_one(supernet: Any) -> None:
    step = supernet.supernet_step(history=2)
    for rate in (0.1, 0.02, 0.0):
        step.weight_optimizer.param_groups[0]["lr"] = rate
        found = supernet.left_by(SecondOrder(step.policy, "exact"), step)
        assert apart(found, through_the_virtual_step(step)) < 1e-8
    first = supernet.left_by(FirstOrder(step.policy), step)
    for method in ("exact", "finite_difference"):
        assert apart(supernet.left_by(SecondOrder(step.policy, method), step), first) < 1e-14  # at rate 0


class OneOption(Softmax):
    """Only the first option of each choice runs, weighted by its share: the weights of the others have no gradient."""

    def propose(self, moment: Any) -> list[Gates]:
        return [{c.name: Gate((1,), torch.softmax(self.alpha[c.name], 0)[1:2]) for c in self.space.choices}]


class TwoSets(Softmax):
    """Two sets of gates a step."""

    def propose(self, moment: Any) -> list[Gates]:
        (gates,) = super().propose(moment)
        return [gates, {name: Gate((0, 2), 2 * gate.weights[[0, 2]]) for name, gate in gates.items()}]  # type: ignore[index]


@pytest.mark.parametrize("policy", [OneOption, TwoSets])
def test_unused_weights_and_several_sets_of_gates(policy: Callable[..., Policy], supernet: Any) -> None:
    step = supernet.supernet_step(policy=policy, optimizer=OPTIMIZERS["nesterov"], history=2)
    smooth(step.network)
    exact = through_the_virtual_step(step)
    assert apart(supernet.left_by(SecondOrder(step.policy, "exact"), step), exact) < 1e-8
    assert apart(supernet.left_by(SecondOrder(step.policy), step), exact) < 1e-3


@pytest.mark.parametrize("method", ["exact", "finite_difference"])
def test_weights_optimizer_and_statistics_stay(method: Any, make: Callable[..., Run]) -> None:
    """In a whole run: bit for bit, whatever the update does in between."""
    run = make("darts", changes={"trainer.max_steps": 3})
    module = run.module
    estimator = SecondOrder(module.policy, method)
    seen = []

    def watched(step: Step) -> None:
        before = copy.deepcopy((module.networks.state_dict(), step.weight_optimizer.state_dict()))
        SecondOrder.update(estimator, step)
        after = (module.networks.state_dict(), step.weight_optimizer.state_dict())
        assert all(torch.equal(before[0][key], value) for key, value in after[0].items())
        assert str(before[1]) == str(after[1])
        assert all(p.grad is None for p in module.networks.parameters()) or step.moment.step > 0
        seen.append(step.moment.step)

    estimator.update = watched  # type: ignore[method-assign]
    module.estimator = estimator
    run.fit()
    assert seen == [0, 1, 2]


def test_weights_are_put_back_where_an_update_fails(supernet: Any) -> None:
    step = supernet.supernet_step(history=1)
    before = [p.detach().clone() for p in step.network.parameters()]

    def failing(gates: Gates) -> Tensor:
        assert not torch.equal(next(step.network.parameters()), before[0])
        raise KeyError

    step.objective = failing
    with pytest.raises(KeyError):
        SecondOrder(step.policy).update(step)
    assert all(torch.equal(p, value) for p, value in zip(step.network.parameters(), before, strict=True))


@pytest.mark.parametrize("method", ["exact", "finite_difference"])
def test_ranks_step_as_one(method: Any, supernet: Any) -> None:
    """Two ranks with a batch each leave what one process would leave whose losses are the means of both."""
    found, steps = supernet.over_ranks(partial(SecondOrder, hessian_vector=method), 2, history=2, changed=smooth)
    both = supernet.supernet_step(history=2, changed=smooth)
    both.train, both.search = ([getattr(s, part) for s in steps] for part in ("train", "search"))

    def loss(gates: Gates, batches: Any, **more: Any) -> Tensor:
        losses = [F.cross_entropy(both.network(b.images, gates), b.labels) for b in batches]
        return torch.stack(losses).mean()

    both.loss = loss
    exact = supernet.left_by(SecondOrder(both.policy, "exact"), both)
    for rank in found:
        assert apart(rank, exact) < (1e-10 if method == "exact" else 1e-3)
    assert all(torch.equal(found[0][key], found[1][key]) for key in exact)
    steps[0].ranks = None
    alone = supernet.left_by(SecondOrder(steps[0].policy, method), steps[0])
    assert apart(alone, exact) > 1e-2


@pytest.mark.parametrize(
    ("optimizer", "words"),
    [
        ("{class_path: torch.optim.Adam}", "and model.optimizer is Adam: use torch.optim.SGD, or FirstOrder"),
        ("{class_path: torch.optim.SGD, init_args: {lr: 0.1, maximize: true}}", "model.optimizer.maximize is true"),
    ],
)
def test_an_optimizer_that_it_does_not_know_is_refused_before_training(
    optimizer: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "second.yaml"
    recipe.write_text(
        f"model: {{init_args: {{estimator: {{class_path: nastricks.estimators.SecondOrder}}, optimizer: {optimizer}}}}}"
    )
    stack = [*STACK, str(recipe)]
    assert main(["fit", *(part for file in stack for part in ("-c", file)), "--out", str(tmp_path / "run")]) == 2
    told = capsys.readouterr().err
    assert words in told
    assert told.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_another_word_for_the_product_is_refused() -> None:
    with pytest.raises(InputError, match=r"estimator.hessian_vector is 'dense': expected exact or finite_difference"):
        SecondOrder(Softmax(Tiny64()), "dense")  # type: ignore[arg-type]
