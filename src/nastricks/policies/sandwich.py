"""The sandwich rule: the largest, some random and the smallest child every step (BigNAS, section 3.1)."""

from nastricks.errors import InputError
from nastricks.moment import Moment
from nastricks.policies.uniform import UniformPath
from nastricks.spaces import Gates, Space


class Sandwich(UniformPath):
    """The largest child first, then `randoms` uniform ones, then the smallest; their gradients are added up.

    Args:
        space: A space whose choices have an order of sizes (kind ``nested``).
        randoms: Random children a step, at least 0; BigNAS and AutoSlim take 2.
        smallest: Whether the smallest child is trained too.

    Raises:
        InputError: a choice without an order of sizes, or `randoms` below 0.
    """

    def __init__(self, space: Space, randoms: int = 2, smallest: bool = True) -> None:
        super().__init__(space)
        if randoms < 0:
            raise InputError(f"policy.randoms is {randoms}: expected at least 0, such as 2")
        self.randoms, self.smallest = randoms, smallest
        space.largest(self.allowed)

    def propose(self, moment: Moment) -> list[Gates]:
        paths = [self.space.gates(self.space.largest(self.allowed))]
        for number in range(self.randoms):
            paths += super().propose(moment.at(gate_set=number + 1))
        return paths + ([self.space.gates(self.space.smallest(self.allowed))] if self.smallest else [])
