"""The sandwich rule: the largest, some random and the smallest child every step (BigNAS, section 3.1)."""

from collections.abc import Sequence
from typing import ClassVar

from nastricks.errors import InputError
from nastricks.moment import Moment
from nastricks.policies.uniform import UniformPath
from nastricks.spaces import Architecture, Gates, Space


class Sandwich(UniformPath):
    """The largest child first, then `randoms` uniform ones, then the smallest; their gradients are added up.

    Args:
        space: A space whose choices have an order of sizes (kind ``nested``), or any where both ends are named.
        randoms: Random children a step, at least 0; BigNAS and AutoSlim take 2.
        smallest: Whether the smallest child is trained too, or which one counts as such.
        largest: Which child counts as the largest; None takes the one that the space says.

    Raises:
        InputError: a choice without an order of sizes whose ends are not named, or `randoms` below 0.
    """

    keepable: ClassVar[bool] = False

    def __init__(self, space: Space, randoms: int = 2, smallest: bool | str = True, largest: str | None = None) -> None:
        super().__init__(space)
        if randoms < 0:
            raise InputError(f"policy.randoms is {randoms}: expected at least 0, such as 2")
        self.randoms = randoms
        self._largest = None if largest is None else space.parse(largest)
        self._smallest = space.parse(smallest) if isinstance(smallest, str) else None
        self.smallest = smallest is not False
        self.largest_first = randoms > 0 or self.smallest
        self.ends()

    def ends(self) -> list[Architecture]:
        """The largest child, and the smallest where it is trained.

        Raises:
            InputError: the space has no order of sizes and an end is not named, or a named one is not allowed any more.
        """
        ends = [self.space.largest(self.allowed) if self._largest is None else self._largest]
        if self.smallest:
            ends.append(self.space.smallest(self.allowed) if self._smallest is None else self._smallest)
        for end in ends:
            for choice, index in zip(self.space.choices, end, strict=True):
                if index not in self.allowed[choice.name]:
                    raise InputError(
                        f"policy Sandwich trains {self.space.format(end)} in every step, and its "
                        f"{choice.options[index].name} of {choice.name} is not allowed: name another end, or leave it "
                        "to a space of sizes"
                    )
        return ends

    def restrict(self, choice: str, options: Sequence[int]) -> None:
        """As every policy's; a named end that the mask leaves out is refused now, not at the next step."""
        super().restrict(choice, options)
        self.ends()

    def propose(self, moment: Moment) -> list[Gates]:
        largest, *smallest = map(self.space.gates, self.ends())
        randoms = [self._path(moment.at(gate_set=number + 1)) for number in range(self.randoms)]
        return [largest, *randoms, *smallest]
