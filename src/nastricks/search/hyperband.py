"""Successive halving and Hyperband: many children trained for a few epochs, the best of them for more.

Papers: Jamieson and Talwalkar 2016, "Non-stochastic Best Arm Identification and Hyperparameter Optimization"; Li et al.
2018, "Hyperband: A Novel Bandit-Based Approach to Hyperparameter Optimization", algorithm 1.

Promotion is our own: the pruners of Optuna are asynchronous (ASHA). They judge a trial when it reports, against those
that reported before it, keep the verdict, and put a trial into a bracket by a hash of its number; none of this gives
rungs of the paper's sizes, or a promotion that does not depend on the order of arrival.
"""

from collections.abc import Sequence
from typing import NamedTuple

from nastricks.errors import InputError
from nastricks.rng import generator
from nastricks.search.algorithm import Outcome, Proposal, SearchAlgorithm, at_least
from nastricks.search.constraints import Constraints
from nastricks.spaces import Architecture, Space


class Rung(NamedTuple):
    """So many architectures, each trained for so many epochs in all."""

    architectures: int
    epochs: int


def bracket(architectures: int, halvings: int, max_epochs: int, eta: int) -> list[Rung]:
    """The rungs of one bracket: n_i = floor(n / eta^i), but at least 1, for r_i = floor(R / eta^(s - i)) epochs."""
    return [Rung(max(1, architectures // eta**i), max_epochs // eta ** (halvings - i)) for i in range(halvings + 1)]


def most_halvings(min_epochs: int, max_epochs: int, eta: int) -> int:
    """s_max: how often `max_epochs` can be divided by eta without falling below `min_epochs`.

    Raises:
        InputError: min_epochs below 1 or above max_epochs, or eta below 2.
    """
    at_least("min_epochs", min_epochs, 1)
    at_least("eta", eta, 2)
    if min_epochs > max_epochs:
        raise InputError(
            f"min_epochs is {min_epochs}, max_epochs is {max_epochs}: expected min_epochs to be the smaller one"
        )
    halvings = 0
    while min_epochs * eta ** (halvings + 1) <= max_epochs:
        halvings += 1
    return halvings


class _Halving(SearchAlgorithm):
    """Runs brackets one after the other, over and over. A rung is one ask, and is judged as a whole."""

    def __init__(self, space: Space, seed: int, brackets: Sequence[tuple[int, int]], max_epochs: int, eta: int) -> None:
        """`brackets`: the architectures and halvings of each."""
        super().__init__(space, seed)
        self.brackets, self.max_epochs, self.eta = tuple(brackets), max_epochs, eta
        self._number, self._rung = -1, 0
        self._rungs: list[Rung] = []
        self._contenders: list[Architecture] = []
        self._next_bracket()

    def constrain(self, constraints: Constraints) -> None:
        super().constrain(constraints)
        self._number = -1
        self._next_bracket()

    def asked_epochs(self) -> tuple[int, ...]:
        halvings = max(s for _, s in self.brackets)
        return tuple(self.max_epochs // self.eta**i for i in range(halvings, -1, -1))

    def ask(self) -> list[Proposal]:
        return [Proposal(architecture, self._rungs[self._rung].epochs) for architecture in self._contenders]

    def tell(self, outcomes: Sequence[Outcome]) -> None:
        self._rung += 1
        if self._rung == len(self._rungs):
            self._next_bracket()
            return
        ranked = sorted(outcomes, key=lambda outcome: -outcome.reward)  # of equal ones the first asked goes on
        survivors = ranked[: self._rungs[self._rung].architectures]
        self._contenders = [outcome.proposal.architecture for outcome in survivors]

    def measures(self) -> dict[str, float]:
        """The bracket (its halvings, the paper's s) and rung that are asked next."""
        return {"bracket": len(self._rungs) - 1, "rung": self._rung}

    def _next_bracket(self) -> None:
        """Random architectures, none twice; fewer where the space has no more."""
        self._number += 1
        self._rung = 0
        architectures, halvings = self.brackets[self._number % len(self.brackets)]
        drawn: dict[Architecture, None] = {}
        for number in range(architectures):
            rng = generator(self.seed, "successive_halving", self._number, number)
            architecture = self.unseen(drawn, rng)
            if architecture is None:
                break
            drawn[architecture] = None
        self._contenders = list(drawn)
        self._rungs = bracket(len(drawn), halvings, self.max_epochs, self.eta)


class SuccessiveHalving(_Halving):
    """Random architectures for `min_epochs`; the best 1/eta of them for eta times as long, and so on.

    When the last rung is done it starts again with other architectures.

    Args:
        min_epochs: Shortest training, at least 1; the first rung's is `max_epochs` divided by eta as often as that
            stays at or above it.
        max_epochs: Training of the last rung.
        eta: At least 2.
        architectures: Of the first rung, at least 1; None for as many as leave one in the last.

    Raises:
        InputError: a value outside its range, or too few architectures to leave one in the last rung.
    """

    def __init__(
        self,
        space: Space,
        seed: int,
        *,
        min_epochs: int = 1,
        max_epochs: int = 27,
        eta: int = 3,
        architectures: int | None = None,
    ) -> None:
        halvings = most_halvings(min_epochs, max_epochs, eta)
        architectures = eta**halvings if architectures is None else architectures
        if architectures < eta**halvings:
            raise InputError(
                f"architectures is {architectures}: expected at least {eta**halvings}, of which {halvings} halvings by "
                "eta leave one; raise min_epochs for fewer halvings"
            )
        super().__init__(space, seed, [(architectures, halvings)], max_epochs, eta)


class Hyperband(_Halving):
    """Brackets of successive halving, from many architectures trained briefly to a few trained for long.

    Bracket s, from s_max down to 0, starts with ceil((s_max + 1) eta^s / (s + 1)) architectures, and its first rung
    trains for max_epochs / eta^s. When all are done it starts again with other architectures.

    Args:
        min_epochs: Shortest training, at least 1.
        max_epochs: Longest training, the paper's R where `min_epochs` is 1.
        eta: At least 2.
        brackets: How many of the s_max + 1 brackets are run, those with the most architectures first; None for all.

    Raises:
        InputError: a value outside its range.
    """

    def __init__(
        self,
        space: Space,
        seed: int,
        *,
        min_epochs: int = 1,
        max_epochs: int = 27,
        eta: int = 3,
        brackets: int | None = None,
    ) -> None:
        most = most_halvings(min_epochs, max_epochs, eta)
        if brackets is not None and not 1 <= brackets <= most + 1:
            raise InputError(
                f"brackets is {brackets}: expected 1 to {most + 1}, the number that fits between {min_epochs} and "
                f"{max_epochs} epochs"
            )
        sizes = [(-(-(most + 1) * eta**s // (s + 1)), s) for s in range(most, -1, -1)]
        super().__init__(space, seed, sizes[:brackets], max_epochs, eta)
