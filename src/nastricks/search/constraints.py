"""What children cost a search, the bounds that it keeps to, and whether any architecture meets them."""

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Literal, get_args

import torch

from nastricks.data import ImageSpec
from nastricks.errors import InputError
from nastricks.rng import generator
from nastricks.search.moves import TRIES, mutate, neighbours
from nastricks.spaces import Architecture, ChildCosts, OptionCosts, Space, read_latency

CostName = Literal["flops", "params", "latency"]
COSTS: tuple[CostName, ...] = get_args(CostName)
UNITS: Mapping[CostName, str] = {"flops": "FLOPs", "params": "parameters", "latency": "milliseconds"}

LISTED = 2_000  # architectures that are counted one by one before a constraint is called impossible
LISTED_SUMMED = 100_000  # the same where a cost is a sum over choices
DRAWN = 64  # architectures that are tried where there are more
STEPS = 4  # changes a choice of a walk among the architectures that meet the bounds


class Costs:
    """Trainable parameters and FLOPs of children, and their latency where a table gives it.

    Counted as `Space.cost` does; in spaces whose costs add up over the choices, as these sums, which are far cheaper.

    Args:
        space: The space.
        spec: What the images are like.
        latency: A table of `nastricks latency`; None where latency is not asked for.

    Raises:
        InputError: a latency table that is not of this space.
    """

    def __init__(self, space: Space, spec: ImageSpec, latency: str | None = None) -> None:
        self.space = space
        self._latency = None if latency is None else read_latency(latency, space)
        self._children = ChildCosts(space, spec)

    def of(self, architecture: Architecture) -> Mapping[CostName, float]:
        """Cost name -> cost; parameters and FLOPs are whole numbers, latency is in milliseconds."""
        cost = self._children.of(architecture)
        counted: dict[CostName, float] = {"flops": cost.flops, "params": cost.params}
        if self._latency is not None:
            counted["latency"] = self._latency.of(self.space, architecture)
        return counted

    @property
    def summed(self) -> Mapping[str, OptionCosts] | None:
        """Costs as sums over choices; None where they do not add up to what whole children cost."""
        return self._children.summed

    def ends(self) -> tuple[Mapping[CostName, float], Mapping[CostName, float]]:
        """What no architecture is below, and none above, as far as that is known."""
        if all(choice.kind == "nested" for choice in self.space.choices):
            options = self.space.all_options()
            return self.of(self.space.smallest(options)), self.of(self.space.largest(options))
        tables: dict[CostName, OptionCosts] = {} if self._latency is None else {"latency": self._latency}
        if self.summed is not None:
            tables |= {"flops": self.summed["flops"], "params": self.summed["params"]}
        low = {name: t.base + sum(map(min, t.options.values())) for name, t in tables.items()}
        return low, {name: t.base + sum(map(max, t.options.values())) for name, t in tables.items()}


