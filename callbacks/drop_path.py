"""Scheduled drop path: a path is left out for a sample, more often as training goes on.

NASNet (Zoph et al. 2018, section 3: the scheduled kind helps, the fixed kind does not) after FractalNet (Larsson et
al. 2017); DARTS (Liu et al. 2019) drops per sample with 0.2 * epoch / epochs and divides by the keep probability.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from nastricks.errors import InputError
from nastricks.modules.trick import Change, Trick
from nastricks.moment import Moment
from nastricks.spaces import Choice, Gate, Gates, Network

if TYPE_CHECKING:
    from nastricks.modules import TrainingModule


def drop_gate(gate: Gate, choice: Choice, keep: Tensor, keep_probability: float) -> Gate:
    """A gate whose paths run only for the samples that `keep` says; identities always run.

    Where other paths are added to the choice (`dropped: zero`), kept paths are divided by the keep probability, so
    that the sum keeps its expectation. Where the choice is the only way (`dropped: input`), a dropped path passes
    the choice's input through with the path's own weight, and nothing is rescaled.

    Args:
        gate: A options are active.
        choice: The choice that the gate belongs to.
        keep: (A, N) of 0 and 1; or (A, N, P), apart for each of the P places where the choice stands.
        keep_probability: In (0, 1].
    """
    identity = _over_options([choice.options[i].identity for i in gate.active], keep)
    kept = torch.where(identity, torch.ones_like(keep), keep)
    weights = torch.ones_like(keep) if gate.weights is None else _like(gate.weights, keep)
    if choice.dropped == "zero":
        scale = torch.where(identity, 1.0, 1.0 / keep_probability)
        return replace(gate, weights=weights * kept * scale)
    passed = (weights * (1 - kept)).sum(dim=0)
    bypass = passed if gate.bypass is None else _like(gate.bypass, passed) + passed
    return replace(gate, weights=weights * kept, bypass=bypass)


def _over_options(flags: Sequence[bool], keep: Tensor) -> Tensor:
    return _like(torch.tensor(flags, device=keep.device), keep)


def _like(own: Tensor, other: Tensor) -> Tensor:
    """With as many axes as the other, new ones of length 1 last; () stays."""
    return own if own.dim() == 0 else own.reshape(*own.shape, *([1] * (other.dim() - own.dim())))


def places_of(networks: nn.Module) -> dict[str, int]:
    """In how many places each choice stands, in the network that has most of them."""
    places: dict[str, int] = {}
    for module in networks.modules():
        if isinstance(module, Network):
            places.update({name: max(count, places.get(name, 1)) for name, count in module.places.items()})
    return places


def _is_path(choice: Choice, index: int) -> bool:
    """Whether there is anything to drop: no connection and an identity, which always runs, are none.

    Nor is what has no stand-in.
    """
    return choice.dropped != "never" and not (choice.options[index].identity or choice.options[index].absent)


class DropPath(Trick):
    """Drops each active path of each sample on its own, with a probability that rises linearly over the run.

    Cells that share an architecture drop apart.

    Args:
        probability: Drop probability at the end of the run, in [0, 1).

    Raises:
        InputError: `probability` is out of its range.
    """

    changes: ClassVar[Change] = "gates"
    order = 20
    neutral = {"probability": 0.0}

    def __init__(self, probability: float = 0.2) -> None:
        super().__init__()
        if not 0 <= probability < 1:
            raise InputError(f"drop_path.probability is {probability}: expected a number in [0, 1), such as 0.2")
        self.probability = probability
        self._choices: dict[str, Choice] = {}
        self._places: dict[str, int] = {}  # in how many each choice stands, where they are more than one

    def refusal(self, module: "TrainingModule") -> str | None:
        self._choices = {choice.name: choice for choice in module.space.choices}
        self._places = places_of(module.networks)
        allowed = module.policy.allowed
        if not any(_is_path(c, i) for c in module.space.choices for i in allowed[c.name]):
            return (
                "trick drop_path needs a path that is no identity and may be dropped, and this network has none: "
                "leave it out"
            )
        return super().refusal(module)

    def on_gates(self, gates: Gates, at: Moment) -> Gates:
        probability = self.probability * at.progress
        if at.role != "weights" or probability == 0.0:
            return gates
        droppable = {
            name: gate for name, gate in gates.items() if any(_is_path(self._choices[name], i) for i in gate.active)
        }
        if not droppable:
            return gates
        self.act()
        rng = at.generator("drop_path", per_sample=True)
        rows = {name: len(gate.active) * self._places.get(name, 1) for name, gate in droppable.items()}
        draws = torch.rand(sum(rows.values()), at.samples, generator=rng).ge(probability)
        first = next(iter(droppable.values())).weights
        dtype = torch.float32 if first is None else first.dtype
        keep = draws.to(device=at.device, dtype=dtype, non_blocking=True)
        parts = zip(droppable.items(), torch.split(keep, list(rows.values())), strict=True)
        dropped = {
            name: drop_gate(gate, self._choices[name], self._apart(part, len(gate.active)), 1 - probability)
            for (name, gate), part in parts
        }
        return {**gates, **dropped}

    @staticmethod
    def _apart(drawn: Tensor, options: int) -> Tensor:
        """(options * places, N) -> (options, N, places); (options, N) where there is one place."""
        return drawn if len(drawn) == options else drawn.view(options, -1, drawn.shape[1]).transpose(1, 2)

    def first_active_step(self, module: "TrainingModule") -> int:
        """The last step, where the ramp is highest: near its start few samples lose a path."""
        return max(1, round(module.epochs * module.steps_per_epoch) - 1)
