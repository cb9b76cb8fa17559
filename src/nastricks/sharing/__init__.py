"""Sharing: which weights an architecture sees."""

from nastricks.sharing.base import ShareAll, Sharing

__all__ = ["ShareAll", "Sharing"]
