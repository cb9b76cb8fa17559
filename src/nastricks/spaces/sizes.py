"""Sizes that a choice decides: a smaller one lives inside a larger, and a network has one at a time.

Once-for-all (Cai et al. 2020), BigNAS (Yu et al. 2020), slimmable networks (Yu et al. 2019).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Generic, TypeVar

from nastricks.errors import InputError
from nastricks.spaces.choices import Allowed, Choice, Option
from nastricks.spaces.network import Gate, Gates

Size = TypeVar("Size", int, float)


@dataclass(frozen=True)
class Sizes(Generic[Size]):
    """The values of one size from small to large, and the choice among them: None where there is one value alone."""

    values: tuple[Size, ...]
    choice: Choice | None = None

    def kept(self, allowed: Allowed) -> tuple[Size, ...]:
        """The values that the mask leaves, from small to large."""
        return self.values if self.choice is None else tuple(self.values[i] for i in sorted(allowed[self.choice.name]))

    def of(self, gates: Gates) -> Size:
        """The value under these gates.

        Raises:
            InputError: the gate runs several options, or weighs one.
        """
        return self.values[0] if self.choice is None else self.values[sole(self.choice, gates[self.choice.name])]


def sizes(name: str, dimension: str, values: Sequence[Size], letter: str) -> Sizes[Size]:
    """Sizes with a choice called `name`, whose options are called by a letter and their value, such as ``k3``.

    Raises:
        InputError: there is no value, or they do not rise from one above 0.
    """
    rising = all(a < b for a, b in pairwise(values))
    if not values or not rising or values[0] <= 0:
        raise InputError(
            f"the values of {dimension} are {list(values)}: expected numbers above 0 from small to large, each once"
        )
    if len(values) == 1:
        return Sizes(tuple(values))
    options = tuple(Option(f"{letter}{value:g}") for value in values)
    return Sizes(tuple(values), Choice(name, options, kind="nested", dropped="never", dimension=dimension))


def channel_sizes(channels: int, width: Sizes[float], divisor: int = 8) -> Sizes[int]:
    """The numbers of channels that multipliers make of `channels`, in multiples of `divisor`, under the same choice.

    Raises:
        InputError: two multipliers make the same number.
    """
    made = tuple(divisible(channels * multiplier, divisor) for multiplier in width.values)
    if len(set(made)) < len(made):
        raise InputError(
            f"space.widths {list(width.values)} make {list(made)} of {channels} channels, in multiples of {divisor}: "
            "expected different numbers, so choose multipliers further apart or more channels"
        )
    return Sizes(made, width.choice)


def names(*several: Sizes[Any]) -> tuple[str, ...]:
    """The names of the choices among these sizes, each once, in order."""
    return tuple(dict.fromkeys(one.choice.name for one in several if one.choice is not None))


def sole(choice: Choice, gate: Gate) -> int:
    """The one option that a nested choice's gate runs.

    Raises:
        InputError: several run, or what runs has a weight.
    """
    if len(gate.active) != 1 or gate.weights is not None or gate.bypass is not None:
        raise InputError(
            f"{choice.name} is a size, and a network has one at a time: expected a gate with one active option and "
            f"without weights, got {len(gate.active)} options{'' if gate.weights is None else ' with weights'}"
            f"{'' if gate.bypass is None else ' and a bypass'}"
        )
    return gate.active[0]


def divisible(channels: float, divisor: int = 8) -> int:
    """The nearest multiple of `divisor`, at least one of it, and at least nine tenths of `channels` (MobileNet)."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded
