"""How one architecture is read off a trained policy or off a ranking."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from nastricks.errors import InputError
from nastricks.policies import Policy
from nastricks.spaces import Architecture, Space


@dataclass(frozen=True)
class Trained:
    """What a derivation may read: the space, the policy, and the scores of children on the validation split.

    `scores` is called only by derivations that rank: it evaluates children (slow) or reads the run's ranking.
    """

    space: Space
    policy: Policy
    scores: Callable[[], Mapping[Architecture, float]]


class Derivation(ABC):
    """Reads one architecture off."""

    needs_ranking: bool = False
    needs_preferences: bool = False

    def check(self, space: Space, policy: Policy) -> None:
        """Refuse before training what cannot be derived after it.

        Raises:
            InputError: the derivation fits neither this policy nor this space.
        """
        if self.needs_preferences and not policy.preferences():
            raise InputError(
                f"derivation {type(self).__name__} needs a policy with preferences; {type(policy).__name__} has none: "
                "use BestRanked"
            )

    @abstractmethod
    def derive(self, trained: Trained) -> Architecture:
        """The architecture that the algorithm settles on."""


class BestRanked(Derivation):
    """The best of all children by the supernet's score; ties go to the first in lexicographic order."""

    needs_ranking = True

    def derive(self, trained: Trained) -> Architecture:
        scores = trained.scores()
        return max(sorted(scores), key=lambda architecture: scores[architecture])


class Argmax(Derivation):
    """The option with the highest preference in each choice (DARTS keeps the strongest operation)."""

    needs_preferences = True

    def derive(self, trained: Trained) -> Architecture:
        self.check(trained.space, trained.policy)
        preferences = trained.policy.preferences()
        picked: Architecture = ()
        for choice in trained.space.choices:
            scores = preferences[choice.name]
            legal = trained.space.legal(picked)
            picked += (max(legal, key=lambda index: float(scores[index])),)
        return picked
