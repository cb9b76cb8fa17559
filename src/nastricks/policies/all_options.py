"""Every option at once: the one-shot model of Bender et al. 2018 (section 3.2)."""

import torch

from nastricks.moment import Moment
from nastricks.policies.base import Policy
from nastricks.spaces import Gate, Gates, Space


class AllOptions(Policy):
    """All allowed options of every choice run; the trick `path_dropout` leaves some out.

    Args:
        space: The space whose options run.
        average: Whether the outputs of a choice are averaged (TuNAS) or added up (Bender et al.).
    """

    mixed = True

    def __init__(self, space: Space, average: bool = True) -> None:
        super().__init__(space)
        self.average = average

    def propose(self, moment: Moment) -> list[Gates]:
        gates: dict[str, Gate] = {}
        for choice in self.space.choices:
            options = self.allowed[choice.name]
            weights = torch.full((len(options),), 1 / len(options), device=moment.device) if self.average else None
            gates[choice.name] = Gate(options, weights)
        return [gates]
