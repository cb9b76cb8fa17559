"""Derivations: how one architecture is read off."""

from nastricks.derivations.base import Argmax, BestRanked, Derivation, Draw, Trained
from nastricks.derivations.best_edges import BestEdges
from nastricks.derivations.hierarchical_selection import HierarchicalSelection
from nastricks.derivations.most_likely import MostLikely
from nastricks.derivations.perturbation import Perturbation
from nastricks.derivations.threshold import Threshold

__all__ = [
    "Argmax",
    "BestEdges",
    "BestRanked",
    "Derivation",
    "Draw",
    "HierarchicalSelection",
    "MostLikely",
    "Perturbation",
    "Threshold",
    "Trained",
]
