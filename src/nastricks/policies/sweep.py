"""Every child in turn: the deterministic sampling of "Deeper Insights into Weight Sharing" (2001.01431, section 4)."""

from typing import ClassVar

import torch

from nastricks.moment import Moment
from nastricks.policies.base import Policy
from nastricks.rng import generator
from nastricks.spaces import Architecture, Gates, Space


class Sweep(Policy):
    """One architecture a step, each once a round of the whole space.

    Args:
        space: A space of at most 100,000 architectures.
        shuffled: Whether each round has a keyed order of its own; otherwise every round is lexicographic.

    Raises:
        InputError: the space is too large to go round.
    """

    keepable: ClassVar[bool] = True

    def __init__(self, space: Space, shuffled: bool = True) -> None:
        super().__init__(space)
        space.within(self.allowed)
        self.shuffled = shuffled
        self._within: tuple[dict[str, tuple[int, ...]], list[Architecture]] = ({}, [])
        self._order: tuple[tuple[int, int], list[int]] = ((-1, -1), [])

    def propose(self, moment: Moment) -> list[Gates]:
        children = self._children()
        turn, place = divmod(moment.step, len(children))
        if self.shuffled:
            if self._order[0] != (moment.seed, turn) or len(self._order[1]) != len(children):
                rng = generator(moment.seed, "sweep", turn)
                self._order = ((moment.seed, turn), torch.randperm(len(children), generator=rng).tolist())
            place = self._order[1][place]
        return [self.space.gates(children[place])]

    def _children(self) -> list[Architecture]:
        """The architectures that the mask leaves, in lexicographic order; listed once a mask."""
        if self.kept is not None:
            return list(self.kept)
        if self._within[0] != self.allowed:
            self._within = (dict(self.allowed), self.space.within(self.allowed))
        return self._within[1]
