"""What exists: choices, gates, architectures, and the network that holds every one of them.

A space knows nothing of training. It builds one kind of network: with every option allowed that is the supernet,
with one option a choice it is a child, and with some options it is a sub-supernet [few-shot, P-DARTS]. Because it is
the same class, a child's parameters bear the names that they bear in the supernet.
"""

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from nastricks.data.batch import ImageSpec
from nastricks.errors import InputError

Architecture = tuple[int, ...]
"""The index of one option for every choice, in the order of `Space.choices`."""

Allowed = Mapping[str, Sequence[int]]
"""The options that remain of each choice."""


@dataclass(frozen=True)
class Option:
    """One option of a choice. `identity` passes its input through unchanged; `learns` says that it has weights."""

    name: str
    identity: bool = False
    learns: bool = True


@dataclass(frozen=True)
class Choice:
    """One named decision of a space.

    `kind`: options stand side by side (`parallel`), a smaller one lives inside a larger (`nested`), or they say which
    edges a node takes (`inputs`). `dropped` is what stands in for a path that a trick drops for a sample: nothing
    (`zero`), where other paths are added to it; the choice's own input (`input`), where the path is the only way.
    """

    name: str
    options: tuple[Option, ...]
    kind: Literal["parallel", "nested", "inputs"] = "parallel"
    dropped: Literal["zero", "input"] = "zero"


@dataclass(frozen=True)
class Gate:
    """Which options of one choice run, and with what weight.

    `active`: indices of the options that run, known on the host. `weights`: None (they are added as they are), one
    an active option (A,), or one an option and sample (A, N). `bypass`: weight of the choice's own input beside its
    options, scalar or (N,) [stochastic depth where no shortcut exists, the auxiliary skip of DARTS-].
    """

    active: tuple[int, ...]
    weights: Tensor | None = None
    bypass: Tensor | None = None


Gates = Mapping[str, Gate]


class Cost(NamedTuple):
    """Size of a child: trainable parameters, and floating-point operations for one image (2 a multiply-add)."""

    params: int
    flops: int


class Edge(NamedTuple):
    """One arrow of an architecture's drawing."""

    source: str
    target: str
    label: str


class Segment(nn.Module, ABC):
    """One link of the chain that a network is; `choices` names the choices whose gates it reads."""

    choices: tuple[str, ...] = ()

    @abstractmethod
    def forward(self, state: Any, gates: Gates) -> Any:
        """Map the state (a tensor, or whatever the space hands from link to link) to the next link's."""


class Plain(Segment):
    """A link without a choice."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, state: Tensor, gates: Gates) -> Tensor:
        return self.layers(state)


class GatedOps(nn.Module):
    """The operations of one parallel choice; only the active ones run."""

    def __init__(self, choice: Choice, ops: Mapping[int, nn.Module]) -> None:
        super().__init__()
        self.choice_name = choice.name
        self.names = [option.name for option in choice.options]
        self.ops = nn.ModuleDict({self.names[index]: op for index, op in ops.items()})

    def forward(self, x: Tensor, gate: Gate) -> Tensor:
        """x (N, C, H, W) -> the gated sum of the active options' outputs, plus the bypass where there is one."""
        total: Tensor | None = None
        for position, index in enumerate(gate.active):
            y: Tensor = self.ops[self.names[index]](x)
            if gate.weights is not None:
                y = y * _per_sample(gate.weights[position])
            total = y if total is None else total + y
        if gate.bypass is not None:
            rest = x * _per_sample(gate.bypass)
            total = rest if total is None else total + rest
        if total is None:
            raise ValueError("a gate without active options has no output")
        return total


def _per_sample(weight: Tensor) -> Tensor:
    """() stays; (N,) becomes (N, 1, 1, 1)."""
    return weight if weight.dim() == 0 else weight.view(-1, 1, 1, 1)


class Network(nn.Module):
    """A chain of segments: supernet, sub-supernet or child of a space, by what is allowed.

    Gates are an argument; no module holds an architecture. BN buffers and the train/eval mode are the only state.
    """

    def __init__(self, segments: Mapping[str, Segment], allowed: Allowed) -> None:
        super().__init__()
        self.segments = nn.ModuleDict(dict(segments))
        self.allowed = {name: tuple(options) for name, options in allowed.items()}

    def forward(self, images: Tensor, gates: Gates | None = None) -> Tensor:
        """images (N, C, H, W) -> logits (N, classes). `gates` may be left out where every choice is made.

        Raises:
            ValueError: no gates for a network that still has choices.
        """
        gates = self.only_gates() if gates is None else gates
        state: Any = images
        for segment in self.segments.values():
            state = segment(state, gates)
        return state

    def only_gates(self) -> Gates:
        """The gates of a network with one option a choice."""
        if any(len(options) != 1 for options in self.allowed.values()):
            raise ValueError("this network still has choices: pass gates")
        return {name: Gate(active=options) for name, options in self.allowed.items()}


class Space(ABC):
    """A search space: its choices, its networks, and how its architectures are written."""

    name: ClassVar[str]
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

    def all_options(self) -> dict[str, tuple[int, ...]]:
        return {choice.name: tuple(range(len(choice.options))) for choice in self.choices}

    def legal(self, prefix: Sequence[int]) -> tuple[int, ...]:
        """The options that remain for the next choice after `prefix`."""
        return tuple(range(len(self.choices[len(prefix)].options)))

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
        """Every architecture, in lexicographic order."""
        return itertools.product(*(range(len(choice.options)) for choice in self.choices))

    @property
    def size(self) -> int:
        """How many architectures there are; `len` refuses numbers from 2 ** 63 on, and many spaces are larger."""
        return math.prod(len(choice.options) for choice in self.choices)

    def __len__(self) -> int:
        return self.size

    def __bool__(self) -> bool:
        return True

    def sample(self, rng: torch.Generator) -> Architecture:
        """A uniform architecture: option by option among the legal ones."""
        prefix: Architecture = ()
        for _ in self.choices:
            legal = self.legal(prefix)
            prefix += (legal[int(torch.randint(len(legal), (), generator=rng))],)
        return prefix

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
        with torch.device("meta"):
            child = self.child(spec, architecture).eval()
            image = torch.empty(1, spec.channels, spec.size, spec.size)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            child(image)
        params = sum(p.numel() for p in child.parameters() if p.requires_grad)
        return Cost(params, counter.get_total_flops())
