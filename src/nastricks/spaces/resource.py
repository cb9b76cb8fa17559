"""What the cost of a child takes off its reward, in a black-box search and in the training of a supernet alike."""

from typing import Literal

from nastricks.errors import InputError
from nastricks.spaces.base import Cost


class Resource:
    """Takes the cost of a child off its reward.

    Args:
        cost: "flops" or "params" of the child.
        target: The cost aimed at, above 0.
        weight: Factor of the term, at least 0.
        kind: "excess": weight * max(0, cost/target - 1). "absolute": weight * abs(cost/target - 1), which also pulls
            small children up (TuNAS: Bender et al. 2020, equation 3, whose beta is minus this weight).

    Raises:
        InputError: a value is out of its range.
    """

    def __init__(
        self,
        target: float,
        weight: float = 0.1,
        cost: Literal["flops", "params"] = "flops",
        kind: Literal["excess", "absolute"] = "excess",
    ) -> None:
        if not 0 < target < float("inf"):
            raise InputError(f"resource.target is {target}: expected a number above 0")
        if not 0 <= weight < float("inf"):
            raise InputError(f"resource.weight is {weight}: expected at least 0")
        self.target, self.weight, self.cost, self.kind = target, weight, cost, kind

    def term(self, cost: Cost) -> float:
        """What is taken off, at least 0."""
        over = getattr(cost, self.cost) / self.target - 1
        return self.weight * (abs(over) if self.kind == "absolute" else max(0.0, over))
