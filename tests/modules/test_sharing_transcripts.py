"""Two steps under every sharing equal its definition in plain PyTorch, to 1e-8 in double precision.

The transcripts know the network's modules and the key of the path, and nothing else of the package: which children have
a module in common, gradients, optimizer and schedule are written out here.
"""

import copy
import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nastricks.recipe import resolve
from nastricks.run import Run, build
from proofs.small_runs import TWO_STEPS

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
]

STEPS = 2  # of proofs.small_runs.TWO_STEPS, one an epoch
LAYERS = ("layer1", "layer2", "layer3")
OPTIONS = ("max_pool_3x3", "sep_conv_3x3", "sep_conv_5x5", "identity")
Child = tuple[int, ...]


def place(child: Child) -> int:
    """In the lexicographic order."""
    return 16 * child[0] + 4 * child[1] + child[2]


class Case(NamedTuple):
    """The network in which a child runs, and with which number it shares a segment: equal numbers, one module."""

    network: Callable[[Child], int]
    shares: Callable[[str, Child], int]


CASES = {
    "all": Case(lambda child: 0, lambda segment, child: 0),
    "groups": Case(lambda child: place(child) // 8, lambda segment, child: place(child) // 8),
    "prefix": Case(place, lambda segment, child: 0 if segment in ("stem", "layer1", "pool") else place(child)),
    "few_shot": Case(lambda child: child[1], lambda segment, child: child[1]),
    "none": Case(place, lambda segment, child: place(child)),
}


class Start(pl.Callback):
    """Copies the networks before the first step."""

    def __init__(self) -> None:
        self.networks: Any = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.networks = copy.deepcopy(pl_module.networks).double().train()


class Plain:
    """The modules of all children, each once."""

    def __init__(self, case: Case, networks: Any) -> None:
        self.case, self.modules = case, dict[tuple[str, int], Any]()
        self.velocity: dict[nn.Parameter, Tensor] = {}
        for child in itertools.product(range(4), repeat=3):
            for name, segment in networks[case.network(child)].segments.items():
                self.modules.setdefault((name, case.shares(name, child)), copy.deepcopy(segment))

    def logits(self, images: Tensor, child: Child) -> Tensor:
        """One child of tiny64."""

        def own(segment: str) -> Any:
            return self.modules[segment, self.case.shares(segment, child)]

        x = own("stem").layers(images)
        for layer, option in zip(LAYERS, child, strict=True):
            x = own(layer).choice.ops[OPTIONS[option]](x)
            x = F.max_pool2d(x, 2) if layer == "layer1" else x
        head = own("head").layers[1][-1]
        return F.relu(x).mean((2, 3)) @ head.weight.T + head.bias

    @torch.no_grad()
    def sgd(self, rate: float) -> None:
        """Nesterov momentum 0.9, weight decay 3e-4; what did not run stays."""
        for w in (w for module in self.modules.values() for w in module.parameters()):
            if w.grad is not None:
                g = w.grad + 3e-4 * w
                v = self.velocity[w] = 0.9 * self.velocity[w] + g if w in self.velocity else g.clone()
                w -= rate * (g + 0.9 * v)
                w.grad = None


def transcribe(at: Plain, run: Run) -> set[Child]:
    """Take the steps; the children that were trained."""
    trained = set()
    for step in range(STEPS):
        rng = run.module.moment("weights").at(step=step).generator("path")
        child = tuple(int(torch.randint(4, (), generator=rng)) for _ in LAYERS)
        batch = run.data.batch("train", step)
        F.cross_entropy(at.logits(batch.images.double(), child), batch.labels).backward()  # type: ignore[no-untyped-call]
        at.sgd(0.5 * 0.1 * (1 + math.cos(math.pi * step / STEPS)))
        trained.add(child)
    return trained


@pytest.mark.parametrize("name", CASES)
def test_two_steps_equal_the_definition(name: str) -> None:
    files = ("spaces/tiny64", "data/digits", "algorithms/spos", f"sharing/{name}")
    overrides = [f"--{key}={value}" for key, value in TWO_STEPS.items()]
    run, start = build(resolve([f"recipes/{file}.yaml" for file in files], overrides), None, quiet=True), Start()
    run.trainer.callbacks.append(start)  # type: ignore[attr-defined]
    run.fit()
    case = CASES[name]
    at = Plain(case, start.networks)
    before = {key: copy.deepcopy(module.state_dict()) for key, module in at.modules.items()}
    trained = transcribe(at, run)
    assert len(trained) == STEPS
    for child in itertools.product(range(4), repeat=3):
        network: Any = run.module.networks[case.network(child)]
        for segment, module in network.segments.items():
            found, expected = module.state_dict(), at.modules[segment, case.shares(segment, child)].state_dict()
            assert found.keys() == expected.keys()
            for key, value in found.items():
                torch.testing.assert_close(
                    value, expected[key], rtol=1e-8, atol=1e-8, msg=lambda m, key=f"{segment}.{key}": f"{key}: {m}"
                )
    moved = {
        key
        for key, module in at.modules.items()
        if any(not torch.equal(value, before[key][name]) for name, value in module.state_dict().items())
    }
    assert moved <= {(segment, case.shares(segment, child)) for segment, _ in moved for child in trained}
    assert {("stem", case.shares("stem", child)) for child in trained} <= moved
    assert {("head", case.shares("head", child)) for child in trained} <= moved
