"""Derivations: how one architecture is read off."""

from nastricks.derivations.base import Argmax, BestRanked, Derivation, Trained
from nastricks.derivations.best_edges import BestEdges
from nastricks.derivations.most_likely import MostLikely

__all__ = ["Argmax", "BestEdges", "BestRanked", "Derivation", "MostLikely", "Trained"]
