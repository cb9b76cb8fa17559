"""Operations that are strong by themselves (FairDARTS, Chu et al. 2020, section 4.3)."""

from typing import Literal

from torch import Tensor

from nastricks.derivations.base import Derivation, Trained
from nastricks.derivations.edges import check_edges, legal_or_refused, read_edges
from nastricks.errors import InputError
from nastricks.policies import Policy
from nastricks.spaces import Architecture, Space
from nastricks.spaces.legality import edges_of_nodes, fewest_and_most_inputs


class Threshold(Derivation):
    """An edge stays where its strongest operation reaches the threshold; at most `edges` into each node, the strongest.

    The released code's "sparse" rule. `none` is left out of the contest: an edge without a strong operation goes. One
    that may not be absent stays, and choices that are no edge into a node take their strongest option, whatever its
    strength.

    Args:
        threshold: Strength from which on an operation counts, in (0, 1).
        edges: Most edges that stay of each node, at least 1; None takes all that reach the threshold.
        short: What becomes of a node of which fewer edges reach the threshold than the space demands inputs: "filled"
            up with the strongest of the others, or "refused" with a sentence once training is over. In FairDARTS, nodes
            take as few inputs as reach the threshold: search a space that allows that.

    Raises:
        InputError: a value is out of its range.
    """

    needs_preferences = True

    def __init__(
        self, threshold: float = 0.85, edges: int | None = 2, short: Literal["filled", "refused"] = "filled"
    ) -> None:
        if not 0 < threshold < 1:
            raise InputError(f"derivation.threshold is {threshold}: expected a number in (0, 1)")
        if edges is not None and edges < 1:
            raise InputError(f"derivation.edges is {edges}: expected at least 1, or null")
        if short not in ("filled", "refused"):
            raise InputError(f"derivation.short is {short!r}: expected 'filled' or 'refused'")
        self.threshold, self.edges, self.short = threshold, edges, short

    def check(self, space: Space, policy: Policy) -> None:
        super().check(space, policy)
        if edges_of_nodes(space):
            check_edges(space, policy.derivable, self.edges, type(self).__name__)

    def derive(self, trained: Trained) -> Architecture:
        space, policy = trained.space, trained.policy
        super().check(space, policy)
        fewest = {
            node: fewest_and_most_inputs(space, policy.derivable, places)[0]
            for node, places in edges_of_nodes(space).items()
            if self.short == "filled"
        }
        picked = read_edges(space, policy.derivable, policy.preferences(), self.edges, self._passes, at_least=fewest)
        return legal_or_refused(space, picked, "lower derivation.threshold, or set derivation.short filled")

    def _passes(self, scores: Tensor, operation: int, none: int) -> bool:
        return float(scores[operation]) >= self.threshold
