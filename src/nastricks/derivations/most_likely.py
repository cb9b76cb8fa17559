"""The architecture that a controller holds most likely, among some that it draws."""

from nastricks.derivations.base import Derivation, Trained
from nastricks.errors import InputError
from nastricks.policies import Policy, SequencePolicy
from nastricks.rng import generator
from nastricks.spaces import Architecture, Space


class MostLikely(Derivation):
    """The legal draw with the highest log-probability; ties go to the first in lexicographic order.

    Args:
        samples: Architectures to draw, at least 1.
        seed: Key of the draws.
    """

    def __init__(self, samples: int = 100, seed: int = 0) -> None:
        if samples < 1:
            raise InputError(f"derivation.samples is {samples}: expected at least 1")
        self.samples, self.seed = samples, seed

    def check(self, space: Space, policy: Policy) -> None:
        if not isinstance(policy, SequencePolicy):
            raise InputError(
                f"derivation MostLikely needs a policy that draws architectures; {type(policy).__name__} draws none: "
                "use BestRanked"
            )

    def derive(self, trained: Trained) -> Architecture:
        policy = trained.policy
        self.check(trained.space, policy)
        assert isinstance(policy, SequencePolicy), "checked"
        rollout = policy.draw(generator(self.seed, "most_likely"), self.samples)
        scores = rollout.log_probs.sum(1).tolist()
        legal = [(-score, a) for score, a in zip(scores, rollout.architectures, strict=True) if a is not None]
        if not legal:
            raise InputError(
                f"all {self.samples} draws of {type(policy).__name__} were illegal in {trained.space.name}: set "
                "policy.masked true, or raise derivation.samples"
            )
        return min(legal)[1]
