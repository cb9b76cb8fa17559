"""How one architecture is read off a trained policy or off a ranking."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from nastricks.errors import InputError
from nastricks.moment import Moment
from nastricks.policies import Policy
from nastricks.spaces import Architecture, Gates, Space
from nastricks.spaces.base import LISTED
from nastricks.spaces.legality import first_legal

Draw = Callable[[Moment], Gates]
"""The gates of one pass, for instance those that the policy proposes there."""


def _no_network(draw: Draw) -> float:
    raise InputError("this derivation measures the supernet, and there is none here: take Argmax or BestEdges")


@dataclass(frozen=True)
class Trained:
    """What a derivation may read: the space, the policy, the scores of children, and the supernet's own accuracy.

    `scores` is called only by derivations that rank: it evaluates children on the validation split (slow) or reads the
    run's ranking. `accuracy` is that of the supernet on the validation split, in [0, 1], under the gates that it is
    given a batch; only derivations that measure the supernet call it.
    """

    space: Space
    policy: Policy
    scores: Callable[[], Mapping[Architecture, float]]
    accuracy: Callable[[Draw], float] = _no_network


class Derivation(ABC):
    """Reads one architecture off.

    Attributes:
        needs_ranking: Whether it asks for the scores of children.
        needs_network: Whether it asks for the supernet's accuracy.
        needs_preferences: Whether the policy must say how it prefers options.
    """

    needs_ranking: bool = False
    needs_network: bool = False
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
    """The best of all ranked children that the policy allows; ties go to the first in lexicographic order."""

    needs_ranking = True

    def derive(self, trained: Trained) -> Architecture:
        scores, allowed, space = trained.scores(), trained.policy.derivable, trained.space
        options = [set(allowed[choice.name]) for choice in space.choices]
        kept = [a for a in sorted(scores) if all(i in own for i, own in zip(a, options, strict=True))]
        if not space.counts_twins and allowed != space.all_options() and space.size <= LISTED:
            left = set(space.counted_within(allowed))  # the spelling that is counted may name options that are gone
            kept = [a for a in sorted(scores) if a in left]
        if trained.policy.kept is not None:
            left = set(map(space.counted, trained.policy.kept))
            kept = [a for a in kept if a in left]
        if not kept:
            raise InputError(f"none of the {len(scores)} ranked children is allowed by the policy: rank more of them")
        return max(kept, key=lambda architecture: scores[architecture])


class Argmax(Derivation):
    """The option with the highest preference in each choice (DARTS keeps the strongest operation).

    Choices are taken in the space's order: where an earlier one makes an option illegal, the strongest legal one is
    taken. Ties go to the option that stands first.
    """

    needs_preferences = True

    def derive(self, trained: Trained) -> Architecture:
        space, policy = trained.space, trained.policy
        self.check(space, policy)
        preferences = policy.preferences()
        strongest_first = {
            name: sorted(options, key=lambda index, own=preferences[name]: -float(own[index]))  # type: ignore[misc]
            for name, options in policy.derivable.items()
        }
        picked = first_legal(space, strongest_first)
        if picked is None:
            raise InputError(f"the allowed options leave no architecture of {space.name}: allow more")
        return picked
