"""Derivations: how one architecture is read off."""

from nastricks.derivations.base import Argmax, BestRanked, Derivation, Trained

__all__ = ["Argmax", "BestRanked", "Derivation", "Trained"]
