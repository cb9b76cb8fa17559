"""The penalty against its closed form, at one and two levels; what moves and what does not; what is refused."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor

from nastricks.callbacks.resource_penalty import ResourcePenalty, factor, penalty
from nastricks.data import Batch
from nastricks.errors import InputError
from nastricks.estimators import SingleLevel
from nastricks.modules import TrainingModule
from nastricks.recipe import resolve
from nastricks.run import Run, build
from nastricks.spaces import OptionCosts, Tiny64, option_costs, write_latency

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
]
TIMES = {f"layer{i}": (1.0, 2.0, 3.0, 0.0) for i in (1, 2, 3)}


def test_the_three_kinds() -> None:
    cost = torch.tensor(1.5)
    assert penalty(cost, "fixed", 2.0, 0.25, 1.0).item() == 3.0
    assert penalty(cost, "growing", 2.0, 0.25, 1.0).item() == 0.75
    assert penalty(cost, "growing", 2.0, 0.0, 1.0).item() == 0.0
    assert penalty(cost, "target", 2.0, 0.25, 0.5).item() == 4.0
    assert penalty(cost, "target", 2.0, 0.25, 3.0).item() == 1.0  # too cheap counts as well


def test_the_factor() -> None:
    cost = torch.tensor(math.e**4, dtype=torch.float64, requires_grad=True)
    assert factor(cost, 0.5, 3.0, None).item() == pytest.approx(32.0)
    assert factor(cost, 0.5, 3.0, math.e**2).item() == pytest.approx(4.0)
    (slope,) = torch.autograd.grad(factor(cost, 0.5, 3.0, math.e**2), cost)
    assert slope.item() == pytest.approx(0.5 * 3 * 2**2 / 2 / math.e**4)


class Gradients(pl.Callback):
    """Gradients of alpha and of the weights, alpha before the step, and the first loss computed in it; of each step."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.alpha: list[dict[str, Tensor]] = []
        self.before: list[dict[str, Tensor]] = []
        self.weights: list[Tensor] = []

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        assert isinstance(pl_module, TrainingModule)
        self.watch(pl_module)
        self.before.append({n: p.detach().clone() for n, p in pl_module.policy.alpha.items()})  # type: ignore

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        assert isinstance(pl_module, TrainingModule)
        self.alpha.append({n: p.grad.clone() for n, p in pl_module.policy.alpha.items()})  # type: ignore
        grads = [p.grad for p in pl_module.networks.parameters() if p.grad is not None]
        self.weights.append(torch.cat([g.flatten() for g in grads]))

    def watch(self, module: TrainingModule) -> None:
        computed, step = type(module).criterion, len(self.before)

        def criterion(logits: Tensor, batch: Batch) -> Tensor:
            loss = computed(module, logits, batch)
            if len(self.losses) == step:
                self.losses.append(loss.item())
            return loss

        setattr(module, "criterion", criterion)  # noqa: B010 - mypy refuses to assign to a method


def trained(run: Run, joined: bool = False) -> Gradients:
    if joined:
        run.module.estimator = SingleLevel(run.module.policy)
    seen = Gradients()
    run.trainer.callbacks.append(seen)  # type: ignore[attr-defined]
    run.fit()
    return seen


def by_hand(alpha: dict[str, Tensor], costs: OptionCosts, kind: str, weight: float, part: float) -> dict[str, Tensor]:
    """The penalty's gradient by alpha, written down: for softmax shares s, dE/dalpha_i = s_i (c_i - sum_j s_j c_j)."""
    gradients, expected = {}, costs.base
    for name, values in alpha.items():
        shares, own = values.double().softmax(0), torch.tensor(costs.options[name], dtype=torch.float64)
        gradients[name] = shares * (own - shares @ own) / costs.mean
        expected += float(shares @ own)
    if kind == "target":
        sign = 1.0 if expected / costs.mean > 0.8 else -1.0
        return {name: weight * sign / 0.8 * g for name, g in gradients.items()}
    return {name: weight * (part if kind == "growing" else 1.0) * g for name, g in gradients.items()}


@pytest.mark.parametrize("joined", [False, True], ids=["two levels", "one level"])
@pytest.mark.parametrize(
    "arguments",
    [
        {"cost": "flops", "weight": 3.0},
        {"cost": "params", "weight": 3.0, "kind": "growing"},
        {"cost": "latency", "weight": 3.0, "kind": "target", "target": 0.8},
    ],
    ids=lambda a: "-".join(str(v) for v in a.values()),
)
def test_alpha_gets_the_gradient_of_the_closed_form(
    arguments: dict[str, Any], joined: bool, make: Callable[..., Run], tmp_path: Path
) -> None:
    times = OptionCosts("milliseconds", 0.5, TIMES)
    if arguments["cost"] == "latency":
        write_latency(tmp_path / "latency.csv", Tiny64(), times)
        arguments = {**arguments, "latency": str(tmp_path / "latency.csv")}
    changes = {"trainer.max_steps": 2}
    plain = trained(make("darts", {}, changes), joined)
    run = make("darts", {"resource_penalty": arguments}, changes)
    seen = trained(run, joined)
    counted = option_costs(run.module.space, run.module.spec) | {"latency": times}
    for step in range(1 if arguments.get("kind") != "growing" else 2):  # later steps start from other alphas
        added = by_hand(seen.before[step], counted[arguments["cost"]], arguments.get("kind", "fixed"), 3.0, step / 2)
        for name, gradient in seen.alpha[step].items():
            assert torch.equal(seen.before[step][name], plain.before[step][name])
            torch.testing.assert_close(gradient.double(), plain.alpha[step][name] + added[name], atol=1e-6, rtol=1e-4)
    if joined:  # the weights see the same loss, but the term does not depend on them (at two levels alpha moves first)
        torch.testing.assert_close(seen.weights[0], plain.weights[0])
    assert run.tricks[0].acts == (1 if arguments.get("kind") == "growing" else 2)


