"""Filter warm-up: early on, choices of a size take the largest now and then, so that all of the weights train.

TuNAS (Bender et al. 2020, "Can Weight Sharing Outperform Random Architecture Search?", op and filter warmup): with
probability p, which falls from 1 to 0 over the first quarter of the search, a choice has its largest number of filters.
The released code draws for each choice on its own, as here.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import torch

from nastricks.errors import InputError
from nastricks.modules.schedule import remaining
from nastricks.modules.trick import Change, Need, Trick
from nastricks.moment import Moment
from nastricks.policies import Policy
from nastricks.spaces import Gates

if TYPE_CHECKING:
    from nastricks.modules import TrainingModule

FILTERS = ("width", "expansion")


def enlarged(gates: Gates, largest: dict[str, int]) -> Gates:
    """The gates with the named choices at these options; the same object where they are already."""
    changed = {n: replace(gates[n], active=(i,)) for n, i in largest.items() if gates[n].active != (i,)}
    return {**gates, **changed} if changed else gates


class FilterWarmup(Trick):
    """Takes the largest allowed size of a choice, with a probability that falls from 1 to 0.

    Args:
        fraction: Part of the run after which it is over, in [0, 1]; the probability falls along a line.
        dimensions: Which sizes: of `width`, `expansion`, `kernel`, `depth` and `resolution` those that the space has;
            None takes the numbers of filters, `width` and `expansion`.

    Raises:
        InputError: `fraction` is out of its range, or `dimensions` is empty.
    """

    changes: ClassVar[Change] = "gates"
    needs: ClassVar[tuple[Need, ...]] = ("supernet",)
    order = 5  # as op_warmup
    neutral = {"fraction": 0.0}

    def __init__(self, fraction: float = 0.25, dimensions: list[str] | None = None) -> None:
        super().__init__()
        if not 0 <= fraction <= 1:
            raise InputError(f"filter_warmup.fraction is {fraction}: expected a number in [0, 1], such as 0.25")
        if dimensions is not None and not dimensions:
            raise InputError("filter_warmup.dimensions is empty: name some, such as width, or leave it out")
        self.fraction, self.dimensions = fraction, dimensions
        self._choices: list[str] = []
        self._policy: Policy | None = None

    def refusal(self, module: "TrainingModule") -> str | None:
        reason = super().refusal(module)
        if reason is not None:
            return reason
        self._policy = module.policy
        sizes = [choice for choice in module.space.choices if choice.kind == "nested"]
        known = list(dict.fromkeys(choice.dimension for choice in sizes if choice.dimension is not None))
        unknown = [name for name in self.dimensions or () if name not in known]
        if unknown and known:
            return f"filter_warmup.dimensions names {unknown[0]}: {module.space.name} has {', '.join(known)}"
        wanted = FILTERS if self.dimensions is None else self.dimensions
        self._choices = [choice.name for choice in sizes if choice.dimension in wanted]
        if all(len(module.policy.allowed[name]) < 2 for name in self._choices):
            return (
                f"trick filter_warmup needs a choice of a size, and {module.space.name} has none of "
                f"{', '.join(wanted)}: use op_warmup for operations"
            )
        return None

    def on_gates(self, gates: Gates, at: Moment) -> Gates:
        probability = remaining(at.progress, self.fraction)
        if at.role != "weights" or probability == 0.0:
            return gates
        assert self._policy is not None, "refusal comes first"
        draws = torch.rand(len(self._choices), generator=at.generator("filter_warmup"), dtype=torch.float64).tolist()
        picked = [name for name, draw in zip(self._choices, draws, strict=True) if draw < probability]
        made = enlarged(gates, {name: self._policy.allowed[name][-1] for name in picked})
        if made is not gates:
            self.act()
        return made
