"""Derivations: how one architecture is read off."""

from nastricks.derivations.base import Argmax, BestRanked, Derivation, Trained
from nastricks.derivations.most_likely import MostLikely

__all__ = ["Argmax", "BestRanked", "Derivation", "MostLikely", "Trained"]
