"""Local search: to the best neighbour, until there is none better, then from elsewhere.

Papers: White et al. 2021, "Exploring the Loss Landscape in Neural Architecture Search", algorithm 1; restarts, so that
any budget can be spent.
"""

from collections.abc import Sequence

from nastricks.rng import generator
from nastricks.search.algorithm import Outcome, Proposal, SearchAlgorithm, at_least
from nastricks.search.constraints import Constraints
from nastricks.search.moves import neighbours
from nastricks.spaces import Architecture, Space


class LocalSearch(SearchAlgorithm):
    """Evaluates every neighbour of an architecture (one choice changed) and moves to the best that is better.

    At a local optimum it starts again from a random architecture. What was told is remembered, so no architecture is
    asked twice, and nothing is left to ask once the whole space was. Of equal neighbours the first is taken; an
    equal neighbour is no better one.

    Args:
        batch: Architectures an ask, at least 1; None for all that one move needs.
    """

    def __init__(self, space: Space, seed: int, *, batch: int | None = None) -> None:
        super().__init__(space, seed)
        self.batch = None if batch is None else at_least("batch", batch, 1)
        self._known: dict[Architecture, float] = {}
        self._optima: list[Architecture] = []
        self._current: Architecture = ()
        self._waiting: list[Architecture] = []
        self._start()

    def constrain(self, constraints: Constraints) -> None:
        super().constrain(constraints)
        self._start()

    def ask(self) -> list[Proposal]:
        return [Proposal(architecture) for architecture in self._waiting[: self.batch]]

    def tell(self, outcomes: Sequence[Outcome]) -> None:
        self._known |= {outcome.proposal.architecture: outcome.reward for outcome in outcomes}
        self._waiting = [architecture for architecture in self._waiting if architecture not in self._known]
        if not self._waiting:
            self._climb()

    def measures(self) -> dict[str, float]:
        reward = self._known.get(self._current)
        return {"local_optima": len(self._optima)} | ({} if reward is None else {"current_reward": reward})

    def _climb(self) -> None:
        """Move as far as what is known leads, then wait for what has to be known next."""
        while not self._waiting:
            around = [a for a in neighbours(self.space, self._current) if self.admits(a)]
            self._waiting = [architecture for architecture in around if architecture not in self._known]
            if self._waiting:
                return
            best = max(around, key=self._known.__getitem__, default=self._current)
            if self._known[best] > self._known[self._current]:
                self._current = best
                continue
            self._optima.append(self._current)
            self._start()
            return

    def _start(self) -> None:
        start = self.unseen(self._known, generator(self.seed, "local_search", len(self._optima)))
        if start is not None:
            self._current, self._waiting = start, [start]
