"""A synthetic space without a network: sequences of tokens with an objective whose optimum is known.

It tells search algorithms apart in milliseconds, and by how much they miss the best.
"""

from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from nastricks.data.batch import ImageSpec
from nastricks.errors import InputError
from nastricks.rng import generator
from nastricks.spaces.base import Space
from nastricks.spaces.choices import Allowed, Architecture, Choice, Option
from nastricks.spaces.network import Network

MOST_DIGITS = 9


class SequenceSpace(Space):
    """Sequences of L tokens out of K, scored by ``objective``.

    Written as a digit a position, counted from 1 (``2213…``); with more than nine tokens the numbers are joined by
    dashes (``2-10-1-…``).

    Args:
        length: Positions (L), at least 1.
        vocabulary: Tokens (K), at least 2.
        interaction: Scale of the pair terms, at least 0. At 0 the best token of every position is the optimum; the
            larger it is, the more a token's worth depends on its neighbours.
        seed: Key of the objective's terms.
        kinds: Kinds that the positions take turns in, from 1 to L. Tokens of different kinds have different names, so a
            controller without masks may draw them where they do not belong; the objective stays the same.
    """

    name: ClassVar[str] = "sequence"

    def __init__(
        self, length: int = 20, vocabulary: int = 7, interaction: float = 1.0, seed: int = 0, kinds: int = 1
    ) -> None:
        for key, value, least in (("length", length, 1), ("vocabulary", vocabulary, 2)):
            if value < least:
                raise InputError(f"space.{key} is {value}: expected at least {least}")
        if not 0 <= interaction < float("inf"):
            raise InputError(f"space.interaction is {interaction}: expected a finite number of at least 0, such as 1.0")
        if not 1 <= kinds <= length:
            raise InputError(f"space.kinds is {kinds}: expected from 1 to the {length} positions")
        self.length, self.vocabulary, self.interaction, self.seed = length, vocabulary, interaction, seed
        self.kinds = kinds
        names = ["token"] if kinds == 1 else [f"kind{kind}_token" for kind in range(1, kinds + 1)]
        options = [tuple(Option(f"{n}{token}", learns=False) for token in range(1, vocabulary + 1)) for n in names]
        self.choices = tuple(Choice(f"position{place + 1}", options[place % kinds]) for place in range(length))

    def build(self, spec: ImageSpec, allowed: Allowed) -> Network:
        raise InputError(
            "space sequence has no network to build: search it with `nastricks search`, which scores it by its own "
            "objective"
        )

    def objective(self, architecture: Architecture) -> float:
        """How good a sequence is, in [0, 1]: exactly 1 for the best of all, exactly 0 for the worst.

        The sum over positions i of u[i, x_i] + interaction * v[i, x_i, x_(i+1)], rescaled. All u and v are standard
        normal, drawn once from the key `seed`.

        Raises:
            InputError: no architecture of this space.
        """
        tokens = self.check(architecture)
        unary, pair = self._terms
        # In the order of the dynamic programme: rounding is then the same, and its extremes are never passed.
        total = unary[0, tokens[0]]
        for i in range(1, self.length):
            total = (total + pair[i - 1, tokens[i - 1], tokens[i]]) + unary[i, tokens[i]]
        (_, lowest), (_, highest) = self._worst, self._best
        return float((total - lowest) / (highest - lowest))

    def optimum(self) -> Architecture:
        """The best sequence."""
        return self._best[0]

    @cached_property
    def _terms(self) -> tuple[Tensor, Tensor]:
        """Unary terms (L, K) and scaled pair terms (L - 1, K, K), float64."""
        L, K = self.length, self.vocabulary
        unary = torch.randn(L, K, generator=generator(self.seed, "sequence", "unary"), dtype=torch.float64)
        pair = torch.randn(L - 1, K, K, generator=generator(self.seed, "sequence", "pair"), dtype=torch.float64)
        return unary, self.interaction * pair

    @cached_property
    def _best(self) -> tuple[Architecture, Tensor]:
        return viterbi(*self._terms)

    @cached_property
    def _worst(self) -> tuple[Architecture, Tensor]:
        unary, pair = self._terms
        architecture, negated = viterbi(-unary, -pair)
        return architecture, -negated

    def format(self, architecture: Architecture) -> str:
        """A digit a position, or numbers joined by dashes where there are more than nine tokens."""
        return ("" if self.vocabulary <= MOST_DIGITS else "-").join(str(token + 1) for token in architecture)

    def parse(self, text: str) -> Architecture:
        if self.vocabulary <= MOST_DIGITS:
            return super().parse(text)
        numbers = {str(token + 1): token for token in range(self.vocabulary)}
        words = text.split("-")
        if len(words) == self.length and all(word in numbers for word in words):
            return tuple(numbers[word] for word in words)
        raise InputError(
            f"{text!r} is no architecture of {self.name}: expected {self.length} numbers from 1 to {self.vocabulary} "
            f"joined by dashes, such as {self.format((0,) * self.length)!r}"
        )


def viterbi(unary: Tensor, pair: Tensor) -> tuple[tuple[int, ...], Tensor]:
    """The sequence with the largest sum of unary (L, K) and pair terms (L - 1, K, K), and that sum ().

    The dynamic programme of Viterbi (1967): the best prefix that ends in each token, position by position, O(L K^2).
    """
    best = unary[0]
    came_from: list[Tensor] = []
    for i in range(1, len(unary)):
        values, tokens = (best[:, None] + pair[i - 1]).max(dim=0)
        best = values + unary[i]
        came_from.append(tokens)
    last = int(best.argmax())
    sequence = [last]
    for tokens in reversed(came_from):
        sequence.append(int(tokens[sequence[-1]]))
    return tuple(reversed(sequence)), best[last]
