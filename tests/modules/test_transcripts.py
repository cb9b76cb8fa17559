"""Two steps of every recipe equal a transcript of its paper's equations in plain PyTorch, to 1e-8 in double precision.

The transcripts know the network's modules and the keys of the random draws, and nothing else of the package: gates,
gradients by alpha, optimizers, schedules and clipping are written out here.
"""

import copy
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nastricks.moment import Moment, Role
from nastricks.policies import EdgeNormalised, Independent, MonteCarloTree, Policy
from nastricks.recipe import resolve
from nastricks.rng import forked_rng, generator
from nastricks.run import Run, build
from proofs.small_runs import TWO_STEPS

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
]

STEPS = 2  # of proofs.small_runs.TWO_STEPS, one an epoch
LAYERS = ("layer1", "layer2", "layer3")
OPTIONS = ("max_pool_3x3", "sep_conv_3x3", "sep_conv_5x5", "identity")
OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")  # of nasbench201

Alpha = dict[str, Tensor]
Weights = dict[str, dict[int, Tensor | float]]
"""For each layer, the weight of each option that runs."""


class Momentum:
    """SGD with Nesterov momentum 0.9 and weight decay 3e-4: v <- 0.9 v + g; w <- w - rate (g + 0.9 v)."""

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self.parameters = list(parameters)
        self.velocity: dict[int, Tensor] = {}

    @torch.no_grad()
    def step(self, rate: float) -> None:
        for number, w in enumerate(self.parameters):
            if w.grad is None:
                continue
            g = w.grad + 3e-4 * w
            v = self.velocity[number] = 0.9 * self.velocity[number] + g if number in self.velocity else g.clone()
            w -= rate * (g + 0.9 * v)

    def ahead(self, gradients: Sequence[Tensor], rate: float) -> list[Tensor]:
        """The weights after a step with these gradients, differentiable; nothing moves."""
        moved = []
        for number, (w, gradient) in enumerate(zip(self.parameters, gradients, strict=True)):
            g = gradient + 3e-4 * w
            v = 0.9 * self.velocity[number] + g if number in self.velocity else g
            moved.append(w - rate * (g + 0.9 * v))
        return moved


def cosine_rate(base: float, step: int) -> float:
    return 0.5 * base * (1 + math.cos(math.pi * step / STEPS))


@dataclass
class Plain:
    """The state of a transcript: the network, alpha and their optimizers."""

    run: Run
    network: nn.Module
    alpha: Alpha
    rate: float = 0.0
    step: int = 0
    allowed: dict[str, tuple[int, ...]] = field(default_factory=lambda: dict.fromkeys(LAYERS, (0, 1, 2, 3)))
    bypass: float = 0.0
    parts: int = 1
    dropped: float = 0.0  # the rate of dropout behind identities

    def __post_init__(self) -> None:
        self.weights = Momentum(list(self.network.parameters()))

    def batch(self, split: Any) -> tuple[Tensor, Tensor]:
        batch = self.run.data.batch(split, self.step)
        return batch.images.double(), batch.labels

    def moment(self, role: Role) -> Moment:
        return self.run.module.moment(role).at(step=self.step)

    def mixed(self, layer: str, x: Tensor, weights: Mapping[int, Tensor | float]) -> Tensor:
        segments: Any = self.network.get_submodule("segments")
        ops = segments[layer].choice.ops
        own = x.shape[1] // self.parts
        through, passing = x[:, :own], x[:, own:]
        outputs = {i: ops[OPTIONS[i]](through) for i in weights}
        if self.dropped and 3 in outputs:
            # Random masks are drawn in the order of memory, which is channels last.
            outputs[3] = F.dropout(outputs[3].contiguous(memory_format=torch.channels_last), self.dropped)
        total = sum((w * outputs[i] for i, w in weights.items()), torch.zeros((), dtype=x.dtype))
        mixed = torch.cat([total + self.bypass * through, passing], dim=1)
        # Shuffled: channel c of part p becomes channel number c * parts + p.
        order = [part * own + channel for channel in range(own) for part in range(self.parts)]
        return mixed[:, order]

    def loss(self, split: Any, weights: Weights) -> Tensor:
        """Cross entropy of the supernet of tiny64."""
        images, labels = self.batch(split)
        return F.cross_entropy(self.logits(images, weights), labels)

    def logits(self, images: Tensor, weights: Weights) -> Tensor:
        """The supernet of tiny64, layer by layer."""
        segments: Any = self.network.get_submodule("segments")
        x = segments["stem"].layers(images)
        x = self.mixed("layer1", x, weights["layer1"])
        x = F.max_pool2d(x, 2)
        x = self.mixed("layer2", x, weights["layer2"])
        x = self.mixed("layer3", x, weights["layer3"])
        head = segments["head"].layers[1][-1]
        return F.linear(F.relu(x).mean((2, 3)), head.weight, head.bias)

    def uniforms(self, role: Role, purpose: str) -> dict[str, Tensor]:
        rng = self.moment(role).generator(f"{purpose} {role}")
        sizes = [len(self.allowed[layer]) for layer in LAYERS]
        draws = torch.rand(sum(sizes), generator=rng, dtype=torch.float64)
        return dict(zip(LAYERS, draws.split(sizes), strict=True))  # type: ignore[no-untyped-call]

    def by_option(self, layer: str, values: Tensor) -> dict[int, Tensor | float]:
        return dict(zip(self.allowed[layer], values.unbind(), strict=True))

    def own(self, layer: str) -> Tensor:
        return self.alpha[layer][list(self.allowed[layer])]


