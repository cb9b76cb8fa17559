"""The costs of many children of one space, cheaply where they are sums over choices."""

from nastricks.data.batch import ImageSpec
from nastricks.errors import InputError
from nastricks.spaces.base import Cost, Space
from nastricks.spaces.choices import Architecture
from nastricks.spaces.option_costs import OptionCosts, option_costs


class ChildCosts:
    """`Space.cost` of children, one by one: from the costs of options where these add up, else each built once.

    The first question counts the options, which takes one pass of the supernet without memory or arithmetic.

    Args:
        space: The space of the children.
        spec: The images.
    """

    def __init__(self, space: Space, spec: ImageSpec) -> None:
        self.space, self.spec = space, spec
        self._options: dict[str, OptionCosts] | None = None
        self._known: dict[Architecture, Cost] = {}

    def of(self, architecture: Architecture) -> Cost:
        """Parameters and FLOPs of one image, without an auxiliary head."""
        if self._options is None:
            try:
                self._options = option_costs(self.space, self.spec)
            except InputError:  # a choice is more than which operations run
                self._options = {}
        if architecture not in self._known:
            self._known[architecture] = self._count(architecture, self._options)
        return self._known[architecture]

    def _count(self, architecture: Architecture, options: dict[str, OptionCosts]) -> Cost:
        if not options:
            return self.space.cost(architecture, self.spec)._replace(auxiliary=0)
        return Cost(*(round(options[key].of(self.space, architecture)) for key in ("params", "flops")))
