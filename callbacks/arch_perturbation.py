"""Perturbed gates: the weights learn a loss that is flat around alpha, so that rounding alpha costs little.

SDARTS (Chen & Hsieh 2020, "Stabilizing Differentiable Architecture Search via Perturbation-based Regularization",
section 3): the weights' step sees softmax(alpha) + delta, with delta uniform in a box (SDARTS-RS) or the worst one in
it (SDARTS-ADV); alpha's own step does not.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nastricks.errors import InputError
from nastricks.modules.trick import Change, Need, Trick
from nastricks.moment import Moment
from nastricks.spaces import Gates

if TYPE_CHECKING:
    from nastricks.modules import TrainingModule

Function = Callable[[Tensor], Tensor]


def rescaled(point: Tensor, centre: Tensor, sizes: Sequence[int]) -> Tensor:
    """Gates clamped to [0, 1] and scaled to the sum that each choice has in `centre`, as in the released code.

    Where nothing is left of a choice, its largest gate takes all. `point` and `centre` are (n,), a choice after the
    other with `sizes` gates each.
    """
    made = []
    for part, own in zip(torch.split(point, list(sizes)), torch.split(centre, list(sizes)), strict=True):
        kept = part.clamp(0, 1)
        kept = torch.where(kept.sum() > 0, kept, F.one_hot(part.argmax(), len(part)).to(part))
        made.append(kept * (own.sum() / kept.sum()))
    return torch.cat(made)


def worst_point(
    loss: Function, gradient: Function, centre: Tensor, start: Tensor, epsilon: float, steps: int, legal: Function
) -> Tensor:
    """The point (n,) that projected gradient ascent finds in the box of half-width `epsilon` around `centre`.

    Each step moves every coordinate by 2 * epsilon / steps in the gradient's direction; `legal` follows the projection.
    Where the loss at the end is not above that at the centre, the centre is returned.

    Args:
        loss: (n,) -> ().
        gradient: Of the loss, (n,) -> (n,).
        centre: (n,).
        start: A point of the box, (n,).
        epsilon: Above 0.
        steps: At least 1.
        legal: (n,) -> (n,).
    """
    before, point = loss(centre), start
    for _ in range(steps):
        moved = point + 2 * epsilon / steps * gradient(point).sign()
        point = legal(torch.clamp(moved, centre - epsilon, centre + epsilon))
    return torch.where(loss(point) > before, point, centre)


@contextmanager
def eval_mode(networks: nn.Module) -> Iterator[None]:
    """Eval mode inside the block; every module gets its own mode back."""
    modes = [(module, module.training) for module in networks.modules()]
    networks.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


class Attack:
    """The loss of the running step's training batch as a function of gates, whose weights are one vector (n,).

    The whole batch counts, a micro-batch after the other, and so do those of other ranks: the shift is one for all.

    Args:
        module: Whose step is running.
        gates: One set of gates.
        names: The choices whose gates have weights.
        sizes: How many gates each of them has.
    """

    def __init__(self, module: "TrainingModule", gates: Gates, names: Sequence[str], sizes: Sequence[int]) -> None:
        assert module.current is not None, "gates are perturbed within a training step"
        self.step, self.gates, self.names, self.sizes = module.current, gates, names, list(sizes)
        train = self.step.train
        self.parts = [(part, len(part) / len(train)) for part in train.chunks(module.micro_batches)]

    def _of(self, point: Tensor) -> Iterator[Tensor]:
        for part, share in self.parts:
            weights = zip(self.names, torch.split(point, self.sizes), strict=True)
            moved = {**self.gates, **{name: replace(self.gates[name], weights=w) for name, w in weights}}
            yield self.step.loss(moved, part, role="attack") * share

    @torch.no_grad()
    def loss(self, point: Tensor) -> Tensor:
        """point (n,) -> ()."""
        return self.step.average([torch.stack(list(self._of(point))).sum()])[0]

    @torch.enable_grad()
    def gradient(self, point: Tensor) -> Tensor:
        """point (n,) -> the gradient by it alone (n,); no parameter's is filled."""
        leaf = point.detach().requires_grad_()
        gradients = [torch.autograd.grad(loss, leaf)[0] for loss in self._of(leaf)]
        return self.step.average([torch.stack(gradients).sum(dim=0)])[0]


