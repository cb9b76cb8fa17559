"""Random search: the baseline that every search has to beat.

Papers: Li and Talwalkar 2020, "Random Search and Reproducibility for Neural Architecture Search"; Yu et al. 2020,
"Evaluating the Search Phase of Neural Architecture Search".
"""

from collections import ChainMap
from collections.abc import Sequence

from nastricks.rng import generator
from nastricks.search.algorithm import Outcome, Proposal, SearchAlgorithm, at_least
from nastricks.spaces import Architecture, Space


class RandomSearch(SearchAlgorithm):
    """Uniform architectures (but see `Constraints.sample`). Which ones does not depend on the batch.

    Args:
        batch: Architectures an ask, at least 1.
        without_repetition: Propose no architecture twice, and nothing more once the whole space was proposed.
    """

    def __init__(self, space: Space, seed: int, *, batch: int = 1, without_repetition: bool = True) -> None:
        super().__init__(space, seed)
        self.batch = at_least("batch", batch, 1)
        self.without_repetition = without_repetition
        self._told = 0
        self._seen: dict[Architecture, None] = {}

    def ask(self) -> list[Proposal]:
        rngs = [generator(self.seed, "random_search", number) for number in range(self._told, self._told + self.batch)]
        if not self.without_repetition:
            return [Proposal(self.draw(rng)) for rng in rngs]
        drawn: dict[Architecture, None] = {}
        for rng in rngs:
            architecture = self.unseen(ChainMap(drawn, self._seen), rng)
            if architecture is None:
                break
            drawn[architecture] = None
        return [Proposal(architecture) for architecture in drawn]

    def tell(self, outcomes: Sequence[Outcome]) -> None:
        self._told += len(outcomes)
        self._seen |= dict.fromkeys(outcome.proposal.architecture for outcome in outcomes)
