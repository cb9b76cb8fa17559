"""Two steps of every recipe with sizes equal a transcript of its paper's equations in plain PyTorch, to 1e-8 in double.

The transcripts know the names of the network's tensors and the keys of the random draws, and nothing else of the
package: slices, paths, soft labels, gradients, optimizer and schedules are written out here.
"""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nastricks.moment import Moment
from nastricks.recipe import resolve
from nastricks.rng import forked_rng
from nastricks.run import Run, build
from proofs.small_runs import TWO_STEPS

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
]

STEPS = 2  # of proofs.small_runs.TWO_STEPS, one an epoch

Path = Sequence[int]
"""The option of every choice, in their order."""


class Tensors:
    """The network's parameters and statistics by their names; a prefix is spelt once."""

    def __init__(self, network: nn.Module) -> None:
        self.parameters = dict(network.named_parameters())
        self.buffers = dict(network.named_buffers())

    def __getitem__(self, name: str) -> Tensor:
        return self.parameters[f"segments.{name}"]

    def norm(self, name: str, x: Tensor) -> Tensor:
        """Batch norm of the first channels, by the batch; the running statistics move by a tenth."""
        count, key = x.shape[1], f"segments.{name}"
        mean, variance = self.buffers[f"{key}.running_mean"], self.buffers[f"{key}.running_var"]
        self.buffers[f"{key}.num_batches_tracked"] += 1
        m, v = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
        with torch.no_grad():
            n = x.numel() / count
            mean[:count] += 0.1 * (m - mean[:count])
            variance[:count] += 0.1 * (v * n / (n - 1) - variance[:count])
        y = (x - m[:, None, None]) / (v + 1e-5).sqrt()[:, None, None]
        return y * self[f"{name}.weight"][:count, None, None] + self[f"{name}.bias"][:count, None, None]

    def conv(self, name: str, x: Tensor, outputs: int, stride: int = 1, bias: bool = False) -> Tensor:
        w = self[f"{name}.weight"][:outputs, : x.shape[1]]
        own = self[f"{name}.bias"][:outputs] if bias else None
        return F.conv2d(x, w, own, stride=stride, padding=w.shape[-1] // 2)

    def depthwise(self, name: str, x: Tensor, kernel: int, stride: int = 1) -> Tensor:
        w, count = self[f"{name}.weight"], x.shape[1]
        margin = (w.shape[-1] - kernel) // 2
        middle = w[:count, :, margin : w.shape[-1] - margin, margin : w.shape[-1] - margin]
        return F.conv2d(x, middle, stride=stride, padding=kernel // 2, groups=count)


def eights(channels: float) -> int:
    return max(8, int(channels + 4) // 8 * 8)


# The choices of recipes/spaces/elastic.yaml in their order, with their values.
BLOCKS = ("stage1_block1", "stage1_block2", "stage2_block1", "stage2_block2")
ELASTIC: dict[str, tuple[float, ...]] = {"resolution": (6, 8), "width": (0.5, 1.0)}
for _stage in (1, 2):
    ELASTIC[f"stage{_stage}_depth"] = (1, 2)
    for _block in (1, 2):
        ELASTIC[f"stage{_stage}_block{_block}_kernel"] = (3, 5)
        ELASTIC[f"stage{_stage}_block{_block}_expansion"] = (2, 4)


def elastic_logits(t: Tensors, images: Tensor, path: Path, drop: Callable[[Tensor], Tensor]) -> Tensor:
    """MobileNetV3 in small, at the sizes of a path."""
    size = {name: values[i] for (name, values), i in zip(ELASTIC.items(), path, strict=True)}
    side = int(size["resolution"])
    x = images if side == 8 else F.interpolate(images, size=(side, side), mode="bilinear", align_corners=False)
    x = F.hardswish(t.norm("stem.first_norm", t.conv("stem.first", x, 8)))
    y = F.relu(t.norm("stem.depthwise_norm", t.depthwise("stem.depthwise", x, 3)))
    x = x + t.norm("stem.project.1", t.conv("stem.project.0", y, 8))
    for stage, (channels, stride, activation) in enumerate(((16, 1, F.relu), (32, 2, F.hardswish)), start=1):
        outputs = eights(channels * size["width"])
        for place in range(1, int(size[f"stage{stage}_depth"]) + 1):
            name = f"stage{stage}_block{place}"
            hidden = eights(x.shape[1] * size[f"{name}_expansion"])
            y = activation(t.norm(f"{name}.expand_norm", t.conv(f"{name}.expand", x, hidden)))
            kernel = int(size[f"{name}_kernel"])
            y = t.depthwise(f"{name}.depthwise", y, kernel, stride if place == 1 else 1)
            y = activation(t.norm(f"{name}.depthwise_norm", y))
            if stage == 2:
                means = F.relu(t.conv(f"{name}.squeeze.reduce", y.mean((2, 3), True), eights(hidden // 4), bias=True))
                y = y * F.hardsigmoid(t.conv(f"{name}.squeeze.expand", means, hidden, bias=True))
            y = t.norm(f"{name}.project_norm", t.conv(f"{name}.project", y, outputs))
            x = y if place == 1 else x + y
    x = F.hardswish(t.norm("head.expand_norm", t.conv("head.expand", x, 64)))
    x = F.hardswish(x.mean((2, 3)) @ t["head.mix.weight"].T)
    return drop(x) @ t["head.classifier.weight"].T + t["head.classifier.bias"]


def slimmable_logits(t: Tensors, images: Tensor, path: Path, drop: Callable[[Tensor], Tensor]) -> Tensor:
    """ResNet-20 at the widths of a path: a stage's stream, then the inside of each of its blocks."""
    widths = [(i + 1) / 4 for i in path]
    streams = [int(channels * widths[4 * stage]) for stage, channels in enumerate((16, 32, 64))]
    x = F.relu(t.norm("stem.norm", t.conv("stem.conv", images, streams[0])))
    for stage, channels in enumerate((16, 32, 64)):
        for place in range(3):
            name, outputs = f"stage{stage + 1}_block{place + 1}", streams[stage]
            stride = 2 if stage > 0 and place == 0 else 1
            y = t.conv(f"{name}.first", x, int(channels * widths[4 * stage + 1 + place]), stride)
            y = t.norm(
                f"{name}.second_norm", t.conv(f"{name}.second", F.relu(t.norm(f"{name}.first_norm", y)), outputs)
            )
            if stage > 0 and place == 0:
                x = t.norm(f"{name}.shortcut_norm", t.conv(f"{name}.shortcut", x[:, :, ::stride, ::stride], outputs))
            x = F.relu(x + y)
    means = x.mean((2, 3))
    return drop(means) @ t["head.classifier.weight"][:, : means.shape[1]].T + t["head.classifier.bias"]


@dataclass
class Plain:
    """The state of a transcript."""

    run: Run
    network: nn.Module
    step: int = 0
    velocity: dict[str, Tensor] = field(default_factory=dict)
    allowed: list[Sequence[int]] = field(default_factory=list)

    @property
    def moment(self) -> Moment:
        return self.run.module.moment("weights").at(step=self.step)

    def batch(self) -> tuple[Tensor, Tensor]:
        batch = self.run.data.batch("train", self.step)
        return batch.images.double(), batch.labels

    def uniform(self, number: int) -> Path:
        """One option a choice, among those allowed."""
        rng = self.moment.at(gate_set=number).generator("path")
        return [options[int(torch.randint(len(options), (), generator=rng))] for options in self.allowed]

    @torch.no_grad()
    def sgd(self, rate: float, decay: float) -> None:
        """Nesterov momentum 0.9: v <- 0.9 v + g; w <- w - rate (g + 0.9 v)."""
        for name, w in self.network.named_parameters():
            if w.grad is None:
                continue
            g = w.grad + decay * w
            v = self.velocity[name] = 0.9 * self.velocity[name] + g if name in self.velocity else g.clone()
            w -= rate * (g + 0.9 * v)


def kept(x: Tensor) -> Tensor:
    return x


class Case:
    """A transcript of AutoSlim's training: override what differs."""

    recipe, space = "autoslim", "slimmable"
    changes: Mapping[str, Any] = {}
    choices = 12 * (4,)
    decay = 1e-4

    def logits(self, t: Tensors, images: Tensor, path: Path, drop: Callable[[Tensor], Tensor] = kept) -> Tensor:
        return slimmable_logits(t, images, path, drop)

    def rate(self, step: int) -> float:
        return 0.5 * 0.05 * (1 + math.cos(math.pi * step / STEPS))

    def start(self, at: Plain) -> None:
        """What holds before the first step."""

    def before_step(self, at: Plain) -> None:
        """What happens between epochs."""

    def paths(self, at: Plain) -> list[Path]:
        """The largest, two random ones, the smallest."""
        sizes = [len(options) for options in at.allowed]
        return [[n - 1 for n in sizes], at.uniform(1), at.uniform(2), [0 for _ in sizes]]

    def losses(self, at: Plain) -> Tensor:
        """The largest learns the labels, the others its outputs."""
        images, labels = at.batch()
        t, total, soft = Tensors(at.network), torch.zeros((), dtype=torch.float64), torch.zeros(0)
        for number, path in enumerate(self.paths(at)):
            with forked_rng(at.run.module.seed, at.step, 0, number, "forward", 0):
                z = self.logits(t, images, path, self.drop if number == 0 else kept)
            log_p = z - z.exp().sum(1, keepdim=True).log()
            if number == 0:
                total = total - log_p[range(len(labels)), labels].mean() + self.penalty(at)
                soft = log_p.detach().exp()
            else:
                total = total - (soft * log_p).sum(1).mean()
        return total

    def drop(self, x: Tensor) -> Tensor:
        return x

    def penalty(self, at: Plain) -> Tensor:
        return torch.zeros((), dtype=torch.float64)


class BigNAS(Case):
    """Dropout and decay for the largest alone; the decay is in the loss, not in the optimizer."""

    recipe, space = "bignas", "elastic"
    choices = tuple(len(values) for values in ELASTIC.values())
    decay = 0.0

    def logits(self, t: Tensors, images: Tensor, path: Path, drop: Callable[[Tensor], Tensor] = kept) -> Tensor:
        return elastic_logits(t, images, path, drop)

    def rate(self, step: int) -> float:
        return 0.1 * 0.05 ** min(1.0, step / STEPS / 0.67)

    def start(self, at: Plain) -> None:
        """Blocks begin as their shortcut."""
        zero = {"stem.project.1", "stage1_block2.project_norm", "stage2_block2.project_norm"}
        for name, w in at.network.named_parameters():
            if name.endswith("norm.weight") or name == "segments.stem.project.1.weight":
                expected = 0.0 if name.removeprefix("segments.").removesuffix(".weight") in zero else 1.0
                assert torch.equal(w, torch.full_like(w, expected))

    def drop(self, x: Tensor) -> Tensor:
        return x * (F.dropout(torch.ones_like(x), 0.2))

    def penalty(self, at: Plain) -> Tensor:
        return 3e-4 / 2 * torch.cat([w.flatten() for w in at.network.parameters()]).square().sum()


NORM = ("weight", "bias", "running_mean", "running_var")


class OnceForAll(BigNAS):
    """A uniform path a step over the sizes that are open; before expansions open, channels are sorted."""

    recipe = "ofa"
    changes = {"tricks.progressive_shrinking.starts": "[0.0,0.5,0.5,0.5,0.5]"}
    decay = 3e-5

    def rate(self, step: int) -> float:
        return 0.5 * 0.05 * (1 + math.cos(math.pi * step / STEPS))

    def start(self, at: Plain) -> None:
        """The first half of the run trains the largest network, at every resolution."""
        sizes = zip(ELASTIC, self.choices, strict=True)
        at.allowed = [range(n) if name == "resolution" else [n - 1] for name, n in sizes]

    def before_step(self, at: Plain) -> None:
        """All sizes open; hidden channels go by the L1 norm of what the last convolution reads, momentum along."""
        at.allowed = [range(n) for n in self.choices]
        tensors = {**dict(at.network.named_parameters()), **dict(at.network.named_buffers())}
        for block in BLOCKS:
            own = f"segments.{block}"
            read = tensors[f"{own}.project.weight"].detach().abs().sum((0, 2, 3))
            order = sorted(range(len(read)), key=lambda channel, read=read: -float(read[channel]))
            assert order != list(range(len(order)))
            columns = [f"{own}.project.weight", f"{own}.squeeze.reduce.weight"]
            rows = [f"{own}.{name}" for name in ("expand.weight", "depthwise.weight", "squeeze.expand.weight")]
            rows += [f"{own}.squeeze.expand.bias"]
            rows += [f"{own}.{norm}_norm.{k}" for norm in ("expand", "depthwise") for k in NORM]
            with torch.no_grad():
                for axis, names in ((0, rows), (1, columns)):
                    for name in (n for n in names if n in tensors):
                        for tensor in (tensors[name], at.velocity.get(name)):
                            if tensor is not None:
                                tensor.copy_(tensor[order] if axis == 0 else tensor[:, order])

    def losses(self, at: Plain) -> Tensor:
        images, labels = at.batch()
        z = self.logits(Tensors(at.network), images, at.uniform(0))
        return F.cross_entropy(z, labels)


CASES: dict[str, Case] = {case.__name__: case() for case in (Case, BigNAS, OnceForAll)}


class Start(pl.Callback):
    """Copies the network before the first step, after the tricks' surgery."""

    def __init__(self) -> None:
        self.network: nn.Module = nn.Identity()

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.network = copy.deepcopy(pl_module.networks[0])


def transcribe(case: Case, run: Run, network: nn.Module) -> Plain:
    """Take the steps in plain PyTorch."""
    at = Plain(run, network, allowed=[range(n) for n in case.choices])
    case.start(at)
    for at.step in range(STEPS):
        if at.step:
            case.before_step(at)
        for parameter in network.parameters():
            parameter.grad = None
        case.losses(at).backward()  # type: ignore[no-untyped-call]
        at.sgd(case.rate(at.step), case.decay)
    return at


@pytest.mark.parametrize("name", CASES)
def test_two_steps_equal_the_equations(name: str) -> None:
    case = CASES[name]
    stack = [f"recipes/{file}.yaml" for file in (f"spaces/{case.space}", "data/digits", f"algorithms/{case.recipe}")]
    overrides = [f"--{key}={value}" for key, value in {**TWO_STEPS, **case.changes}.items()]
    run, start = build(resolve(stack, overrides), None, quiet=True), Start()
    run.trainer.callbacks.append(start)  # type: ignore[attr-defined]
    run.fit()
    assert run.module.steps_seen == STEPS
    before = {key: value.clone() for key, value in start.network.state_dict().items()}
    found, expected = run.module.networks[0].state_dict(), transcribe(case, run, start.network).network.state_dict()
    assert found.keys() == expected.keys()
    for key, value in found.items():
        torch.testing.assert_close(value, expected[key], rtol=1e-8, atol=1e-8, msg=lambda m, key=key: f"{key}: {m}")
    # A shift in front of a batch norm has no gradient, and a branch whose scale is 0 none in the first step.
    moved = [not torch.allclose(before[key], v, rtol=0, atol=1e-6) for key, v in found.items() if v.is_floating_point()]
    assert sum(moved) > 0.8 * len(moved)