# Gates.


def softmax(at: Plain, role: Role) -> Weights:
    return {layer: at.by_option(layer, at.own(layer).exp() / at.own(layer).exp().sum()) for layer in LAYERS}


def sigmoid(at: Plain, role: Role) -> Weights:
    return {layer: at.by_option(layer, 1 / (1 + (-at.own(layer)).exp())) for layer in LAYERS}


def weights_of(gates: Tensor) -> Weights:
    """All options of all layers, (12,)."""
    parts = gates.view(3, 4)
    return {layer: dict(enumerate(part.unbind())) for layer, part in zip(LAYERS, parts, strict=True)}


def uniform_path(at: Plain, role: Role) -> Weights:
    rng = at.moment(role).generator("path")
    return {layer: {int(torch.randint(4, (), generator=rng)): 1.0} for layer in LAYERS}


def relaxed(temperature: Callable[[int], float]) -> Callable[[Plain, Role], Weights]:
    """softmax((log p + Gumbel) / temperature)."""

    def gates(at: Plain, role: Role) -> Weights:
        draws = at.uniforms(role, "gumbel")
        found: Weights = {}
        for layer in LAYERS:
            log_p = at.own(layer) - at.own(layer).exp().sum().log()
            noisy = ((log_p - (-draws[layer].log()).log()) / temperature(at.step)).exp()
            found[layer] = at.by_option(layer, noisy / noisy.sum())
        return found

    return gates


def hard(temperature: Callable[[int], float]) -> Callable[[Plain, Role], Weights]:
    """One at the largest relaxed sample, with its gradient."""

    def gates(at: Plain, role: Role) -> Weights:
        found: Weights = {}
        for layer, weights in relaxed(temperature)(at, role).items():
            option, weight = max(weights.items(), key=lambda item: float(torch.as_tensor(item[1]).detach()))
            assert isinstance(weight, Tensor)
            found[layer] = {option: 1.0 + weight - weight.detach()}
        return found

    return gates


def linear_10_to_01(step: int) -> float:
    return 10.0 + (0.1 - 10.0) * step / STEPS


# Gradients by alpha.


def gradient(loss: Tensor, alpha: Alpha) -> list[Tensor]:
    found = torch.autograd.grad(loss, list(alpha.values()), allow_unused=True)
    return [torch.zeros_like(a) if g is None else g for g, a in zip(found, alpha.values(), strict=True)]


class Case:
    """A transcript: override what differs from first-order DARTS."""

    recipe: str = "darts"
    more: Sequence[str] = ()  # recipe files on top, for what is a stage of several
    changes: Mapping[str, Any] = {}
    rate = 0.1
    rate_of_alpha = 3e-3
    joined = False
    clips = True
    betas = (0.5, 0.999)
    decay = 1e-3

    def gates(self, at: Plain, role: Role) -> Weights:
        return softmax(at, role)

    def learns(self, at: Plain) -> bool:
        return True

    def extra(self, at: Plain) -> Tensor:
        """What alpha learns beside the loss."""
        return torch.zeros((), dtype=torch.float64)

    def objective(self, at: Plain) -> Tensor:
        return at.loss("search", self.gates(at, "policy")) + self.extra(at)

    def by_alpha(self, at: Plain) -> list[Tensor]:
        return gradient(self.objective(at), at.alpha)

    def weights_loss(self, at: Plain) -> Tensor:
        return at.loss("train", self.gates(at, "weights"))

    def before_step(self, at: Plain) -> bool:
        """What happens between epochs; True ends the training."""
        return False

    def after_alpha(self, at: Plain) -> None:
        """What follows alpha's step."""

    def after_weights(self, at: Plain) -> None:
        """What follows the weights' step."""

    def check(self, policy: Policy) -> None:
        """What the policy must hold in the end, beside alpha."""


class Spos(Case):
    recipe = "spos"
    clips = False

    def gates(self, at: Plain, role: Role) -> Weights:
        return uniform_path(at, role)

    def learns(self, at: Plain) -> bool:
        return False


class FairNAS(Spos):
    """Four paths, each option of a layer in one of them; the gradients are added up."""

    recipe = "fairnas"

    def weights_loss(self, at: Plain) -> Tensor:
        rng = at.moment("weights").generator("fair paths")
        orders = {layer: torch.randperm(4, generator=rng).tolist() for layer in LAYERS}
        paths: list[Weights] = [{layer: {order[i]: 1.0} for layer, order in orders.items()} for i in range(4)]
        return sum((at.loss("train", path) for path in paths), torch.zeros((), dtype=torch.float64))