class Constraints:
    """Bounds on what an architecture costs: `least` <= cost <= `most`, for each cost that is named.

    Args:
        least: Lower bounds.
        most: Upper bounds.
        costs: What architectures cost.

    Raises:
        InputError: a bound that is no positive number, or a lower one above the upper one.
    """

    def __init__(self, least: Mapping[CostName, float], most: Mapping[CostName, float], costs: Costs) -> None:
        for kind, bounds in {"least": least, "most": most}.items():
            for name, bound in bounds.items():
                if not 0 < bound < math.inf:
                    raise InputError(f"search.{kind}.{name} is {bound:g}: expected a number above 0")
        for name in COSTS:
            if least.get(name, 0.0) > most.get(name, math.inf):
                raise InputError(
                    f"search.least.{name} is {least[name]:g} and search.most.{name} {most[name]:g}: expected the least "
                    "to be the smaller one"
                )
        self.least, self.most, self.costs, self.space = dict(least), dict(most), costs, costs.space

    def violations(self, architecture: Architecture) -> dict[str, float]:
        """Bound, such as ``most.flops`` -> by what part of it an architecture is beyond; at most 0 where it is met."""
        cost = self.costs.of(architecture)
        under = {f"least.{name}": 1 - cost[name] / bound for name, bound in self.least.items()}
        return under | {f"most.{name}": cost[name] / bound - 1 for name, bound in self.most.items()}

    def met(self, architecture: Architecture) -> bool:
        return all(value <= 0 for value in self.violations(architecture).values())

    def too_small(self, architecture: Architecture) -> bool:
        """Whether it costs less than a lower bound, so that nothing smaller can meet it."""
        return any(v > 0 for name, v in self.violations(architecture).items() if name.startswith("least."))

    @cached_property
    def witness(self) -> Architecture:
        """An architecture that meets the bounds, always the same one.

        Small spaces are gone through. In others the ends of an order of sizes, then 64 keyed draws are tried, and from
        the nearest of them, and the nearest of each bound, changes of one choice that come nearer.

        Raises:
            InputError: there is none, or, where not all were tried, none was found.
        """
        every = self.space.size <= (LISTED if self.costs.summed is None else LISTED_SUMMED)
        tried: dict[Architecture, float] = {}
        for architecture in self.space.architectures() if every else self._likely():
            tried[architecture] = self._distance(architecture)
            if tried[architecture] == 0:
                return architecture
        for start in () if every else self._starts(list(tried)):
            here = start
            while (nearer := self._nearer(here, tried)) is not None:
                here = nearer
                if tried[here] == 0:
                    return here
        nearest = min(tried, key=tried.__getitem__)
        raise self._impossible(nearest, len(tried), every or self._certain())

    def _starts(self, drawn: Sequence[Architecture]) -> list[Architecture]:
        """Where it is worth looking nearby: the nearest of all bounds together, and of each."""
        violations = {architecture: self.violations(architecture) for architecture in drawn}
        best = [min(drawn, key=self._distance)]
        for bound in violations[best[0]]:
            best.append(min(drawn, key=lambda a, b=bound: (max(0.0, violations[a][b]), self._distance(a))))  # type: ignore[misc]
        return list(dict.fromkeys(best))

    def _nearer(self, here: Architecture, tried: dict[Architecture, float]) -> Architecture | None:
        """The nearest architecture one change away, if it is nearer."""
        around = neighbours(self.space, here)
        tried.update((a, self._distance(a)) for a in around if a not in tried)
        best = min(around, key=tried.__getitem__, default=here)
        return best if tried[best] < tried[here] else None

    def _distance(self, architecture: Architecture) -> float:
        return sum(max(0.0, value) for value in self.violations(architecture).values())

    def _likely(self) -> Iterator[Architecture]:
        if all(choice.kind == "nested" for choice in self.space.choices):
            options = self.space.all_options()
            yield self.space.smallest(options)
            yield self.space.largest(options)
        rng = generator("constraints", self.space.name)
        for _ in range(DRAWN):
            yield self.space.sample(rng)

    def _certain(self) -> bool:
        """Whether a bound lies beyond what any architecture can cost."""
        low, high = self.costs.ends()
        over = any(low.get(name, 0.0) > bound for name, bound in self.most.items())
        return over or any(high.get(name, math.inf) < bound for name, bound in self.least.items())

    def _impossible(self, nearest: Architecture, tried: int, certain: bool) -> InputError:
        bounds = [
            f"{kind}.{name} {value:g}" for kind in ("least", "most") for name, value in getattr(self, kind).items()
        ]
        cost = self.costs.of(nearest)
        told = ", ".join(f"{cost[name]:,.6g} {UNITS[name]}" for name in dict.fromkeys([*self.least, *self.most]))
        found = "meets" if certain else f"was found among {tried} that meets"
        return InputError(
            f"no architecture of {self.space.name} {found} search.{' and search.'.join(bounds)}: the nearest, "
            f"{self.space.format(nearest)}, has {told}; loosen the bounds"
        )

    def sample(self, rng: torch.Generator) -> Architecture:
        """A random architecture that meets the bounds.

        Uniform where one of 100 uniform draws meets them; else where a walk of keyed mutations ends that starts at
        `witness` and takes every step that stays within them.
        """
        for _ in range(TRIES):
            architecture = self.space.sample(rng)
            if self.met(architecture):
                return architecture
        architecture = self.witness
        for _ in range(STEPS * len(self.space.choices)):
            changed = mutate(self.space, architecture, rng)
            architecture = changed if self.met(changed) else architecture
        return architecture
