"""The first legal architecture against enumeration, under random restrictions."""

import itertools
from collections.abc import Sequence
from typing import ClassVar

import pytest
import torch

from nastricks.data.batch import ImageSpec
from nastricks.errors import InputError
from nastricks.rng import generator
from nastricks.spaces import Allowed, Choice, Network, Option, Space, Tiny64
from nastricks.spaces.legality import cell_choices, fewest_and_most_inputs, first_legal, is_legal

OPTIONS = (Option("none", absent=True), Option("skip", skip=True), Option("conv"))


class Pairs(Space):
    """Two nodes of three edges each, of which exactly two are there; the choices of both are listed in turn."""

    name: ClassVar[str] = "pairs"

    def __init__(self) -> None:
        self.choices = tuple(Choice(f"{n}{e}", OPTIONS, node=n, cell="normal") for e in range(3) for n in "ab")

    def build(self, spec: ImageSpec, allowed: Allowed) -> Network:
        raise AssertionError("nothing is built")

    def legal(self, prefix: Sequence[int]) -> tuple[int, ...]:
        own = prefix[len(prefix) % 2 :: 2]
        there = sum(i > 0 for i in own)
        absent = (0,) if len(own) - there < 1 else ()
        return absent + ((1, 2) if there < 2 else ())


def test_equals_enumeration() -> None:
    space, empty = Pairs(), 0
    for seed in range(60):
        rng = generator(seed, "restrictions")
        order = {}
        for choice in space.choices:
            kept = int(torch.randint(1, 4, (), generator=rng))
            order[choice.name] = torch.randperm(3, generator=rng)[:kept].tolist()
        legal = (a for a in itertools.product(*(order[c.name] for c in space.choices)) if is_legal(space, a))
        expected = next(legal, None)
        assert first_legal(space, order) == expected
        empty += expected is None
    assert 5 < empty < 55


def test_a_node_that_is_stuck_does_not_undo_the_others() -> None:
    class Counting(Pairs):
        asked = 0

        def legal(self, prefix: Sequence[int]) -> tuple[int, ...]:
            self.asked += 1
            return super().legal(prefix)

    space = Counting()
    stuck = {**space.all_options(), "b0": (0,), "b1": (0,)}
    assert first_legal(space, stuck) is None
    assert space.asked <= 6


def test_fewest_and_most_inputs() -> None:
    space = Pairs()
    assert fewest_and_most_inputs(space, space.all_options(), [0, 2, 4]) == (2, 2)
    tiny = Tiny64(channels=4)
    assert fewest_and_most_inputs(tiny, tiny.all_options(), [0, 1]) == (2, 2)
    with pytest.raises(InputError, match="the allowed options leave no architecture of pairs"):
        fewest_and_most_inputs(space, {**space.all_options(), "b0": (0,), "b1": (0,)}, [0, 2, 4])


def test_cells() -> None:
    assert cell_choices(Pairs(), None) == list(range(6))
    assert cell_choices(Tiny64(channels=4), None) == [0, 1, 2]
    with pytest.raises(InputError, match="tiny64 has no cell 'normal': its choices belong to none, take null"):
        cell_choices(Tiny64(channels=4), "normal")
