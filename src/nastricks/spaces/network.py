"""The network that holds what a space allows, and the gates that say which part of it runs.

With every option allowed it is the supernet, with one option a choice a child, with some options a sub-supernet
[few-shot, P-DARTS]. Because it is the same class, a child's parameters bear the names that they bear in the supernet.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nastricks.errors import InputError
from nastricks.spaces.choices import Allowed, Choice
from nastricks.spaces.elastic_layers import is_transform, narrowed


@dataclass(frozen=True)
class Gate:
    """Which options of one choice run, and with what weight.

    `active`: indices of the options that run, known on the host. `weights`: None (they are added as they are), one
    an active option (A,), or one an option and sample (A, N). `bypass`: weight of the choice's own input beside its
    options, scalar or (N,) [stochastic depth where no shortcut exists, the auxiliary skip of DARTS-]. `scale`: weight
    () of all that the choice gives out, channels that pass beside its options too [PC-DARTS, equation 3].

    Where a choice stands in P places of a network (cells that share an architecture), weights a sample may differ from
    place to place: (A, N, P), and the bypass (N, P) [drop path].
    """

    active: tuple[int, ...]
    weights: Tensor | None = None
    bypass: Tensor | None = None
    scale: Tensor | None = None

    def at(self, place: int) -> "Gate":
        """The gate of one of the places in which its choice stands."""
        apart = self.weights is not None and self.weights.dim() == 3
        passes_apart = self.bypass is not None and self.bypass.dim() == 2
        if not (apart or passes_apart):
            return self
        weights = self.weights[..., place] if self.weights is not None and apart else self.weights
        bypass = self.bypass[..., place] if self.bypass is not None and passes_apart else self.bypass
        return replace(self, weights=weights, bypass=bypass)

    def scaled(self) -> "Gate":
        """The gate with its scale in the weights and in the bypass."""
        if self.scale is None:
            return self
        weights = self.scale.expand(len(self.active)) if self.weights is None else self.weights * self.scale
        return Gate(self.active, weights, None if self.bypass is None else self.bypass * self.scale)


Gates = Mapping[str, Gate]


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


def interleaved(parts: Sequence[Tensor]) -> Tensor:
    """Parts (N, C, H, W) -> (N, parts * C, H, W): channel c of part p becomes number c * parts + p.

    What `torch.nn.functional.channel_shuffle` makes of their concatenation, in a third of its time.
    """
    return torch.stack([part.permute(0, 2, 3, 1) for part in parts], dim=-1).flatten(-2).permute(0, 3, 1, 2)


class Placed(nn.Module):
    """One of the places in which a choice stands in a network, counted from 0 by the network that holds it."""

    choice_name: str
    place: int = 0


class GatedOps(Placed):
    """The operations of one parallel choice; only the active ones run.

    Args:
        choice: The choice.
        options: The indices of the options to hold.
        make: Makes the operation of an option for a number of channels: (N, C, H, W) -> (N, C', ceil(H / stride), ...).
        channels: C, of the input.
        stride: 1 or 2.
        outputs: C', of the output; None is C.
    """

    def __init__(
        self,
        choice: Choice,
        options: Sequence[int],
        make: Callable[[int, int], nn.Module],
        channels: int,
        stride: int = 1,
        outputs: int | None = None,
    ) -> None:
        super().__init__()
        self.choice_name = choice.name
        self.names = [option.name for option in choice.options]
        self.runs = [not option.absent for option in choice.options]
        self.options, self.make, self.channels, self.stride = tuple(options), make, channels, stride
        self.outputs = channels if outputs is None else outputs
        self.narrow(1)

    def narrow(self, parts: int) -> None:
        """Make the operations anew, for the first of `parts` equal parts of the channels [PC-DARTS, equation 2].

        The other channels pass by (at stride 2 through 2x2 max pooling), and then all are shuffled.

        Raises:
            InputError: the channels cannot be cut into so many parts.
        """
        if parts < 1 or self.channels % parts:
            raise InputError(f"{self.channels} channels of {self.choice_name} cannot be cut into {parts} equal parts")
        if parts > 1 and self.outputs != self.channels:
            raise InputError(
                f"{self.choice_name} makes {self.outputs} channels of {self.channels}: those that pass by would be too "
                "few, so take parts of choices that keep their channels alone"
            )
        self.parts = parts
        made = {i: self.make(i, self.channels // parts) for i in self.options if self.runs[i]}
        self.ops = nn.ModuleDict({self.names[index]: op for index, op in made.items()})

    def adds(self, gate: Gate) -> bool:
        """Whether anything but zeros can come out; False where all that is active is absent."""
        return self.parts > 1 or gate.bypass is not None or any(self.runs[index] for index in gate.active)

    def forward(self, x: Tensor, gate: Gate) -> Tensor:
        """x (N, C, H, W) -> the gated sum of the active options' outputs, plus the bypass where there is one."""
        gate = gate.at(self.place)
        if self.parts == 1:
            return self._sum(x, gate.scaled())
        own = self.channels // self.parts
        through, passing = torch.split(x, [own, self.channels - own], dim=1)
        if self.stride > 1:
            passing = F.max_pool2d(passing, self.stride, ceil_mode=True)
        if gate.scale is not None:
            passing = passing * gate.scale
        through = self._sum(through.contiguous(memory_format=torch.channels_last), gate.scaled())
        return interleaved([through, *torch.split(passing, own, dim=1)])

    def _sum(self, x: Tensor, gate: Gate) -> Tensor:
        total: Tensor | None = None
        for position, index in enumerate(gate.active):
            if not self.runs[index]:
                continue
            y: Tensor = self.ops[self.names[index]](x)
            if gate.weights is not None:
                y = y * per_sample(gate.weights[position])
            total = y if total is None else total + y
        if gate.bypass is not None:
            rest = self._own_input(x) * per_sample(gate.bypass)
            total = rest if total is None else total + rest
        if total is not None:
            return total
        if not gate.active:
            raise ValueError("a gate without active options has no output")
        height, width = (math.ceil(side / self.stride) for side in x.shape[2:])
        return x.new_zeros(len(x), x.shape[1] + self.outputs - self.channels, height, width)

    def _own_input(self, x: Tensor) -> Tensor:
        """The input in the shape of the output: its 2x2 mean at stride 2, with channels of zeros [ResNet, option A].

        Where the output has fewer channels, the last are cut off.
        """
        own = x if self.stride == 1 else F.avg_pool2d(x, self.stride, ceil_mode=True)
        return own if self.outputs == self.channels else F.pad(own, (0, 0, 0, 0, 0, self.outputs - self.channels))


def per_sample(weight: Tensor) -> Tensor:
    """() stays; (N,) becomes (N, 1, 1, 1)."""
    return weight if weight.dim() == 0 else weight.view(-1, 1, 1, 1)


class Network(nn.Module):
    """A chain of segments: supernet, sub-supernet or child of a space, by what is allowed.

    Gates are an argument; no module holds an architecture. BN buffers and the train/eval mode are the only state.

    Args:
        segments: The links, in order.
        allowed: The options that the network holds.
        auxiliary: A second head for training alone, and the name of the segment whose output it reads [GoogLeNet,
            DARTS]; None where there is none.
        nested: Whether a smaller network's weights are the beginning of a larger one's (`weights_from`).
    """

    def __init__(
        self,
        segments: Mapping[str, Segment],
        allowed: Allowed,
        auxiliary: tuple[Segment, str] | None = None,
        nested: bool = False,
    ) -> None:
        super().__init__()
        self.nested = nested
        self.segments = nn.ModuleDict(dict(segments))
        self.auxiliary = None if auxiliary is None else auxiliary[0]
        self.auxiliary_reads = None if auxiliary is None else auxiliary[1]
        self.allowed = {name: tuple(options) for name, options in allowed.items()}
        made = all(len(options) == 1 for options in self.allowed.values())
        self._only_gates = {name: Gate(active=options) for name, options in self.allowed.items()} if made else None
        self.places: dict[str, int] = {}  # in how many each choice stands
        for module in self.modules():
            if isinstance(module, Placed):
                module.place = self.places.get(module.choice_name, 0)
                self.places[module.choice_name] = module.place + 1

    def forward(self, images: Any, gates: Gates | None = None, first: int = 0) -> Tensor:
        """images (N, C, H, W) -> logits (N, classes). `gates` may be left out where every choice is made.

        `first` above 0 goes on from the state that the segments before that one have left [a frozen prefix].

        Raises:
            ValueError: no gates for a network that still has choices.
        """
        gates = self.only_gates() if gates is None else gates
        state: Any = images
        for segment in self._links(first).values():
            state = segment(state, gates)
        return state

    def _links(self, first: int) -> Mapping[str, nn.Module]:
        return dict(list(self.segments.items())[first:]) if first else self.segments  # type: ignore[return-value]

    def with_auxiliary(self, images: Any, gates: Gates, first: int = 0) -> tuple[Tensor, Tensor]:
        """As `forward`: logits (N, classes) of the network and of its auxiliary head, which reads what follows."""
        assert self.auxiliary is not None, "asked only where there is one"
        state: Any = images
        extra = None
        for name, segment in self._links(first).items():
            state = segment(state, gates)
            if name == self.auxiliary_reads:
                extra = self.auxiliary(state, gates)
        assert extra is not None, "it reads one of the segments"
        return state, extra

    def weights_from(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """This network's part of another's state, under the names that both bear; what `load_state_dict` takes.

        Raises:
            InputError: the state lacks a tensor, or its shape does not fit.
        """
        found = {}
        for name, own in self.state_dict().items():
            tensor = state.get(name)
            if tensor is None and self.nested and is_transform(name):
                tensor = own  # the earlier network had no smaller kernels: the matrix starts as it is
            if tensor is not None and tensor.shape != own.shape and self.nested:
                tensor = narrowed(name, own.shape, state)
            if tensor is None or tensor.shape != own.shape:
                bare = tensor is None and name.endswith(("running_mean", "running_var", "num_batches_tracked"))
                other = "of a run without batch norms [norm_swap]" if bare else "of another space or width"
                raise InputError(f"the earlier weights do not fit at {name}: they are {other}")
            found[name] = tensor
        return found

    def only_gates(self) -> Gates:
        """The gates of a network with one option a choice."""
        if self._only_gates is None:
            raise ValueError("this network still has choices: pass gates")
        return self._only_gates
