"""Scheduled drop path: a path is left out for a sample, more often as training goes on.

NASNet (Zoph et al. 2018, section 3: the scheduled kind helps, the fixed kind does not) after FractalNet (Larsson et
al. 2017); DARTS (Liu et al. 2019) drops per sample with 0.2 * epoch / epochs and divides by the keep probability.
"""

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from nastricks.errors import InputError
from nastricks.modules.trick import Change, Trick
from nastricks.moment import Moment
from nastricks.spaces import Choice, Gate, Gates

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
        keep: (A, N) of 0 and 1.
        keep_probability: In (0, 1].
    """
    identity = torch.tensor([choice.options[i].identity for i in gate.active], device=keep.device)[:, None]
    kept = torch.where(identity, torch.ones_like(keep), keep)
    weights = torch.ones_like(keep) if gate.weights is None else gate.weights
    weights = weights[:, None] if weights.dim() == 1 else weights
    if choice.dropped == "zero":
        scale = torch.where(identity, 1.0, 1.0 / keep_probability)
        return Gate(gate.active, weights * kept * scale, gate.bypass)
    passed = (weights * (1 - kept)).sum(dim=0)
    return Gate(gate.active, weights * kept, passed if gate.bypass is None else gate.bypass + passed)


def _is_path(choice: Choice, index: int) -> bool:
    """Whether there is anything to drop: no connection and an identity, which always runs, are none.

    Nor is what has no stand-in.
    """
    return choice.dropped != "never" and not (choice.options[index].identity or choice.options[index].absent)


class DropPath(Trick):
    """Drops each active path of each sample on its own, with a probability that rises linearly over the run.

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

    def refusal(self, module: "TrainingModule") -> str | None:
        self._choices = {choice.name: choice for choice in module.space.choices}
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
        rows = sum(len(gate.active) for gate in droppable.values())
        draws = torch.rand(rows, at.samples, generator=rng).ge(probability)
        first = next(iter(droppable.values())).weights
        dtype = torch.float32 if first is None else first.dtype
        keep = draws.to(device=at.device, dtype=dtype, non_blocking=True)
        parts = torch.split(keep, [len(gate.active) for gate in droppable.values()])
        dropped = {
            name: drop_gate(gate, self._choices[name], part, 1 - probability)
            for (name, gate), part in zip(droppable.items(), parts, strict=True)
        }
        return {**gates, **dropped}

    def first_active_step(self, module: "TrainingModule") -> int:
        """The last step, where the ramp is highest: near its start few samples lose a path."""
        return max(1, round(module.epochs * module.steps_per_epoch) - 1)
