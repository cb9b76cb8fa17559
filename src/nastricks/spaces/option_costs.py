"""What every option of every choice costs: a network's cost as a sum over its choices.

A supernet is run once with all options on, and what each operation adds is counted. For spaces in which every choice
is the operations of one `GatedOps` or of several (the cells that share an architecture), the cost of a child is then a
constant plus one term a choice, and the expected cost of a distribution over children that draws each choice on its own
is linear in its probabilities (ProxylessNAS, Cai et al. 2019, section 3.3; FBNet, Wu et al. 2019, section 3.2).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from nastricks.data.batch import ImageSpec
from nastricks.errors import InputError
from nastricks.spaces.base import Space
from nastricks.spaces.choices import Allowed, Architecture
from nastricks.spaces.hollow import hollow
from nastricks.spaces.network import Gate, GatedOps, Network

OpHook = Callable[[GatedOps, int, nn.Module, Tensor], None]
"""Called before an operation runs: its place, the option's index, the operation, and its input (N, C, H, W)."""


@dataclass(frozen=True)
class OptionCosts:
    """A cost that is a constant plus one term a choice.

    `unit` names it, such as ``FLOPs``; `base` is what all children have; `options` holds a cost an option (options,) of
    each choice.
    """

    unit: str
    base: float
    options: Mapping[str, tuple[float, ...]]

    def of(self, space: Space, architecture: Architecture) -> float:
        """The cost of a child."""
        return self.base + sum(self.options[c.name][i] for c, i in zip(space.choices, architecture, strict=True))

    @property
    def mean(self) -> float:
        """The expected cost where each choice is drawn on its own, all its options alike."""
        return self.base + sum(sum(costs) / len(costs) for costs in self.options.values())

    @property
    def least(self) -> float:
        """The cost of the cheapest child."""
        return self.base + sum(min(costs) for costs in self.options.values())

    def times(self, number: float, unit: str) -> "OptionCosts":
        """The same costs in a unit of which so many are one of this one."""
        options = {name: tuple(number * cost for cost in costs) for name, costs in self.options.items()}
        return OptionCosts(unit, number * self.base, options)

    def expected(self, strengths: Mapping[str, Tensor], allowed: Allowed) -> Tensor:
        """The expected cost () where each choice is drawn on its own, its allowed options by their strengths.

        `strengths`: (allowed,) for each choice, at least 0; they are normalised within the choice. Differentiable.
        """
        total: Tensor | None = None
        for name, strength in strengths.items():
            costs = strength.new_tensor([self.options[name][index] for index in allowed[name]])
            term = (strength * costs).sum() / strength.sum().clamp_min(torch.finfo(strength.dtype).eps)
            total = term if total is None else total + term
        assert total is not None, "a space has a choice"
        return total + self.base


def option_costs(space: Space, spec: ImageSpec) -> dict[str, OptionCosts]:
    """FLOPs of one image and trainable parameters of every option, as ``{"flops": ..., "params": ...}``.

    The counts are those of `Space.cost`, and add up to it for every child.

    Raises:
        InputError: a choice of the space is more than which operations run, so that costs do not add up.
    """
    with hollow():
        network = space.supernet(spec).eval()
        image = torch.empty(1, spec.channels, spec.size, spec.size)
    flops = {c.name: [0.0] * len(c.options) for c in space.choices}
    params = {c.name: [0.0] * len(c.options) for c in space.choices}
    before = 0

    def begin(place: GatedOps, index: int, op: nn.Module, x: Tensor) -> None:
        nonlocal before
        before = counter.get_total_flops()

    def end(place: GatedOps, index: int, op: nn.Module, x: Tensor) -> None:
        flops[place.choice_name][index] += counter.get_total_flops() - before
        params[place.choice_name][index] += _parameters(op)

    with FlopCounterMode(display=False) as counter, watched(space, network, begin, end), torch.no_grad():
        network(image, all_on(space))
    whole = {"flops": float(counter.get_total_flops()), "params": float(_parameters(network))}
    units, counted = {"flops": "FLOPs", "params": "parameters"}, {"flops": flops, "params": params}
    return {
        key: OptionCosts(
            units[key],
            whole[key] - sum(map(sum, costs.values())),
            {name: tuple(of_choice) for name, of_choice in costs.items()},
        )
        for key, costs in counted.items()
    }


def all_on(space: Space) -> dict[str, Gate]:
    """Gates that run every option."""
    return {name: Gate(options) for name, options in space.all_options().items()}


def places(space: Space, network: Network) -> list[GatedOps]:
    """Where operations of the space's choices stand in a network, in its order.

    Raises:
        InputError: a choice has no such place, so that it is more than which operations run.
    """
    found = [module for module in network.modules() if isinstance(module, GatedOps)]
    missing = [c.name for c in space.choices if c.name not in {place.choice_name for place in found}]
    if missing:
        raise InputError(
            f"the options of {missing[0]} of {space.name} are no operations beside each other: costs do not add up "
            "over its choices, use Space.cost of whole children"
        )
    return found


@contextmanager
def watched(space: Space, network: Network, begin: OpHook, end: OpHook) -> Iterator[None]:
    """Call `begin` and `end` around every operation of every choice, inside the block.

    Raises:
        InputError: see `places`; or one pass runs an operation more than once.
    """
    handles, ran = [], set[nn.Module]()
    for place in places(space, network):
        for index in place.options:
            if place.names[index] in place.ops:
                op = place.ops[place.names[index]]
                handles.append(op.register_forward_pre_hook(_before(begin, place, index, ran)))
                handles.append(op.register_forward_hook(_after(end, place, index)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _before(call: OpHook, place: GatedOps, index: int, ran: set[nn.Module]) -> Callable[..., None]:
    def hook(op: nn.Module, inputs: Sequence[Any]) -> None:
        if op in ran:
            raise InputError(f"{place.choice_name} runs its operations more than once a pass: costs do not add up")
        ran.add(op)
        call(place, index, op, inputs[0])

    return hook


def _after(call: OpHook, place: GatedOps, index: int) -> Callable[..., None]:
    def hook(op: nn.Module, inputs: Sequence[Any], output: Tensor) -> None:
        call(place, index, op, inputs[0])

    return hook


def _parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)
