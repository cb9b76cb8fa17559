"""Sharing: which weights an architecture sees."""

from nastricks.sharing.base import ShareAll, Sharing
from nastricks.sharing.groups import FewShot, GroupSharing, ShareNone
from nastricks.sharing.prefix import PrefixSharing

__all__ = ["FewShot", "GroupSharing", "PrefixSharing", "ShareAll", "ShareNone", "Sharing"]
