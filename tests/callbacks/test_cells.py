"""Alpha's gradient on cells of two kinds that share an architecture, against the cells written out in plain PyTorch.

`tiny64`, on which every recipe has its transcript, has no nodes with several inputs, no stride of 2 and no choice that
stands in several places: here are the gates of every policy, and the tricks that act inside an edge, where there are.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn import functional as F

from nastricks.estimators import FirstOrder
from nastricks.modules.step import TrainingStep
from nastricks.policies import EdgeNormalised
from nastricks.recipe import resolve
from nastricks.run import Run, build

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
]

Weights = Mapping[int, Tensor | float]
"""The weight of each operation of an edge that runs; `none` is left out."""

SMALL = {
    "space.init_args.channels": 4,
    "space.init_args.cells": 4,  # normal, reduction, reduction, normal
    "space.init_args.nodes": 2,
    "data.init_args.train_size": 16,
    "data.init_args.search_size": 16,
    "data.init_args.validation_size": 16,
    "data.init_args.batch_size": 16,
    "trainer.accelerator": "cpu",
    "trainer.precision": "64-true",
    "trainer.max_epochs": 2,
}
STACK = [f"recipes/{name}.yaml" for name in ("spaces/darts", "data/digits", "algorithms/published/darts")]
OPERATIONS = (
    "none", "max_pool_3x3", "avg_pool_3x3", "skip_connect", "sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3",
    "dil_conv_5x5",
)  # fmt: skip
KINDS = ("normal", "reduce", "reduce", "normal")
EDGES = [(target, source) for target in (2, 3) for source in range(target)]


class Cells:
    """The network of darts with two nodes a cell, written out."""

    def __init__(self, network: Any, weights: Mapping[str, Weights], scale: Mapping[str, Tensor | float]) -> None:
        self.network, self.weights, self.scale = network, weights, scale
        self.parts, self.bypass = 1, 0.0

    def edge(self, cell: Any, name: str, x: Tensor, stride: int) -> Tensor:
        """scale * shuffle([sum of weight * operation(first part) + bypass * own input, the other parts])."""
        own = x.shape[1] // self.parts
        through, passing = x[:, :own], x[:, own:]
        ops = cell.edges[name].ops
        halved = F.avg_pool2d(through, 2) if stride == 2 else through
        total = self.bypass * halved + sum(
            (w * ops[OPERATIONS[i]](through) for i, w in self.weights[name].items()), torch.zeros((), dtype=x.dtype)
        )
        if stride == 2 and self.parts > 1:
            passing = F.max_pool2d(passing, 2)
        elif stride == 2:
            passing = total[:, :0]
        order = [part * own + channel for channel in range(own) for part in range(self.parts)]
        out: Tensor = self.scale.get(name, 1.0) * torch.cat([total, passing], dim=1)[:, order]
        return out

    def logits(self, images: Tensor) -> Tensor:
        stem = self.network.segments["stem"].layers(images)
        before = [stem, stem]
        for number, kind in enumerate(KINDS, start=1):
            cell = self.network.segments[f"cell{number}"]
            nodes = [cell.align[f"input{i}"](x) for i, x in enumerate(before)]
            for target in (2, 3):
                into = [
                    self.edge(cell, f"{kind}_{target}_{s}", nodes[s], 2 if kind == "reduce" and s < 2 else 1)
                    for s in range(target)
                ]
                nodes.append(torch.stack(into).sum(0))
            before = [before[1], torch.cat(nodes[2:], dim=1)]
        logits: Tensor = self.network.segments["head"].layers(before[1])
        return logits


def made(policy: Mapping[str, Any], **tricks: Mapping[str, Any]) -> Run:
    own = {"model.init_args.policy": dict(policy), **{f"tricks.{name}": dict(t) for name, t in tricks.items()}}
    return build(resolve(STACK, [f"--{key}={value}" for key, value in {**SMALL, **own}.items()]), None, quiet=True)


def named(name: str, **arguments: Any) -> dict[str, Any]:
    return {"class_path": f"nastricks.policies.{name}", "init_args": arguments}


def softmax(alpha: Tensor) -> Tensor:
    return alpha.exp() / alpha.exp().sum()


def all_operations(shares: Tensor) -> Weights:
    return {i: w for i, w in enumerate(shares.unbind()) if i}


def mixed(at: TrainingStep, alpha: Mapping[str, Tensor]) -> dict[str, Weights]:
    return {name: all_operations(softmax(a)) for name, a in alpha.items()}


def grouped(at: TrainingStep, alpha: Mapping[str, Tensor]) -> dict[str, Weights]:
    """Options with weights compete apart; a skip in a reduction cell has weights where it halves."""
    found: dict[str, Weights] = {}
    for name, a in alpha.items():
        kind, _, source = name.split("_")
        learns = [4, 5, 6, 7] + ([3] if kind == "reduce" and int(source) < 2 else [])
        shares = torch.zeros(8, dtype=a.dtype)
        for group in (learns, [i for i in range(8) if i not in learns]):
            shares = shares.index_put((torch.tensor(group),), softmax(a[group]) * len(group) / 8)
        found[name] = all_operations(shares)
    return found


def of_samples(at: TrainingStep, alpha: Mapping[str, Tensor]) -> dict[str, Weights]:
    """One operation an edge at weight 1, with the gradient of its relaxed sample at temperature 1."""
    rng = at.moment.at(role="policy").generator("gumbel policy")
    draws = torch.rand(8 * len(alpha), generator=rng, dtype=torch.float64).split(8)  # type: ignore[no-untyped-call]
    found: dict[str, Weights] = {}
    for (name, a), u in zip(alpha.items(), draws, strict=True):
        y = softmax(a - a.exp().sum().log() - (-u.log()).log())
        picked = int(y.argmax())
        found[name] = {picked: 1.0 + y[picked] - y[picked].detach()} if picked else {}
    return found


def of_pairs(at: TrainingStep, alpha: Mapping[str, Tensor]) -> dict[str, Weights]:
    """Two drawn operations an edge, one of them on; d gate_j / d alpha_i = p_j (delta_ij - p_i) over the two."""
    rng = at.moment.at(role="policy").generator("binary gates policy")
    found: dict[str, Weights] = {}
    for name, a in alpha.items():
        p = softmax(a.detach())
        pair = torch.multinomial(p, 2, generator=rng).tolist()
        on = int(torch.multinomial(p[pair], 1, generator=rng))
        shares = softmax(a[pair])
        found[name] = {i: float(k == on) + shares[k] - shares[k].detach() for k, i in enumerate(pair) if i}
    return found


def normalised(beta: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """softmax(beta) over the edges into a node, by edge."""
    scale = {}
    for node, b in beta.items():
        kind, target = node.removesuffix("node2").removesuffix("node3").rstrip("_"), int(node[-1])
        scale.update({f"{kind}_{target}_{source}": share for source, share in enumerate(softmax(b).unbind())})
    return scale


Gates = Callable[[TrainingStep, Mapping[str, Tensor]], dict[str, Weights]]
HARD = {"class_path": "nastricks.policies.ConstantTemperature", "init_args": {"value": 1.0}}


@pytest.mark.parametrize("edges", [False, True], ids=["", "edges normalised"])
@pytest.mark.parametrize("tricks", [(), ("partial_channels",), ("auxiliary_skip",)], ids=lambda t: "".join(t))
@pytest.mark.parametrize(
    ("policy", "gates"),
    [
        (named("Softmax", init_std=1.0), mixed),
        (named("GroupedSoftmax", init_std=1.0), grouped),
        (named("GumbelHard", init_std=1.0, temperature=HARD), of_samples),
        (named("BinaryGates", init_std=1.0), of_pairs),
    ],
    ids=["Softmax", "GroupedSoftmax", "GumbelHard", "BinaryGates"],
)
def test_the_first_order_gradient_equals_the_cells_written_out(
    policy: dict[str, Any],
    gates: Gates,
    tricks: Sequence[str],
    edges: bool,
    stand: Callable[[Run], TrainingStep],
) -> None:
    if edges:
        policy = named("EdgeNormalised", operations=policy, init_std=1.0)
    arguments: dict[str, dict[str, Any]] = {"partial_channels": {"parts": 2}, "auxiliary_skip": {"start": 0.75}}
    run = made(policy, **{name: arguments[name] for name in tricks})
    step, module = stand(run), run.module
    FirstOrder(module.policy).update(step)
    own = module.policy
    operations: Any = own.operations if isinstance(own, EdgeNormalised) else own
    alpha = {name: a.detach().clone().requires_grad_() for name, a in operations.alpha.items()}
    betas = own.beta.items() if isinstance(own, EdgeNormalised) else ()
    beta = {node: b.detach().clone().requires_grad_() for node, b in betas}
    cells = Cells(module.networks[0], gates(step, alpha), normalised(beta))
    cells.parts = 2 if "partial_channels" in tricks else 1
    cells.bypass = 0.75 if "auxiliary_skip" in tricks else 0.0
    with module.frozen_statistics():
        loss = F.cross_entropy(cells.logits(step.search.images.double()), step.search.labels)
    expected = torch.autograd.grad(loss, [*alpha.values(), *beta.values()], allow_unused=True)
    found = [operations.alpha[name].grad for name in alpha]
    found += [own.beta[node].grad for node in beta] if isinstance(own, EdgeNormalised) else []
    assert len(alpha) == 2 * len(EDGES)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, torch.zeros_like(one) if other is None else other, rtol=1e-8, atol=1e-10)
    assert sum(float(g.abs().sum()) for g in found) > 0


class Before(pl.Callback):
    """The state before the first step."""

    def __init__(self) -> None:
        self.state: dict[str, Any] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.state = copy.deepcopy(pl_module.state_dict())


@pytest.mark.parametrize("parts", [1, 2])
def test_one_level_learns_from_the_auxiliary_head_too_whatever_the_parts(parts: int) -> None:
    """Weights and policy descend one loss, that of the auxiliary head included, a micro-batch after the other."""
    changes = {
        "model.init_args.estimator": "nastricks.estimators.SingleLevel",
        "model.init_args.policy": named("EdgeNormalised", init_std=1.0),
        "model.init_args.micro_batches": parts,
        "space.init_args.auxiliary_head": True,
        "trainer.max_epochs": 1,
    }
    run = build(resolve(STACK, [f"--{key}={value}" for key, value in {**SMALL, **changes}.items()]), None, quiet=True)
    module, before = run.module, Before()
    run.trainer.callbacks.append(before)  # type: ignore[attr-defined]
    run.fit()
    assert module.steps_seen == 1
    found = {name: p.grad for name, p in module.policy.named_parameters()}
    module.load_state_dict(before.state)
    module.train()
    batch = run.data.batch("train", 0)
    (gates,) = module.policy.propose(module.moment("weights"))
    loss = torch.zeros((), dtype=torch.float64)
    for part in batch.chunks(parts):
        own, extra = module.network_of(gates).with_auxiliary(part.images.double(), gates)
        both = F.cross_entropy(own, part.labels) + 0.4 * F.cross_entropy(extra, part.labels)
        loss = loss + both * len(part) / len(batch)
    names, parameters = zip(*module.policy.named_parameters(), strict=True)
    for name, expected in zip(names, torch.autograd.grad(loss, parameters), strict=True):
        torch.testing.assert_close(found[name], expected, rtol=1e-8, atol=1e-10)
        assert float(expected.abs().sum()) > 0
