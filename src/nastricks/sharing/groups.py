"""Groups of children that share weights among themselves alone ("Deeper Insights into Weight Sharing", section 5)."""

from collections.abc import Sequence
from itertools import pairwise

import torch

from nastricks.data.batch import ImageSpec
from nastricks.errors import InputError
from nastricks.rng import generator, inherited_seed
from nastricks.sharing.base import Sharing
from nastricks.spaces import Allowed, Architecture, Network, Space


def slices(children: Sequence[Architecture], groups: int) -> list[list[Architecture]]:
    """`groups` consecutive parts of nearly equal size."""
    cuts = [round(len(children) * part / groups) for part in range(groups + 1)]
    return [list(children[low:high]) for low, high in pairwise(cuts)]


def options_of(space: Space, children: Sequence[Architecture]) -> dict[str, tuple[int, ...]]:
    """The options that some children use of each choice."""
    return {c.name: tuple(sorted({a[place] for a in children})) for place, c in enumerate(space.choices)}


class GroupSharing(Sharing):
    """m supernets, one for each group of children; a group's network holds the options that its children use.

    A uniform path then trains each group at its share of the steps; for as many steps a group as one supernet gets, as
    in the paper's longer protocol, train m times as long.

    Args:
        groups: m, at least 1, or the groups themselves as lists of architectures, which must cover the space.
        by: ``similarity`` takes consecutive slices of the lexicographic order, as the paper; ``chance`` a keyed draw.
        seed: Key of the draw; None draws it from the run's own, so that the instances of an ablation draw apart.

    Raises:
        InputError: a number below 1 or above that of the architectures, or groups that leave a child out or hold it
            twice.
    """

    def __init__(self, groups: int | list[list[str]] = 2, by: str = "similarity", seed: int | None = 0) -> None:
        if isinstance(groups, int) and groups < 1:
            raise InputError(f"sharing.groups is {groups}: expected at least 1")
        if by not in ("similarity", "chance"):
            raise InputError(f"sharing.by is {by!r}: expected similarity or chance")
        self.groups, self.by, self.seed = groups, by, seed
        self._copies: dict[Architecture, int] = {}

    def networks(self, space: Space, spec: ImageSpec, allowed: Allowed) -> list[Network]:
        parts = self._parts(space, space.within(allowed))
        self._copies = {child: number for number, part in enumerate(parts) for child in part}
        return [space.build(spec, options_of(space, part)) for part in parts]

    def copy_of(self, architecture: Architecture | None) -> int:
        if architecture is None:
            raise InputError(f"{type(self).__name__} needs one architecture at a time, and several options run at once")
        if architecture not in self._copies:
            raise InputError(f"{architecture} is in no group of {type(self).__name__}")
        return self._copies[architecture]

    def _parts(self, space: Space, children: list[Architecture]) -> list[list[Architecture]]:
        if isinstance(self.groups, int):
            if self.groups > len(children):
                raise InputError(
                    f"sharing.groups is {self.groups} and {space.name} has {len(children)} architectures: "
                    "expected at most one group for each"
                )
            if self.by == "chance":
                rng = generator(inherited_seed(self.seed), "groups")
                children = [children[i] for i in torch.randperm(len(children), generator=rng).tolist()]
            return slices(children, self.groups)
        named = [[space.parse(text) for text in group] for group in self.groups]
        told = [child for group in named for child in group]
        twice = sorted({space.format(c) for c in told if told.count(c) > 1})
        if twice:
            raise InputError(f"sharing.groups holds {', '.join(twice[:5])} twice: expected each architecture once")
        missing = [space.format(c) for c in children if c not in set(told)]
        if missing:
            some = ", ".join(missing[:5]) + (", …" if len(missing) > 5 else "")
            raise InputError(f"sharing.groups leaves out {len(missing)} children of {space.name} ({some}): add them")
        return [group for group in named if group]


class ShareNone(GroupSharing):
    """Every child has weights of its own: as many networks as architectures, trained in one run."""

    def __init__(self) -> None:
        super().__init__(groups=1)

    def _parts(self, space: Space, children: list[Architecture]) -> list[list[Architecture]]:
        return [[child] for child in children]


class FewShot(GroupSharing):
    """Sub-supernets, one for each combination of the options of some choices (Few-shot NAS, Zhao et al. 2021).

    To start them from the one-shot supernet's weights, as the paper does, name its run under ``model.weights``.

    Args:
        choices: The choices that are split, by name.

    Raises:
        InputError: no choice, or an unknown one.
    """

    def __init__(self, choices: list[str]) -> None:
        super().__init__(groups=1)
        if not choices:
            raise InputError("sharing.choices is empty: name the choices to split, or use ShareAll")
        self.choices = tuple(choices)

    def _parts(self, space: Space, children: list[Architecture]) -> list[list[Architecture]]:
        names = [choice.name for choice in space.choices]
        for name in self.choices:
            if name not in names:
                raise InputError(f"sharing.choices names {name!r}: {space.name} has {', '.join(names)}")
        places = [names.index(name) for name in self.choices]
        parts: dict[Architecture, list[Architecture]] = {}
        for child in children:
            parts.setdefault(tuple(child[place] for place in places), []).append(child)
        return list(parts.values())