class BenderOneShot(Spos):
    """All options are added up; each is dropped at rate (0.5 t/T)^(1/4), but never all four of a layer."""

    recipe = "bender_oneshot"

    def gates(self, at: Plain, role: Role) -> Weights:
        rate = 0.5 * at.step / STEPS
        if rate == 0:
            return {layer: dict.fromkeys(range(4), 1.0) for layer in LAYERS}
        rng, dropped = at.moment(role).generator("path_dropout"), rate**0.25
        found: Weights = {}
        for layer in LAYERS:
            kept: list[int] = []
            for option, draw in enumerate(torch.rand(4, generator=rng, dtype=torch.float64).tolist()):
                some = 1.0 if kept else 1.0 - dropped ** (4 - option)  # that one of those left stays
                if draw < (1.0 - dropped) / some:
                    kept.append(option)
            found[layer] = dict.fromkeys(kept, 1.0)
        assert {len(weights) for weights in found.values()} - {4}, "nothing was dropped: take another seed"
        return found


class MctSampling(Spos):
    """Children of a node that were never visited come first; a path earns the average loss over its own."""

    recipe = "mct_sampling"
    changes = {"tricks.weight_warmup": "null"}

    def gates(self, at: Plain, role: Role) -> Weights:
        if at.step == 0:
            self.nodes, self.average = dict[tuple[int, ...], list[float]](), 0.0
        rng, path = at.moment(role).generator("path"), tuple[int, ...]()
        for _ in LAYERS:  # of four children, two steps leave some unvisited
            fresh = [i for i in range(4) if (*path, i) not in self.nodes]
            path += (fresh[int(torch.randint(len(fresh), (), generator=rng))],)
        self.path = path
        return {layer: {option: 1.0} for layer, option in zip(LAYERS, path, strict=True)}

    def weights_loss(self, at: Plain) -> Tensor:
        loss = super().weights_loss(at)
        own = float(loss.detach())
        self.average = own if at.step == 0 else 0.9 * self.average + 0.1 * own
        for depth in range(4):
            self.nodes.setdefault(self.path[:depth], []).append(self.average / own)
        return loss

    def check(self, policy: Policy) -> None:
        assert isinstance(policy, MonteCarloTree)
        assert len(policy.nodes) == 7  # the root and two paths that part there
        assert policy.nodes == {
            prefix: (len(earned), pytest.approx(sum(earned), abs=1e-8)) for prefix, earned in self.nodes.items()
        }


class Tunas(Spos):
    """All options on in the first step; then REINFORCE from accuracy - 0.1 |FLOPs / target - 1|, baseline zero."""

    recipe = "tunas"
    flops = (0.0, 2 * 64 * 16 * (9 + 16), 2 * 64 * 16 * (25 + 16), 0.0)

    def drawn(self, at: Plain, purpose: str, paths: int) -> Tensor:
        """Options (3, paths): in each layer the one whose clock of rate p rings first."""
        clocks = torch.empty(3, paths, 4, dtype=torch.float64)
        clocks.exponential_(generator=at.moment("weights").generator(purpose))
        return (self.logits.detach().exp()[:, None] / clocks).argmax(2)

    def gates(self, at: Plain, role: Role) -> Weights:
        if at.step == 0:
            self.logits = torch.zeros(3, 4, dtype=torch.float64, requires_grad=True)
            self.adam = torch.optim.Adam([self.logits], lr=1e-2, betas=(0.0, 0.999))
            return {layer: dict.fromkeys(range(4), 0.25) for layer in LAYERS}
        return self.path(self.drawn(at, "path", 1)[:, 0])

    def path(self, options: Tensor) -> Weights:
        return {layer: {option: 1.0} for layer, option in zip(LAYERS, options.tolist(), strict=True)}

    def after_weights(self, at: Plain) -> None:
        if not warm(0.25)(at):
            return
        drawn = self.drawn(at, "controller", 4)
        gain = torch.zeros((), dtype=torch.float64)
        log_p = self.logits - self.logits.exp().sum(1, keepdim=True).log()
        for options in drawn.T:
            kept = {name: b.clone() for name, b in at.network.named_buffers()}
            with torch.no_grad():
                images, labels = at.batch("search")
                hits = at.logits(images, self.path(options)).argmax(1) == labels
            for name, b in at.network.named_buffers():
                b.copy_(kept[name])
            cost = 2 * (64 * 16 * 9 + 16 * 10)
            cost += sum(self.flops[i] * part for i, part in zip(options.tolist(), (1.0, 0.25, 0.25), strict=True))
            reward = float(hits.double().mean()) - 0.1 * abs(cost / 69440 - 1)
            gain = gain + reward * log_p[torch.arange(3), options].sum() / 4
        self.logits.grad = torch.autograd.grad(-gain, self.logits)[0]
        self.adam.step()

    def check(self, policy: Policy) -> None:
        assert isinstance(policy, Independent)
        torch.testing.assert_close(policy.logits.detach(), self.logits.detach(), rtol=1e-8, atol=1e-8)
        assert bool(policy.logits.detach().any())


