"""Operation warm-up: early on, choices run all of their options now and then, so that every operation trains.

TuNAS (Bender et al. 2020, "Can Weight Sharing Outperform Random Architecture Search?", op and filter warmup): with
probability p, which falls from 1 to 0 over the first quarter of the search, a choice has all operations on, and their
outputs are averaged. The released code draws for each choice on its own, as here.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import torch

from nastricks.errors import InputError
from nastricks.modules.schedule import remaining
from nastricks.modules.trick import Change, Need, Trick
from nastricks.moment import Moment
from nastricks.policies import Policy
from nastricks.spaces import Gate, Gates

if TYPE_CHECKING:
    from nastricks.modules import TrainingModule


def all_on(gate: Gate, options: tuple[int, ...], device: torch.device) -> Gate:
    """The gate with all `options` on, averaged; a bypass stays."""
    return replace(gate, active=options, weights=torch.full((len(options),), 1 / len(options), device=device))


class OpWarmup(Trick):
    """Switches all allowed options of a choice on, averaged, with a probability that falls from 1 to 0.

    Args:
        fraction: Part of the run after which it is over, in [0, 1]; the probability falls along a line.

    Raises:
        InputError: `fraction` is out of its range.
    """

    changes: ClassVar[Change] = "gates"
    needs: ClassVar[tuple[Need, ...]] = ("supernet", "policy of single paths", "network that all paths share")
    order = 5  # first: what is bypassed or dropped for single samples afterwards is what runs
    neutral = {"fraction": 0.0}

    def __init__(self, fraction: float = 0.25) -> None:
        super().__init__()
        if not 0 <= fraction <= 1:
            raise InputError(f"op_warmup.fraction is {fraction}: expected a number in [0, 1], such as 0.25")
        self.fraction = fraction
        self._choices: list[str] = []
        self._policy: Policy | None = None

    def refusal(self, module: "TrainingModule") -> str | None:
        self._policy = module.policy
        self._choices = [choice.name for choice in module.space.choices if choice.kind == "parallel"]
        reason = super().refusal(module)
        if reason is None and all(len(module.policy.allowed[name]) < 2 for name in self._choices):
            return (
                f"trick op_warmup needs a choice between operations, and those of {module.space.name} are others: use "
                "filter_warmup for sizes"
            )
        return reason

    def on_gates(self, gates: Gates, at: Moment) -> Gates:
        probability = remaining(at.progress, self.fraction)
        if at.role != "weights" or probability == 0.0:
            return gates
        assert self._policy is not None, "refusal comes first"
        draws = torch.rand(len(self._choices), generator=at.generator("op_warmup"), dtype=torch.float64).tolist()
        opened = {
            name: all_on(gates[name], options, at.device)
            for name, draw in zip(self._choices, draws, strict=True)
            if draw < probability and len(options := self._policy.allowed[name]) > 1
        }
        if not opened:
            return gates
        self.act()
        return {**gates, **opened}
