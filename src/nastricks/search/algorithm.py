"""One interface for algorithms that search by evaluating architectures: ask for some, tell what came of them."""

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch

from nastricks.errors import InputError
from nastricks.search.constraints import Constraints
from nastricks.search.moves import unseen
from nastricks.spaces import Architecture, Space


@dataclass(frozen=True)
class Proposal:
    """An architecture to evaluate. `epochs`: how long to train it in all; None for the reward's own number."""

    architecture: Architecture
    epochs: int | None = None


@dataclass(frozen=True)
class Outcome:
    """What came of a proposal.

    `reward` is what the search maximises (the stated reward where the child diverged); `params`, `flops` and `latency`
    (in milliseconds) are None where they are unknown.

    Raises:
        InputError: the reward is not a number.
    """

    proposal: Proposal
    reward: float
    params: int | None = None
    flops: int | None = None
    latency: float | None = None

    def __post_init__(self) -> None:
        if math.isnan(self.reward):
            raise InputError(
                f"the reward of {self.proposal.architecture} is nan: expected a number, such as a stated reward for "
                "children that diverge"
            )


class SearchAlgorithm(ABC):
    """Proposes architectures and learns from what came of them; `ask` and `tell` take turns.

    Everything random is keyed by `seed`: an algorithm that is told the same outcomes in the same order proposes the
    same architectures, so an interrupted search is continued by asking and telling it again what is known.
    """

    needs_cost: ClassVar[bool] = False
    """Whether it must be told what the proposed architectures cost."""
    takes_constraints: ClassVar[bool] = True
    """Whether it can keep to what `Constraints` admit."""

    def __init__(self, space: Space, seed: int) -> None:
        self.space, self.seed = space, seed
        self.constraints: Constraints | None = None

    def constrain(self, constraints: Constraints) -> None:
        """Propose only what meets the constraints (or leads there), from the first ask on.

        Raises:
            InputError: this algorithm cannot.
        """
        if not self.takes_constraints:
            raise InputError(
                f"{type(self).__name__} takes no constraints, since what it draws follows from its policy: take costs "
                "off the reward (search.reward.resource), or another algorithm"
            )
        self.constraints = constraints

    def keep_in(self, folder: Path) -> None:  # noqa: B027  most are continued by what they are told
        """Keep in a run folder what helps to continue there, and continue from what an earlier process kept."""

    def admits(self, architecture: Architecture) -> bool:
        """Whether an architecture meets the constraints."""
        return self.constraints is None or self.constraints.met(architecture)

    def draw(self, rng: torch.Generator) -> Architecture:
        """A random architecture that is admitted."""
        return self.space.sample(rng) if self.constraints is None else self.constraints.sample(rng)

    def unseen(self, seen: Collection[Architecture], rng: torch.Generator) -> Architecture | None:
        """A random architecture that is admitted and not among those seen; None where none was found."""
        draw = None if self.constraints is None else self.constraints.sample
        return unseen(self.space, seen, rng, draw, self.admits)

    @abstractmethod
    def ask(self) -> list[Proposal]:
        """The next batch, which may be evaluated in parallel; empty when there is nothing left to ask."""

    @abstractmethod
    def tell(self, outcomes: Sequence[Outcome]) -> None:
        """The outcomes of the last ask, in the order asked; fewer of them only where the budget ends."""

    def asked_epochs(self) -> tuple[int, ...]:
        """The numbers of epochs that proposals name, ascending; () where the reward's own is meant."""
        return ()

    def check_rewards(self, low: float, high: float) -> None:  # noqa: B027  most take any
        """Refuse settings that do not fit rewards between `low` and `high`.

        Raises:
            InputError: a setting that lies outside, such as a fixed baseline.
        """

    def measures(self) -> dict[str, float]:
        """Numbers to log after each tell."""
        return {}


def at_least(name: str, value: int, least: int) -> int:
    """The value, if it is not too small; InputError otherwise."""
    if value < least:
        raise InputError(f"{name} is {value}: expected at least {least}")
    return value


def probability(name: str, value: float) -> float:
    """The value, if it is a probability; InputError otherwise."""
    if not 0 <= value <= 1:
        raise InputError(f"{name} is {value}: expected a probability from 0 to 1")
    return value