class SecondOrder(Case):
    """By finite differences, as the paper's equation 8, with the virtual step of SGD with momentum."""

    recipe = "darts_second_order"

    def by_alpha(self, at: Plain) -> list[Tensor]:
        parameters = at.weights.parameters
        gates = {layer: dict(w) for layer, w in self.gates(at, "policy").items()}
        now = [p.detach().clone() for p in parameters]
        on_train = torch.autograd.grad(at.loss("train", gates), parameters)
        with torch.no_grad():
            for p, moved in zip(parameters, at.weights.ahead(on_train, at.rate), strict=True):
                p.copy_(moved)
        outer = torch.autograd.grad(
            at.loss("search", self.gates(at, "policy")), [*at.alpha.values(), *parameters], allow_unused=True
        )
        direct, v = outer[: len(at.alpha)], outer[len(at.alpha) :]
        epsilon = 0.01 / torch.stack([g.norm() for g in v]).norm()
        sides = []
        for sign in (1.0, -1.0):
            with torch.no_grad():
                for p, w, g in zip(parameters, now, v, strict=True):
                    p.copy_(w + sign * epsilon * g)
            sides.append(gradient(at.loss("train", self.gates(at, "policy")), at.alpha))
        with torch.no_grad():
            for p, w in zip(parameters, now, strict=True):
                p.copy_(w)
        # w' = w - rate (g + 0.9 (0.9 v + g)): the gradient g enters it 1.9 times.
        step = 1.9 * at.rate
        return [d - step * (plus - minus) / (2 * epsilon) for d, plus, minus in zip(direct, *sides, strict=True)]


