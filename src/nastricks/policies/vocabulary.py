"""The tokens that a controller writes a space's architectures with, and which of them may come next."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from nastricks.errors import InputError
from nastricks.spaces import Architecture, Space


class Vocabulary:
    """The tokens with which a space's architectures are written.

    Choices are of one kind where their `Choice.kind` is the same and the option names of one begin those of the other:
    the operations of all edges, the inputs of all nodes. A kind has one slot an option of its longest choice, the
    kinds' slots stand one behind the other, and token = first slot of the choice's kind + option.

    Args:
        space: The space to write.

    Attributes:
        width: Slots of all kinds, W.
        length: Tokens of an architecture, T.
        offsets: The first slot of each choice's kind (T,).
        option_of: The option that each slot stands for, whatever its kind (W,).
        by_position: Whether the legal options of a choice depend on its place alone, not on the options before it.
    """

    def __init__(self, space: Space) -> None:
        self.space = space
        self.length = len(space.choices)
        lists = [(choice.kind, tuple(option.name for option in choice.options)) for choice in space.choices]
        kinds: list[tuple[str, tuple[str, ...]]] = []
        for entry in sorted(lists, key=lambda entry: -len(entry[1])):  # the longest of a kind founds it
            if not any(_begins(entry, other) for other in kinds):
                kinds.append(entry)
        found = [next(other for other in kinds if _begins(entry, other)) for entry in lists]
        in_order = list(dict.fromkeys(found))
        sizes = [len(names) for _, names in in_order]
        self.offsets = tuple(sum(sizes[: in_order.index(kind)]) for kind in found)
        self.width = sum(sizes)
        self.option_of = tuple(option for size in sizes for option in range(size))
        self.by_position = type(space).legal is Space.legal
        self._masks: dict[tuple[int, tuple[int, ...]], Tensor] = {}

    def tokens(self, architectures: Sequence[Architecture]) -> Tensor:
        """Architectures -> tokens (N, T), long, on the CPU.

        Raises:
            InputError: a wrong number of options, or an option that its choice does not have.
        """
        for architecture in architectures:
            sizes = [len(choice.options) for choice in self.space.choices]
            if len(architecture) != self.length or not all(
                0 <= i < n for i, n in zip(architecture, sizes, strict=True)
            ):
                raise InputError(
                    f"{tuple(architecture)} is no architecture of {self.space.name}: expected one option for each of "
                    f"its {self.length} choices, below {tuple(sizes)}"
                )
        options = torch.tensor(architectures, dtype=torch.long).view(-1, self.length)
        return options + torch.tensor(self.offsets)

    def options(self, tokens: Tensor) -> list[Architecture]:
        """Tokens (N, T) -> options; a token of another kind than its place gives a number that is no option there."""
        return [tuple(row) for row in (tokens.cpu() - torch.tensor(self.offsets)).tolist()]

    def mask(self, position: int, options: tuple[int, ...]) -> Tensor:
        """The slots (W,), bool, of these options of the choice at `position`; no option gives no slot."""
        key = (self.offsets[position], options)
        if key not in self._masks:
            row = torch.zeros(self.width, dtype=torch.bool)
            row[[self.offsets[position] + option for option in options]] = True
            self._masks[key] = row
        return self._masks[key]


def _begins(entry: tuple[str, tuple[str, ...]], other: tuple[str, tuple[str, ...]]) -> bool:
    """Whether `entry` is of the kind of `other` and its names begin those of `other`."""
    return entry[0] == other[0] and entry[1] == other[1][: len(entry[1])]


class Walk:
    """N sequences that grow by a token at a time, and what may come next in each.

    The space is asked once for each distinct prefix, so that a batch of a million sequences of a small space is cheap.

    Attributes:
        legal: The slots that are legal and allowed next, bool: (N, W), or (1, W) where they are the same in all; none
            in a sequence that has left the legal ones.

    Raises:
        InputError: a legal prefix after which no option is both legal and allowed.
    """

    def __init__(self, vocabulary: Vocabulary, allowed: Mapping[str, Sequence[int]], rows: int) -> None:
        self.vocabulary, self.allowed = vocabulary, allowed
        self.position = 0
        self._prefixes: list[Architecture | None] = [()]
        self._of = torch.zeros(1 if vocabulary.by_position else rows, dtype=torch.long)
        self._look()

    def advance(self, tokens: Tensor) -> None:
        """Append a token (N,) to each sequence."""
        self.position += 1
        if self.position == self.vocabulary.length:
            return
        if not self.vocabulary.by_position:
            pairs, self._of = torch.unique(self._of * self.vocabulary.width + tokens.cpu(), return_inverse=True)
            prefixes, offset = self._prefixes, self.vocabulary.offsets[self.position - 1]
            self._prefixes = []
            for pair in pairs.tolist():
                before, token = divmod(pair, self.vocabulary.width)
                prefix, option = prefixes[before], token - offset
                fits = prefix is not None and option in self._options[before]
                self._prefixes.append((*prefix, option) if fits and prefix is not None else None)
        self._look()

    def _look(self) -> None:
        self._options = [self._remaining(prefix) for prefix in self._prefixes]
        masks = [self.vocabulary.mask(self.position, options) for options in self._options]
        self.legal = masks[0][None] if self.vocabulary.by_position else torch.stack(masks)[self._of]

    def _remaining(self, prefix: Architecture | None) -> tuple[int, ...]:
        if prefix is None:
            return ()
        choice = self.vocabulary.space.choices[self.position]
        allowed = tuple(self.allowed[choice.name])
        if self.vocabulary.by_position:
            return allowed
        legal = self.vocabulary.space.legal(prefix)
        remaining = tuple(legal) if len(allowed) == len(choice.options) else tuple(i for i in legal if i in allowed)
        if not remaining:
            raise InputError(
                f"after {prefix} no option of {choice.name} is both legal and allowed: legal are {tuple(legal)}, "
                f"allowed {allowed}; allow more of its options"
            )
        return remaining