class ArchPerturbation(Trick):
    """Shifts the weights of the gates in the weights' step by a random or an adversarial perturbation.

    Args:
        kind: `random` draws the shift uniformly from the box, `adversarial` looks for the worst one in it.
        epsilon: Half-width of the box at the end of the run, at least 0.
        epsilon_start: Half-width at the start, at least 0; in between it changes along a line.
        steps: Of the adversarial search, at least 1; each costs a pass there and back.
        clip: Whether shifted gates are made non-negative and scaled to the sum they had, as the released code does.

    Raises:
        InputError: a value is out of its range.
    """

    changes: ClassVar[Change] = "gates"
    needs: ClassVar[tuple[Need, ...]] = ("mixture of options",)
    order = 10  # before drop_path and auxiliary_skip: what the policy proposed is shifted
    neutral = {"epsilon": 0.0, "epsilon_start": 0.0}

    def __init__(
        self,
        kind: Literal["random", "adversarial"] = "random",
        epsilon: float = 0.3,
        epsilon_start: float = 0.03,
        steps: int = 7,
        clip: bool = False,
    ) -> None:
        super().__init__()
        if kind not in ("random", "adversarial"):
            raise InputError(f"arch_perturbation.kind is {kind!r}: expected random or adversarial")
        for key, value in {"epsilon": epsilon, "epsilon_start": epsilon_start}.items():
            if not 0 <= value < float("inf"):
                raise InputError(f"arch_perturbation.{key} is {value}: expected at least 0, such as 0.3")
        if steps < 1:
            raise InputError(f"arch_perturbation.steps is {steps}: expected at least 1, such as 7")
        self.kind, self.epsilon, self.epsilon_start, self.steps, self.clip = kind, epsilon, epsilon_start, steps, clip
        self._module: TrainingModule | None = None
        self._step = -1
        self._shifts: dict[int, Tensor] = {}  # of this step, by set of gates

    def refusal(self, module: "TrainingModule") -> str | None:
        self._module = module
        reason = super().refusal(module)
        if reason is not None:
            return reason
        gates = module.policy.propose(module.moment("weights"))[0]
        if all(gate.weights is None for gate in gates.values()):
            return (
                f"trick arch_perturbation shifts the weights of gates, and {type(module.policy).__name__} gives them "
                "none: let it average its options, or leave the trick out"
            )
        return None

    def first_active_step(self, module: "TrainingModule") -> int:
        return 0 if self.epsilon_start > 0 else 1

    def on_gates(self, gates: Gates, at: Moment) -> Gates:
        epsilon = self.epsilon_start + (self.epsilon - self.epsilon_start) * at.progress
        weights = {name: gate.weights for name, gate in gates.items() if gate.weights is not None}
        if at.role != "weights" or epsilon == 0.0 or not weights:
            return gates
        self.act()
        if self._step != at.step:
            self._step, self._shifts = at.step, {}
        if at.gate_set not in self._shifts:  # micro-batches and second passes [SAM] see the same shift
            self._shifts[at.gate_set] = self._shift(gates, weights, epsilon, at)
        sizes = [len(w) for w in weights.values()]
        # The shift is a constant: a policy that learns in this pass gets the loss's gradient by the shifted gates.
        parts = zip(weights.items(), torch.split(self._shifts[at.gate_set], sizes), strict=True)
        return {**gates, **{name: replace(gates[name], weights=w + part) for (name, w), part in parts}}

    def _shift(self, gates: Gates, weights: Mapping[str, Tensor], epsilon: float, at: Moment) -> Tensor:
        """What is added to these weights of gates, one after the other (n,)."""
        centre, sizes = torch.cat([w.detach() for w in weights.values()]), [len(w) for w in weights.values()]
        draws = torch.rand(len(centre), generator=at.generator("arch_perturbation"), dtype=torch.float64)
        start = centre + (epsilon * (2 * draws - 1)).to(centre.device, centre.dtype, non_blocking=True)

        def legal(point: Tensor) -> Tensor:
            return rescaled(point, centre, sizes) if self.clip else point

        point = legal(start)
        if self.kind == "adversarial":
            assert self._module is not None, "refusal comes first"
            attack = Attack(self._module, gates, list(weights), sizes)
            with eval_mode(self._module.networks):
                point = worst_point(attack.loss, attack.gradient, centre, point, epsilon, self.steps, legal)
        return point - centre
