"""What exists: a space lists its choices, builds its networks, and says how its architectures are written.

A space knows nothing of training.
"""

import bisect
import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from nastricks.data.batch import ImageSpec
from nastricks.errors import InputError
from nastricks.spaces.choices import Allowed, Architecture, Choice
from nastricks.spaces.hollow import hollow
from nastricks.spaces.network import Gate, Gates, Network

LISTED = 100_000  # architectures at most that are listed one by one


class Cost(NamedTuple):
    """Size of a child: trainable parameters, and floating-point operations for one image (2 a multiply-add).

    An auxiliary head is not part of the child, since it is for training alone; `auxiliary` counts its parameters.
    """

    params: int
    flops: int
    auxiliary: int = 0


class Edge(NamedTuple):
    """One arrow of an architecture's drawing."""

    source: str
    target: str
    label: str


class Space(ABC):
    """A search space: its choices, its networks, and how its architectures are written.

    Attributes:
        counts_twins: Whether a ranking counts every spelling of one network (`canonical`), as the published figures
            of most spaces do; else only the canonical one is scored, and stands for all.
    """

    name: ClassVar[str]
    counts_twins: ClassVar[bool] = True
    choices: tuple[Choice, ...]

    @abstractmethod
    def build(self, spec: ImageSpec, allowed: Allowed) -> Network:
        """The network that holds the allowed options, with fresh weights."""

    def supernet(self, spec: ImageSpec) -> Network:
        """The network that holds every architecture."""
        return self.build(spec, self.all_options())

    def child(self, spec: ImageSpec, architecture: Architecture) -> Network:
        """One architecture built alone."""
        allowed = {c.name: (index,) for c, index in zip(self.choices, self.check(architecture), strict=True)}
        return self.build(spec, allowed)

    def extract(self, network: Network, spec: ImageSpec, architecture: Architecture) -> Network:
        """A child with the weights and statistics that its path has in a network which holds it, and in its mode.

        Raises:
            InputError: no architecture of this space, or the network does not hold it.
        """
        with hollow():  # its own weights would be drawn for nothing
            child = self.child(spec, architecture)
        weights = child.weights_from(network.state_dict())
        child.load_state_dict({name: tensor.clone() for name, tensor in weights.items()}, assign=True)
        return child.train(network.training)

    def all_options(self) -> dict[str, tuple[int, ...]]:
        return {choice.name: tuple(range(len(choice.options))) for choice in self.choices}

    def legal(self, prefix: Sequence[int]) -> tuple[int, ...]:
        """The options that remain for the next choice after `prefix`."""
        return tuple(range(len(self.choices[len(prefix)].options)))

    def odds(self, prefix: Sequence[int], allowed: Allowed | None = None) -> dict[int, int]:
        """The options that may come next, each with how many architectures go on so, up to a common factor.

        Drawn in proportion to it, option by option, every architecture is as likely. `allowed` None allows all. Where
        `legal` is overridden and this is not, all legal options count alike.
        """
        legal = self.legal(prefix)
        options = legal if allowed is None else allowed[self.choices[len(prefix)].name]
        return {index: 1 for index in legal if index in options}

    def canonical(self, architecture: Architecture) -> Architecture:
        """The one architecture that stands for all that are the same network when trained alone."""
        return architecture

    def check(self, architecture: Sequence[int]) -> Architecture:
        """The architecture, if it is one of this space; InputError otherwise."""
        indices = tuple(architecture)
        if len(indices) != len(self.choices):
            raise InputError(f"{indices} has {len(indices)} options, {self.name} has {len(self.choices)} choices")
        for position, index in enumerate(indices):
            if index not in self.legal(indices[:position]):
                raise InputError(f"option {index} is not legal for choice {self.choices[position].name} of {self.name}")
        return indices

    def format(self, architecture: Architecture) -> str:
        """A digit a choice, counted from 1; spaces with a published notation override this and `parse`."""
        return "".join(str(index + 1) for index in architecture)

    def parse(self, text: str) -> Architecture:
        """The inverse of `format`.

        Raises:
            InputError: `text` is no architecture of this space.
        """
        most = max(len(choice.options) for choice in self.choices)
        if len(text) == len(self.choices) and text.isascii() and text.isdigit():
            indices = tuple(int(digit) - 1 for digit in text)
            if all(0 <= i < len(c.options) for i, c in zip(indices, self.choices, strict=True)):
                return self.check(indices)
        raise InputError(
            f"{text!r} is no architecture of {self.name}: expected {len(self.choices)} digits from 1 to {most}, "
            f"such as {self.format(next(self.architectures()))!r}"
        )

    def architectures(self) -> Iterator[Architecture]:
        """Every architecture, in lexicographic order, one at a time."""
        if type(self).legal is Space.legal:
            return itertools.product(*(range(len(choice.options)) for choice in self.choices))
        return self._architectures_from(())

    def counted(self, architecture: Architecture) -> Architecture:
        """What an architecture is counted as in a ranking: itself, or its canonical spelling (`counts_twins`)."""
        return architecture if self.counts_twins else self.canonical(architecture)

    def rankable(self) -> Iterator[Architecture]:
        """Every architecture that a ranking counts, in lexicographic order, one at a time."""
        return (a for a in self.architectures() if self.counts_twins or self.canonical(a) == a)

    @property
    def rankable_size(self) -> int:
        """How many architectures a ranking counts."""
        return self.size if self.counts_twins else sum(1 for _ in self.rankable())

    def _architectures_from(self, prefix: Architecture) -> Iterator[Architecture]:
        if len(prefix) == len(self.choices):
            yield prefix
            return
        for index in self.legal(prefix):
            yield from self._architectures_from((*prefix, index))

    def within(self, allowed: Allowed) -> list[Architecture]:
        """The architectures that a mask leaves, in lexicographic order.

        Raises:
            InputError: the space is too large to be listed, or none is left.
        """
        if self.size > LISTED:
            raise InputError(f"{self.name} has {self.size:,} architectures: expected at most {LISTED:,} to list them")
        names = [choice.name for choice in self.choices]
        found = [a for a in self.architectures() if all(i in allowed[n] for i, n in zip(a, names, strict=True))]
        if not found:
            raise InputError(f"no architecture of {self.name} is left: allow more options")
        return found

    def counted_within(self, allowed: Allowed) -> list[Architecture]:
        """The architectures that a ranking counts and that a mask leaves in some spelling, in lexicographic order.

        Raises:
            InputError: as `within`.
        """
        return sorted({self.counted(architecture) for architecture in self.within(allowed)})

    @property
    def size(self) -> int:
        """How many architectures there are; `len` refuses numbers from 2 ** 63 on, and many spaces are larger.

        Spaces that override `legal` override it too.
        """
        return math.prod(len(choice.options) for choice in self.choices)

    def __len__(self) -> int:
        return self.size

    def __bool__(self) -> bool:
        return True

    def sample(self, rng: torch.Generator) -> Architecture:
        """A uniform architecture, as far as `odds` knows."""
        prefix: Architecture = ()
        for _ in self.choices:
            prefix += (drawn(self.odds(prefix), rng),)
        return prefix

    def largest(self, allowed: Allowed) -> Architecture:
        """The largest child within the mask: options of a nested choice are ordered from small to large.

        Raises:
            InputError: the options of a choice stand side by side, and none is the largest.
        """
        return self._at_the_end(allowed, -1)

    def smallest(self, allowed: Allowed) -> Architecture:
        """The smallest child within the mask; as `largest`."""
        return self._at_the_end(allowed, 0)

    def _at_the_end(self, allowed: Allowed, place: int) -> Architecture:
        for choice in self.choices:
            if choice.kind != "nested":
                raise InputError(
                    f"{choice.name} of {self.name} has no order of sizes, so no child is the "
                    f"{'largest' if place else 'smallest'}: the sandwich rule needs a space such as elastic or "
                    "slimmable, or both ends named"
                )
        return tuple(allowed[choice.name][place] for choice in self.choices)

    def gates(self, architecture: Architecture) -> Gates:
        """The gates that run one architecture alone."""
        return {c.name: Gate(active=(index,)) for c, index in zip(self.choices, architecture, strict=True)}

    def graph(self, architecture: Architecture) -> list[Edge]:
        """The architecture as arrows from what it reads to what it makes: here a row of its choices."""
        nodes = ["input", *(f"after {choice.name}" for choice in self.choices[:-1]), "output"]
        labels = [c.options[i].name for c, i in zip(self.choices, architecture, strict=True)]
        return [Edge(a, b, label) for a, b, label in zip(nodes[:-1], nodes[1:], labels, strict=True)]

    def cost(self, architecture: Architecture, spec: ImageSpec) -> Cost:
        """Parameters and FLOPs of the child (`torch.utils.flop_counter`: convolutions and matrix products)."""
        with hollow():
            child = self.child(spec, architecture).eval()
            image = torch.empty(1, spec.channels, spec.size, spec.size)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            child(image)
        auxiliary = 0 if child.auxiliary is None else trainable(child.auxiliary)
        return Cost(trainable(child.segments), counter.get_total_flops(), auxiliary)


def trainable(module: nn.Module) -> int:
    """How many numbers the trainable parameters of a module hold."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def drawn(odds: Mapping[int, float], rng: torch.Generator) -> int:
    """One of the options, in proportion to its odds; at least one option is needed."""
    options, weights = list(odds), list(odds.values())
    if len(set(weights)) == 1:
        return options[int(torch.randint(len(options), (), generator=rng))]
    total = sum(weights)
    steps = list(itertools.accumulate(weight / total for weight in weights[:-1]))
    return options[bisect.bisect_right(steps, float(torch.rand((), generator=rng, dtype=torch.float64)))]
