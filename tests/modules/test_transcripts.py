"""SPOS and DARTS equal a transcript of their equations in plain PyTorch, to 1e-8 in double precision."""

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nastricks.modules.normalisation import batch_norms
from nastricks.policies import Softmax
from nastricks.run import Run

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
]

STEPS = 2
LAYERS = ("layer1", "layer2", "layer3")
CHANGES = {"trainer.precision": "64-true", "trainer.max_steps": STEPS}


class Momentum:
    """SGD with Nesterov momentum 0.9 and weight decay 3e-4: v <- 0.9 v + g; w <- w - rate (g + 0.9 v)."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self.parameters = parameters
        self.velocity: dict[int, Tensor] = {}

    @torch.no_grad()
    def step(self, rate: float) -> None:
        for number, w in enumerate(self.parameters):
            if w.grad is None:
                continue
            g = w.grad + 3e-4 * w
            v = self.velocity[number] = 0.9 * self.velocity[number] + g if number in self.velocity else g.clone()
            w -= rate * (g + 0.9 * v)


def cosine_rate(step: int) -> float:
    return 0.5 * 0.1 * (1 + math.cos(math.pi * step / STEPS))


def forward(network: nn.Module, images: Tensor, mixed: Callable[[str, nn.ModuleDict, Tensor], Tensor]) -> Tensor:
    """The supernet of tiny64, layer by layer."""
    segments: Any = network.get_submodule("segments")
    x = segments["stem"].layers(images)
    x = mixed("layer1", segments["layer1"].choice.ops, x)
    x = F.max_pool2d(x, 2)
    x = mixed("layer2", segments["layer2"].choice.ops, x)
    x = mixed("layer3", segments["layer3"].choice.ops, x)
    head = segments["head"].layers[1][-1]
    return F.linear(F.relu(x).mean((2, 3)), head.weight, head.bias)


def batches(run: Run, split: Any) -> Iterator[tuple[Tensor, Tensor]]:
    for step in range(STEPS):
        batch = run.data.batch(split, step)
        yield batch.images.double(), batch.labels


def close(found: nn.Module, expected: nn.Module) -> None:
    states = found.state_dict(), expected.state_dict()
    assert states[0].keys() == states[1].keys()
    for key, value in states[0].items():
        torch.testing.assert_close(value, states[1][key], rtol=1e-8, atol=1e-8, msg=lambda m, key=key: f"{key}: {m}")


def test_spos(make: Callable[..., Run]) -> None:
    run = make("spos", changes=CHANGES)
    network = copy.deepcopy(run.module.networks[0]).double().train()
    start = copy.deepcopy(network)
    run.fit()
    optimizer = Momentum(list(network.parameters()))
    for step, (images, labels) in enumerate(batches(run, "train")):
        (gates,) = run.module.policy.propose(run.module.moment("weights").at(step=step))
        path = {layer: gates[layer].active[0] for layer in LAYERS}

        def only(layer: str, ops: nn.ModuleDict, x: Tensor, path: dict[str, int] = path) -> Tensor:
            return list(ops.values())[path[layer]](x)

        for parameter in network.parameters():
            parameter.grad = None
        F.cross_entropy(forward(network, images, only), labels).backward()
        optimizer.step(cosine_rate(step))
    close(run.module.networks[0], network)
    with pytest.raises(AssertionError):
        close(start, network)


def test_darts_first_order(make: Callable[..., Run]) -> None:
    run = make("darts", changes=CHANGES)
    assert isinstance(run.module.policy, Softmax)
    network = copy.deepcopy(run.module.networks[0]).double().train()
    alpha = {layer: p.detach().clone().double().requires_grad_() for layer, p in run.module.policy.alpha.items()}
    start = {layer: a.detach().clone() for layer, a in alpha.items()}
    run.fit()
    optimizer = Momentum(list(network.parameters()))
    alpha_optimizer = torch.optim.Adam(list(alpha.values()), lr=3e-3, betas=(0.5, 0.999), weight_decay=1e-3)

    def mixture(layer: str, ops: nn.ModuleDict, x: Tensor) -> Tensor:
        shares = alpha[layer].exp() / alpha[layer].exp().sum()
        return sum((s * op(x) for s, op in zip(shares, ops.values(), strict=True)), torch.zeros(()))

    pairs = zip(batches(run, "train"), batches(run, "search"), strict=True)
    for step, ((images, labels), (search_images, search_labels)) in enumerate(pairs):
        # alpha, on the search split; the running statistics do not count this pass
        buffers = {name: b.clone() for name, b in network.named_buffers()}
        loss = F.cross_entropy(forward(network, search_images, mixture), search_labels)
        gradients = torch.autograd.grad(loss, list(alpha.values()))
        for a, g in zip(alpha.values(), gradients, strict=True):
            a.grad = g
        alpha_optimizer.step()
        for name, b in network.named_buffers():
            b.copy_(buffers[name])
        # the weights, on the train split, with the new alpha
        for parameter in network.parameters():
            parameter.grad = None
        F.cross_entropy(forward(network, images, mixture), labels).backward()
        norm = torch.stack([p.grad.norm() for p in network.parameters() if p.grad is not None]).norm()
        for parameter in network.parameters():
            if parameter.grad is not None:
                parameter.grad *= min(1.0, 5.0 / (float(norm) + 1e-6))
        optimizer.step(cosine_rate(step))
    close(run.module.networks[0], network)
    for layer, a in alpha.items():
        torch.testing.assert_close(run.module.policy.alpha[layer], a, rtol=1e-8, atol=1e-8, check_dtype=True)
        assert not torch.equal(a, start[layer])
    assert len(batch_norms(network)) == 10