@pytest.mark.parametrize("target", [None, 0.8])
@pytest.mark.parametrize("cost", ["params", "latency"])
def test_a_factor_gives_alpha_the_product_rule(
    cost: str, target: float | None, make: Callable[..., Run], tmp_path: Path
) -> None:
    times = OptionCosts("milliseconds", 0.5, TIMES)
    write_latency(tmp_path / "latency.csv", Tiny64(), times)
    table = {"latency": str(tmp_path / "latency.csv")} if cost == "latency" else {}
    aim = {} if target is None else {"target": target}
    arguments = {"kind": "factor", "cost": cost, "weight": 2.0, "power": 3.0, **aim, **table}
    plain = trained(make("darts", {}, {"trainer.max_steps": 1}))
    run = make("darts", {"resource_penalty": arguments}, {"trainer.max_steps": 1})
    seen = trained(run)
    costs = times if cost == "latency" else option_costs(run.module.space, run.module.spec)["params"]
    thousand = 1000 if cost == "latency" else 1  # microseconds
    shares = {name: alpha.double().softmax(0) for name, alpha in seen.before[0].items()}
    owns = {name: torch.tensor(of_choice, dtype=torch.float64) for name, of_choice in costs.options.items()}
    expected = costs.base + sum(float(shares[name] @ owns[name]) for name in shares)
    divisor = 1.0 if target is None else math.log(thousand * target * costs.mean)
    part = math.log(thousand * expected) / divisor
    for name, gradient in seen.alpha[0].items():
        slope = shares[name] * (owns[name] - shares[name] @ owns[name])  # dE / d alpha
        own = 2 * part**3 * plain.alpha[0][name].double()
        through_cost = seen.losses[0] * 2 * 3 * part**2 / divisor / expected * slope
        torch.testing.assert_close(gradient.double(), own + through_cost, atol=1e-4, rtol=1e-4)
    assert seen.losses == plain.losses


def test_a_factor_that_cannot_be_is_refused_before_training(make: Callable[..., Run], tmp_path: Path) -> None:
    one_level = {"model.init_args.estimator": "nastricks.estimators.SingleLevel"}
    arguments: dict[str, Any] = {"kind": "factor", "power": 0.6}
    with pytest.raises(InputError, match="would multiply the weights' loss too, which SingleLevel shares"):
        make("darts", {"resource_penalty": arguments}, one_level).check()
    write_latency(tmp_path / "latency.csv", Tiny64(), OptionCosts("milliseconds", 0.0005, TIMES))
    arguments |= {"cost": "latency", "latency": str(tmp_path / "latency.csv")}
    with pytest.raises(InputError, match=r"takes logarithms, .* of the target, 0\.5 microseconds"):
        make("darts", {"resource_penalty": arguments}).check()


def test_a_heavy_penalty_finds_the_cheapest_child(make: Callable[..., Run]) -> None:
    changes = {"model.init_args.policy_optimizer.init_args.lr": 0.3, "trainer.max_epochs": 10}
    run = make("darts", {"resource_penalty": {"weight": 100.0}}, changes)
    run.fit()
    picked = [int(s.argmax()) for s in run.module.policy.strengths().values()]
    costs = option_costs(run.module.space, run.module.spec)["flops"].options
    assert [costs[c.name][i] for c, i in zip(run.module.space.choices, picked, strict=True)] == [0, 0, 0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"weight": -1.0}, "resource_penalty.weight is -1.0"),
        ({"weight": float("nan")}, "resource_penalty.weight is nan"),
        ({"kind": "shrinking"}, "resource_penalty.kind is 'shrinking': expected fixed, growing, target, factor"),
        ({"cost": "energy"}, "resource_penalty.cost is 'energy'"),
        ({"kind": "target"}, "kind target needs one"),
        ({"target": 0.8}, "kind is fixed and target is 0.8"),
        ({"kind": "target", "target": 0.0}, "resource_penalty.target is 0.0"),
        ({"kind": "factor"}, "kind factor needs one, such as 0.6"),
        ({"power": 0.6}, "kind is fixed and power is 0.6"),
        ({"kind": "factor", "power": 0.0}, "resource_penalty.power is 0.0"),
        ({"kind": "factor", "power": 0.6, "target": -1.0}, "resource_penalty.target is -1.0"),
        ({"cost": "latency"}, "needs the table that `nastricks latency` writes"),
        ({"latency": "x.csv"}, "cost is flops and latency is x.csv"),
    ],
)
def test_values_that_cannot_be(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        ResourcePenalty(**arguments)


def test_tables_are_read_before_training(make: Callable[..., Run], tmp_path: Path) -> None:
    table = tmp_path / "latency.csv"
    table.write_text("choice,option,milliseconds\nbase,,1\nlayer1,identity,0\n")
    run = make("darts", {"resource_penalty": {"cost": "latency", "latency": str(table)}})
    with pytest.raises(InputError, match="lacks layer1 max_pool_3x3"):
        run.check()


def test_controllers_are_told_where_their_cost_belongs() -> None:

    files = [
        f"recipes/{n}.yaml" for n in ("spaces/tiny64", "data/digits", "algorithms/enas", "tricks/resource_penalty")
    ]
    with pytest.raises(InputError, match="LSTMController is a controller: let its reward take the cost off"):
        build(resolve(files), None, quiet=True).check()