class ExactSecondOrder(SecondOrder):
    """Differentiation through the virtual step itself."""

    changes = {"model.init_args.estimator.init_args.hessian_vector": "exact"}

    def by_alpha(self, at: Plain) -> list[Tensor]:
        names = [name for name, _ in at.network.named_parameters()]
        gates = self.gates(at, "policy")
        on_train = torch.autograd.grad(at.loss("train", gates), at.weights.parameters, create_graph=True)
        ahead = dict(zip(names, at.weights.ahead(on_train, at.rate), strict=True))

        class Loss(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.network = at.network

            def forward(self) -> Tensor:
                return at.loss("search", gates)

        moved = {f"network.{name}": w for name, w in ahead.items()}
        return gradient(torch.func.functional_call(Loss(), moved, ()), at.alpha)


class MixedLevel(Case):
    recipe = "milenas"

    def objective(self, at: Plain) -> Tensor:
        gates = self.gates(at, "policy")
        return at.loss("search", gates) + 1.0 * at.loss("train", gates)


class SingleLevel(Case):
    recipe = "single_level"
    joined = True


def expected_flops(at: Plain, gates: Callable[[Plain, Role], Weights] = softmax) -> Tensor:
    """Of a child drawn by the gates' shares, relative to the mean of the space, from the sizes of tiny64 on digits."""
    base = 2 * (64 * 16 * 9 + 16 * 10)
    separable = {0: 0.0, 1: 2 * 64 * 16 * (9 + 16), 2: 2 * 64 * 16 * (25 + 16), 3: 0.0}
    total, mean = torch.tensor(float(base), dtype=torch.float64), float(base)
    for layer, part in (("layer1", 1.0), ("layer2", 0.25), ("layer3", 0.25)):  # the pooling leaves a quarter
        weights = gates(at, "policy")[layer]
        whole = sum(weights.values(), torch.zeros((), dtype=torch.float64))
        for option, weight in weights.items():
            total = total + weight / whole * part * separable[option]
        mean += part * sum(separable.values()) / 4
    return total / mean


def warm(part: float) -> Callable[[Plain], bool]:
    """Whether alpha's warm-up of a part of the run is over."""
    return lambda at: at.step / STEPS >= part


class FBNet(Case):
    recipe = "fbnet"

    def gates(self, at: Plain, role: Role) -> Weights:
        return relaxed(lambda step: max(0.03, 5.0 * math.exp(-0.045 * step)))(at, role)

    def learns(self, at: Plain) -> bool:
        return warm(0.1)(at)

    def extra(self, at: Plain) -> Tensor:
        return 0.02 * expected_flops(at)


class ProxylessNAS(Case):
    """Two sampled paths teach alpha: dL/dalpha_i = sum_j dL/dg_j p_j (delta_ij - p_i); the pair is shifted back."""

    recipe = "proxylessnas"
    rate_of_alpha = 6e-3
    betas = (0.0, 0.999)
    decay = 0.0

    def drawn(self, at: Plain, role: Role) -> dict[str, tuple[list[int], int]]:
        rng = at.moment(role).generator(f"binary gates {role}")
        found = {}
        for layer in LAYERS:
            p = torch.softmax(at.alpha[layer].detach(), 0)
            pair = torch.multinomial(p, 2 if role == "policy" else 1, generator=rng).tolist()
            on = int(torch.multinomial(p[pair], 1, generator=rng)) if role == "policy" else 0
            found[layer] = (pair, on)
        return found

    def gates(self, at: Plain, role: Role) -> Weights:
        return {layer: {pair[0]: 1.0} for layer, (pair, _) in self.drawn(at, role).items()}

    def learns(self, at: Plain) -> bool:
        return warm(0.3)(at)

    def by_alpha(self, at: Plain) -> list[Tensor]:
        drawn = self.drawn(at, "policy")
        g = {layer: torch.zeros(2, dtype=torch.float64) for layer in LAYERS}
        for layer, (_, on) in drawn.items():
            g[layer][on] = 1.0
            g[layer].requires_grad_()
        weights: Weights = {layer: dict(zip(drawn[layer][0], g[layer].unbind(), strict=True)) for layer in LAYERS}
        by_gate = torch.autograd.grad(at.loss("search", weights), list(g.values()))
        found = gradient(0.1 * (expected_flops(at) - 1.0).abs(), at.alpha)
        self.before = {layer: at.alpha[layer].detach()[drawn[layer][0]].clone() for layer in LAYERS}
        for number, layer in enumerate(LAYERS):
            pair = drawn[layer][0]
            p = at.alpha[layer].detach()[pair].exp()
            p = p / p.sum()
            for i in range(2):
                delta = torch.eye(2, dtype=torch.float64)[i]
                found[number][pair[i]] += (by_gate[number] * p * (delta - p[i])).sum()
        self.pairs = {layer: drawn[layer][0] for layer in LAYERS}
        return found

    def after_alpha(self, at: Plain) -> None:
        with torch.no_grad():
            for layer, pair in self.pairs.items():
                now = at.alpha[layer][pair]
                at.alpha[layer][pair] = now + (self.before[layer].exp().sum() / now.exp().sum()).log()


class DartsPlus(Case):
    """The second epoch begins unless the strongest options hold two identities; a ranking is not stable that early."""

    recipe = "darts_plus"

    def before_step(self, at: Plain) -> bool:
        return sum(int(at.alpha[layer].detach().argmax()) == 3 for layer in LAYERS) >= 2


class DartsPlusGoesOn(DartsPlus):
    changes = {"seed_everything": 1}


class RobustDarts(Case):
    """The stop measures, and is told never to speak: the two epochs are those of DARTS."""

    recipe = "rdarts"
    changes = {
        **{f"tricks.early_stop_hessian.{key}": 1 for key in ("window", "distance", "first_epoch")},
        "tricks.early_stop_hessian.factor": 1e9,
    }


class GoldNAS(Case):
    """One level, sigmoid gates, a growing penalty; sigmoids near one half are above the pruning threshold."""

    recipe = "goldnas"
    joined = True
    rate_of_alpha = 3e-2

    def gates(self, at: Plain, role: Role) -> Weights:
        return sigmoid(at, role)

    def extra(self, at: Plain) -> Tensor:
        return 1.0 * (at.step / STEPS) * expected_flops(at, sigmoid)


class Cpnas(Case):
    """Of two epochs the second begins with the strongest option of each choice alone."""

    recipe = "cpnas"

    def before_step(self, at: Plain) -> bool:
        at.allowed = {layer: (int(at.alpha[layer].detach().argmax()),) for layer in LAYERS}
        return False


class FairDarts(Case):
    recipe = "fairdarts"

    def gates(self, at: Plain, role: Role) -> Weights:
        return sigmoid(at, role)

    def extra(self, at: Plain) -> Tensor:
        gates = torch.stack([torch.as_tensor(w) for layer in LAYERS for w in sigmoid(at, "policy")[layer].values()])
        return -10.0 * ((gates - 0.5) ** 2).sum() / len(gates)


class PcDarts(Case):
    """A quarter of the channels goes through the operations, the rest passes by, and all are shuffled."""

    recipe = "pcdarts"
    parts = 4

    def learns(self, at: Plain) -> bool:
        at.parts = self.parts
        return warm(0.3)(at)


class SdartsRs(Case):
    recipe = "sdarts_rs"

    def box(self, at: Plain) -> tuple[float, Tensor]:
        """Half-width, and a uniform point of the box."""
        epsilon = 0.03 + (0.3 - 0.03) * at.step / STEPS
        draws = torch.rand(12, generator=at.moment("weights").generator("arch_perturbation"), dtype=torch.float64)
        return epsilon, epsilon * (2 * draws - 1)

    def shift(self, at: Plain, centre: Tensor) -> Tensor:
        return self.box(at)[1]

    def gates(self, at: Plain, role: Role) -> Weights:
        if role == "policy":
            return softmax(at, role)
        centre = torch.cat([torch.softmax(at.alpha[layer].detach(), 0) for layer in LAYERS])
        return weights_of(centre + self.shift(at, centre))


class SdartsAdv(SdartsRs):
    """Seven steps of sign ascent in eval mode, projected to the box; taken back where the loss has not risen."""

    recipe = "sdarts_adv"

    def shift(self, at: Plain, centre: Tensor) -> Tensor:
        epsilon, delta = self.box(at)
        at.network.eval()
        for _ in range(7):
            delta = delta.detach().requires_grad_()
            (g,) = torch.autograd.grad(at.loss("train", weights_of(centre + delta)), delta)
            delta = (delta.detach() + 2 * epsilon / 7 * g.sign()).clamp(-epsilon, epsilon)
        with torch.no_grad():
            rises = at.loss("train", weights_of(centre + delta)) > at.loss("train", weights_of(centre))
        at.network.train()
        return delta if bool(rises) else torch.zeros_like(delta)


class DartsMinus(Case):
    """Beside every layer its own input, with a weight that falls from one to zero."""

    recipe = "darts_minus"

    def learns(self, at: Plain) -> bool:
        at.bypass = 1.0 - at.step / STEPS
        return True


class Gdas(Case):
    recipe = "gdas"

    def gates(self, at: Plain, role: Role) -> Weights:
        return hard(linear_10_to_01)(at, role)


class Snas(Case):
    recipe = "snas"
    joined = True

    def gates(self, at: Plain, role: Role) -> Weights:
        return relaxed(lambda step: max(0.03, 1.0 * math.exp(-0.07 * step)))(at, role)


class PDarts(Case):
    """A later stage of P-DARTS: three options a layer, alpha frozen for an epoch, fading dropout behind identities."""

    more = ("tricks/op_dropout",)
    kept = {"layer1": (0, 1, 3), "layer2": (1, 2, 3), "layer3": (0, 2, 3)}
    rate_of_alpha = 6e-3
    changes = {
        "model.init_args.policy_optimizer.init_args.lr": 6e-3,
        "model.init_args.allowed": json.dumps(kept),
        "tricks.weight_warmup.epochs": 1,
        "tricks.op_dropout.probability": 0.4,
    }

    def learns(self, at: Plain) -> bool:
        at.allowed, at.dropped = dict(self.kept), 0.4 * math.exp(-3.0 * at.step / STEPS)
        return at.step >= 1

    def objective(self, at: Plain) -> Tensor:
        with forked_rng(0, at.step, "policy", 0, "forward", 0):
            return super().objective(at)

    def weights_loss(self, at: Plain) -> Tensor:
        with forked_rng(0, at.step, 0, 0, "forward", 0):
            return super().weights_loss(at)


class DartsPt(Case):
    """The projection of DARTS-PT, all three layers at once: what is missed most stays, then the weights are tuned."""

    more = ("tricks/op_projection",)
    rate = 0.01
    changes = {"model.init_args.optimizer.init_args.lr": rate, "tricks.op_projection.at_once": 3}

    def before_step(self, at: Plain) -> bool:
        order = torch.randperm(3, generator=generator(0, "op_projection", "None", 3)).tolist()
        for layer in [LAYERS[place] for place in order]:
            without = [self.accuracy(at, layer, option) for option in range(4)]
            at.allowed[layer] = (without.index(min(without)),)
        return False

    def accuracy(self, at: Plain, layer: str, option: int) -> float:
        """Of the supernet without an option, by the statistics of each validation batch."""
        gates = {name: dict(weights) for name, weights in softmax(at, "evaluation").items()}
        del gates[layer][option]
        hits = 0
        buffers = {name: b.clone() for name, b in at.network.named_buffers()}
        with torch.no_grad():
            for batch in at.run.data.evaluation_batches("validation"):
                hits += int((at.logits(batch.images.double(), gates).argmax(1) == batch.labels).sum())
        for name, b in at.network.named_buffers():
            b.copy_(buffers[name])
        return float(hits)


CASES: dict[str, Case] = {
    case.__name__: case()
    for case in (
        Spos,
        FairNAS,
        BenderOneShot,
        MctSampling,
        Tunas,
        Case,
        SecondOrder,
        ExactSecondOrder,
        MixedLevel,
        SingleLevel,
        Gdas,
        Snas,
        FBNet,
        ProxylessNAS,
        DartsPlus,
        DartsPlusGoesOn,
        GoldNAS,
        RobustDarts,
        Cpnas,
        FairDarts,
        PcDarts,
        SdartsRs,
        SdartsAdv,
        DartsMinus,
        PDarts,
        DartsPt,
    )
}
TOLD_ELSEWHERE = {
    "autoslim": "tests/modules/test_elastic_transcripts.py",
    "bignas": "tests/modules/test_elastic_transcripts.py",
    "enas": "tests/estimators/test_enas.py",
    "ofa": "tests/modules/test_elastic_transcripts.py",
}


class Start(pl.Callback):
    """Copies network and alpha before the first step, after the tricks' surgery."""

    def __init__(self) -> None:
        self.network: nn.Module = nn.Identity()
        self.alpha: Alpha = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.network = copy.deepcopy(pl_module.networks[0])
        policy = pl_module.policy.operations if isinstance(pl_module.policy, EdgeNormalised) else pl_module.policy
        if hasattr(policy, "alpha"):
            self.alpha = {name: a.detach().clone().requires_grad_() for name, a in policy.alpha.items()}


def keeping_buffers(network: nn.Module, compute: Callable[[], list[Tensor]]) -> list[Tensor]:
    """What alpha learns from leaves the running statistics alone."""
    kept = {name: b.clone() for name, b in network.named_buffers()}
    found = compute()
    for name, b in network.named_buffers():
        b.copy_(kept[name])
    return found


def transcribe(case: Case, run: Run, start: Start) -> Plain:
    """Take the steps in plain PyTorch."""
    at = Plain(run, start.network.double().train(), start.alpha)
    optimizer = (
        torch.optim.Adam(list(at.alpha.values()), lr=case.rate_of_alpha, betas=case.betas, weight_decay=case.decay)
        if at.alpha
        else None
    )
    for at.step in range(STEPS):
        at.rate = cosine_rate(case.rate, at.step)
        if at.step and case.before_step(at):
            break
        learns = case.learns(at) and optimizer is not None
        if learns and not case.joined and optimizer is not None:
            found = keeping_buffers(at.network, lambda: case.by_alpha(at))
            for a, g in zip(at.alpha.values(), found, strict=True):
                a.grad = g
            optimizer.step()
            case.after_alpha(at)
        for parameter in [*at.network.parameters(), *at.alpha.values()]:
            parameter.grad = None
        loss = case.weights_loss(at)
        (loss + case.extra(at) if case.joined else loss).backward()
        with torch.no_grad():
            gradients = [p.grad for p in at.network.parameters() if p.grad is not None]
            norm = torch.stack([g.norm() for g in gradients]).norm()
            if case.clips:
                for g in gradients:
                    g *= min(1.0, 5.0 / (float(norm) + 1e-6))
        if learns and case.joined and optimizer is not None:
            optimizer.step()
        at.weights.step(at.rate)
        case.after_weights(at)
    return at


def close(found: nn.Module, expected: nn.Module) -> None:
    states = found.state_dict(), expected.state_dict()
    assert states[0].keys() == states[1].keys()
    for key, value in states[0].items():
        torch.testing.assert_close(value, states[1][key], rtol=1e-8, atol=1e-8, msg=lambda m, key=key: f"{key}: {m}")


def ran(case: Case) -> tuple[Run, Start]:
    stack = [
        f"recipes/{name}.yaml" for name in ("spaces/tiny64", "data/digits", f"algorithms/{case.recipe}", *case.more)
    ]
    overrides = [f"--{key}={value}" for key, value in {**TWO_STEPS, **case.changes}.items()]
    run, start = build(resolve(stack, overrides), None, quiet=True), Start()
    run.trainer.callbacks.append(start)  # type: ignore[attr-defined]
    run.fit()
    return run, start


@pytest.mark.parametrize("name", CASES)
def test_two_steps_equal_the_equations(name: str) -> None:
    case = CASES[name]
    run, start = ran(case)
    before = copy.deepcopy(start.network)
    alpha_before = {layer: a.detach().clone() for layer, a in start.alpha.items()}
    at = transcribe(case, run, start)
    assert run.module.steps_seen == (1 if name == "DartsPlus" else STEPS)
    close(run.module.networks[0], at.network)
    case.check(run.module.policy)
    for layer, a in at.alpha.items():
        torch.testing.assert_close(run.module.policy.alpha[layer], a, rtol=1e-8, atol=1e-8)  # type: ignore[index, union-attr]
        assert not torch.equal(a, alpha_before[layer])
    with pytest.raises(AssertionError):
        close(before, at.network)  # two steps have moved it


def test_two_steps_of_few_shot_equal_the_equations(tmp_path: Path) -> None:
    """Sub-supernets of layer 2 start from the one-shot weights; a path trains the one of its option, and no other."""
    stack = ["recipes/spaces/tiny64.yaml", "recipes/data/digits.yaml", "recipes/algorithms/spos.yaml"]
    overrides = [f"--{key}={value}" for key, value in TWO_STEPS.items()]
    one_shot = build(resolve(stack, overrides), tmp_path / "one_shot", quiet=True)
    one_shot.fit()
    shared = {
        name: value.float().double() if value.is_floating_point() else value  # networks are built in single precision
        for name, value in one_shot.module.networks[0].state_dict().items()
    }
    later = [*overrides, f"--model.init_args.weights={tmp_path / 'one_shot'}"]
    run = build(resolve([*stack, "recipes/sharing/few_shot.yaml"], later), None, quiet=True)
    run.fit()
    copies = []
    for _ in range(4):
        network = copy.deepcopy(one_shot.module.networks[0]).double().train()
        network.load_state_dict(shared)
        copies.append(Plain(run, network, {}))
    trained = set()
    for step in range(STEPS):
        copies[0].step = step
        path = uniform_path(copies[0], "weights")
        (option,) = path["layer2"]
        at = copies[option]
        at.step = step
        at.network.zero_grad()
        at.loss("train", path).backward()
        at.weights.step(cosine_rate(0.1, step))
        trained.add(option)
    assert len(run.module.networks) == 4
    for option, network in enumerate(run.module.networks):
        expected = copies[option].network.state_dict()
        assert f"segments.layer2.choice.ops.{OPTIONS[option]}" in {name for name, _ in network.named_modules()}
        for name, value in network.state_dict().items():
            torch.testing.assert_close(value, expected[name], rtol=1e-8, atol=1e-8)
        moved = any(not torch.equal(value, shared[name]) for name, value in network.state_dict().items())
        assert moved == (option in trained)


def pc_darts_cell(cell: Any, x: Tensor, alpha: Alpha, beta: Alpha) -> Tensor:
    """Equations 2 and 3 in a cell of nasbench201: a quarter of the channels goes through, edges are normalised."""
    nodes = [x]
    for target in (1, 2, 3):
        total = torch.zeros((), dtype=x.dtype)
        for source in range(target):
            name, h = f"edge{source}{target}", nodes[source]
            shares = alpha[name].exp() / alpha[name].exp().sum()
            own = h.shape[1] // 4
            through, passing = h[:, :own], h[:, own:]
            mixed = sum(
                (shares[i] * cell.edges[name].ops[operation](through) for i, operation in enumerate(OPERATIONS) if i),
                torch.zeros((), dtype=x.dtype),
            )
            order = [part * own + channel for channel in range(own) for part in range(4)]
            out = torch.cat([mixed, passing], dim=1)[:, order]
            weight = beta[f"node{target}"].exp()[source] / beta[f"node{target}"].exp().sum() if target > 1 else 1.0
            total = total + weight * out
        nodes.append(total)
    return nodes[-1]


def test_two_steps_of_pc_darts_with_edge_normalisation_equal_the_equations() -> None:
    """The published settings on cells whose nodes have up to three inputs; alpha and beta do not wait."""
    stack = [f"recipes/{name}.yaml" for name in ("spaces/nasbench201", "data/digits", "algorithms/published/pcdarts")]
    own = {"space.init_args.channels": 4, "space.init_args.cells": 1, "tricks.weight_warmup": "null"}
    # The strengths of an edge's operations and of a node's edges start apart, so that mixing them up would show.
    own |= {"model.init_args.policy.init_args.init_std": 1.0}
    run = build(resolve(stack, [f"--{key}={value}" for key, value in {**TWO_STEPS, **own}.items()]), None, quiet=True)
    start, policy = Start(), run.module.policy
    assert isinstance(policy, EdgeNormalised)
    beta = {node: b.detach().double().clone().requires_grad_() for node, b in policy.beta.items()}
    run.trainer.callbacks.append(start)  # type: ignore[attr-defined]
    run.fit()
    at = Plain(run, start.network.double().train(), start.alpha)
    segments: Any = at.network.get_submodule("segments")

    def loss(split: Any) -> Tensor:
        images, labels = at.batch(split)
        x = pc_darts_cell(segments["stage1_cell1"], segments["stem"].layers(images), at.alpha, beta)
        x = pc_darts_cell(segments["stage2_cell1"], segments["reduction1"](x, {}), at.alpha, beta)
        x = pc_darts_cell(segments["stage3_cell1"], segments["reduction2"](x, {}), at.alpha, beta)
        return F.cross_entropy(segments["head"].layers(x), labels)

    learnt = [*at.alpha.values(), *beta.values()]
    optimizer = torch.optim.Adam(learnt, lr=6e-4, betas=(0.5, 0.999), weight_decay=1e-3)
    velocity: dict[int, Tensor] = {}
    for at.step in range(STEPS):
        rate = cosine_rate(0.1, at.step)
        found = keeping_buffers(at.network, lambda: list(torch.autograd.grad(loss("search"), learnt)))
        for a, g in zip(learnt, found, strict=True):
            a.grad = g
        optimizer.step()
        at.network.zero_grad()
        loss("train").backward()
        parameters = list(at.network.parameters())
        norm = float(torch.stack([p.grad.norm() for p in parameters if p.grad is not None]).norm())
        with torch.no_grad():
            for number, w in enumerate(parameters):
                assert w.grad is not None
                g = w.grad * min(1.0, 5.0 / (norm + 1e-6)) + 3e-4 * w
                velocity[number] = 0.9 * velocity[number] + g if number in velocity else g
                w -= rate * velocity[number]
    close(run.module.networks[0], at.network)
    for node, b in beta.items():
        torch.testing.assert_close(policy.beta[node].detach(), b.detach(), rtol=1e-8, atol=1e-8)
    for edge, a in at.alpha.items():
        torch.testing.assert_close(policy.operations.alpha[edge].detach(), a.detach(), rtol=1e-8, atol=1e-8)


def test_every_recipe_has_its_transcript() -> None:
    shipped = {path.stem for path in Path("recipes/algorithms").glob("*.yaml")}
    assert shipped == {case.recipe for case in CASES.values()} | set(TOLD_ELSEWHERE)
