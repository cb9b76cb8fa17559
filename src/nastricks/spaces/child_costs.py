"""The costs of many children of one space, cheaply where they are sums over choices."""

from collections.abc import Mapping
from functools import cached_property

from nastricks.data.batch import ImageSpec
from nastricks.errors import InputError
from nastricks.rng import generator
from nastricks.spaces.base import Cost, Space
from nastricks.spaces.choices import Architecture
from nastricks.spaces.option_costs import OptionCosts, option_costs

PROBES = 2  # children whose cost is counted whole before sums over choices are believed


class ChildCosts:
    """`Space.cost` of children, one by one: from the costs of options where these add up, else each built once.

    The first question counts the options, which takes one pass of the supernet without memory or arithmetic.

    Args:
        space: The space of the children.
        spec: The images.
    """

    def __init__(self, space: Space, spec: ImageSpec) -> None:
        self.space, self.spec = space, spec
        self._known: dict[Architecture, Cost] = {}

    def of(self, architecture: Architecture) -> Cost:
        """Parameters and FLOPs of one image, without an auxiliary head."""
        if architecture not in self._known:
            summed = self.summed
            counted = self._whole(architecture) if summed is None else _sum(summed, self.space, architecture)
            self._known[architecture] = counted
        return self._known[architecture]

    @cached_property
    def summed(self) -> Mapping[str, OptionCosts] | None:
        """Costs as sums over choices; None where they do not add up to what whole children cost."""
        if type(self.space).cost is not Space.cost:
            return None
        try:
            found = option_costs(self.space, self.spec)
        except InputError:  # a choice is more than which operations run
            return None
        rng = generator("costs", self.space.name)
        probes = (self.space.sample(rng) for _ in range(PROBES))
        return found if all(_sum(found, self.space, probe) == self._whole(probe) for probe in probes) else None

    def _whole(self, architecture: Architecture) -> Cost:
        return self.space.cost(architecture, self.spec)._replace(auxiliary=0)


def _sum(options: Mapping[str, OptionCosts], space: Space, architecture: Architecture) -> Cost:
    return Cost(*(round(options[key].of(space, architecture)) for key in ("params", "flops")))
