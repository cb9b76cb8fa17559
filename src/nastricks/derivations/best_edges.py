"""The best edges into each node, each with its best operation (DARTS, Liu et al. 2019, section 2.4)."""

from typing import Literal

import torch

from nastricks.derivations.base import Derivation, Trained
from nastricks.derivations.edges import check_edges, legal_or_refused, read_edges
from nastricks.errors import InputError
from nastricks.policies import Policy
from nastricks.spaces import Architecture, Space
from nastricks.spaces.legality import cell_choices, edges_of_nodes, fewest_and_most_inputs, has_skip, skips_of


class BestEdges(Derivation):
    """An edge is as strong as its strongest operation; the strongest `edges` into each node stay.

    Ties go to what stands first. An edge that may not be absent stays. Choices that are no edge into a node take their
    strongest option.

    `skips` is the cap of P-DARTS (Chen et al. 2019, section 3.3): while the cell has more skip connections, the weakest
    of them is crossed out and everything is derived anew, as the released code does: its edge takes the next best
    operation, or gives way to another edge.

    Args:
        edges: Edges that stay of each node, at least 1.
        none: Whether the option that is no connection is "left out" of the contest (DARTS, GDAS), or "kept": an edge on
            which nothing is stronger goes, so that a node may have fewer than `edges` inputs (SNAS).
        skips: Most skip connections in the cell, at least 0; None does not count them.
        cell: The cell whose skips are capped; None is the normal cell, or the whole network where no cell has a name.

    Raises:
        InputError: a value is out of its range.
    """

    needs_preferences = True

    def __init__(
        self,
        edges: int = 2,
        none: Literal["left out", "kept"] = "left out",
        skips: int | None = None,
        cell: str | None = None,
    ) -> None:
        if edges < 1:
            raise InputError(f"derivation.edges is {edges}: expected at least 1")
        if none not in ("left out", "kept"):
            raise InputError(f"derivation.none is {none!r}: expected 'left out' or 'kept'")
        if skips is not None and skips < 0:
            raise InputError(f"derivation.skips is {skips}: expected at least 0, or null")
        self.edges, self.none, self.skips, self.cell = edges, none, skips, cell

    def check(self, space: Space, policy: Policy) -> None:
        super().check(space, policy)
        check_edges(space, policy.derivable, self.edges, type(self).__name__)
        for node, places in edges_of_nodes(space).items() if self.none == "kept" else ():
            fewest, _ = fewest_and_most_inputs(space, policy.derivable, places)
            if len(places) > self.edges == fewest:
                raise InputError(
                    f"derivation.none is 'kept', which may leave node {node} with fewer than the {fewest} inputs that "
                    f"{space.name} demands: take 'left out', or a space whose nodes may have fewer"
                )
        if self.skips is not None and not has_skip(space, space.all_options(), cell_choices(space, self.cell)):
            raise InputError(f"derivation.skips is {self.skips}, and {space.name} has no skip there: leave it out")

    def derive(self, trained: Trained) -> Architecture:
        space, policy = trained.space, trained.policy
        super().check(space, policy)  # options may have been pruned since `check`: what is left is taken as it is
        scores = policy.preferences()
        while True:
            picked = read_edges(space, policy.derivable, scores, self.edges, self._passes)
            skips = [] if self.skips is None else skips_of(space, picked, cell_choices(space, self.cell))
            if self.skips is None or len(skips) <= self.skips:
                break
            names = {place: space.choices[place].name for place in skips}
            weakest = min(skips, key=lambda place: float(scores[names[place]][picked[place]]))
            if scores[names[weakest]][picked[weakest]] == -torch.inf:  # crossed out, and nothing else was left
                raise InputError(
                    f"derivation.skips is {self.skips}, and {names[weakest]} of {space.name} has nothing but a skip "
                    "left: prune less, or allow more skips"
                )
            scores[names[weakest]][picked[weakest]] = -torch.inf
        return legal_or_refused(space, picked, "take derivation.none 'left out', or train longer")

    def _passes(self, scores: torch.Tensor, operation: int, none: int) -> bool:
        return self.none == "left out" or float(scores[operation]) > float(scores[none])
