"""The auxiliary skip: every choice's input is added to its output, less and less as the search goes on.

DARTS- (Chu et al. 2021, "DARTS-: Robustly Stepping out of Performance Collapse Without Indicators", equation 4):
output + beta * input, beta from 1 to 0 along a line.
"""

from collections.abc import Collection
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from nastricks.errors import InputError
from nastricks.modules.trick import Change, Trick
from nastricks.moment import Moment
from nastricks.spaces import GatedOps, Gates

if TYPE_CHECKING:
    from nastricks.modules import TrainingModule


def add_skip(gates: Gates, choices: Collection[str], weight: Tensor) -> Gates:
    """The gates with `weight` () added to the bypass of the named choices."""
    passed = {n: replace(g, bypass=weight if g.bypass is None else g.bypass + weight) for n, g in gates.items()}
    return {name: passed[name] if name in choices else gate for name, gate in gates.items()}


class AuxiliarySkip(Trick):
    """Adds beta times its own input to each mixed operation, in the passes that train weights and policy.

    Args:
        start: Beta at the start of the run, at least 0; it falls to 0 along a line.

    Raises:
        InputError: `start` is out of its range.
    """

    changes: ClassVar[Change] = "gates"
    order = 15  # before drop_path, which drops none of it
    neutral = {"start": 0.0}

    def __init__(self, start: float = 1.0) -> None:
        super().__init__()
        if not 0 <= start < float("inf"):
            raise InputError(f"auxiliary_skip.start is {start}: expected at least 0, such as 1")
        self.start = start
        self._choices: frozenset[str] = frozenset()

    def refusal(self, module: "TrainingModule") -> str | None:
        mixed = (m for m in module.networks.modules() if isinstance(m, GatedOps))
        self._choices = frozenset(ops.choice_name for ops in mixed)
        if not self._choices:
            return (
                f"trick auxiliary_skip needs operations whose input can pass beside them, and those of "
                f"{module.space.name} have none: leave it out"
            )
        return super().refusal(module)

    def on_gates(self, gates: Gates, at: Moment) -> Gates:
        beta = self.start * (1 - at.progress)
        if at.role == "evaluation" or beta == 0.0:
            return gates
        self.act()
        return add_skip(gates, self._choices, torch.full((), beta, device=at.device))
