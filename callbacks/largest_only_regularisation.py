"""Dropout and weight decay on the largest path alone.

BigNAS (Yu et al. 2020, 2003.11142, section 3.1): only the largest child sees the labels and overfits; the others learn
from it, and underfit when they are regularised too.
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nastricks.data.batch import ImageSpec
from nastricks.errors import InputError
from nastricks.modules.trick import Change, Forward, Trick
from nastricks.moment import Moment
from nastricks.spaces import Architecture, Gates, Network, Space

if TYPE_CHECKING:
    from nastricks.modules import TrainingModule


MOST_KEPT = 10_000  # architectures whose shapes are remembered


def shapes_of(space: Space, spec: ImageSpec, architecture: Architecture) -> dict[str, torch.Size]:
    """The parameters that an architecture runs, by the names that they bear in the supernet, and their shapes."""
    with torch.device("meta"):
        child = space.child(spec, architecture)
    return {name: parameter.shape for name, parameter in child.named_parameters()}


def part_of(parameter: Tensor, shape: torch.Size) -> Tensor:
    """The part of an elastic layer's tensor that a path of this shape runs: first channels, middle of a kernel."""
    for axis, (own, size) in enumerate(zip(parameter.shape, shape, strict=True)):
        parameter = parameter.narrow(axis, (own - size) // 2 if axis > 1 else 0, size)
    return parameter


def half_square(weights: Iterable[Tensor]) -> Tensor:
    """Half the sum of all squares (): its gradient is the weights themselves."""
    return 0.5 * torch.stack([w.square().sum() for w in weights]).sum()


class LargestOnlyRegularisation(Trick):
    """Dropout before the classifier, and the optimizer's weight decay, for the first path of a step alone.

    The decay is taken from the optimizer, which then applies none, and enters the loss of the largest path as half of
    itself times the sum of its weights' squares. All parameters decay, as in torch's optimizers, but for those that the
    largest path does not run (the matrices of smaller kernels).

    Args:
        dropout: Share of the classifier's inputs that are dropped, in [0, 1).
        every_path: Regularise every path of the step in place of the largest alone, each with its part of the
            weights: what BigNAS compares with.

    Raises:
        InputError: `dropout` is out of its range.
    """

    changes: ClassVar[Change] = "gradients"
    order = 40

    def __init__(self, dropout: float = 0.2, every_path: bool = False) -> None:
        super().__init__()
        if not 0 <= dropout < 1:
            raise InputError(f"largest_only_regularisation.dropout is {dropout}: expected a number in [0, 1)")
        self.dropout, self.every_path = dropout, every_path
        self.decay = 0.0
        self._module: TrainingModule | None = None
        self._drops = False
        self._shapes: dict[Architecture, Mapping[str, torch.Size]] = {}

    def refusal(self, module: "TrainingModule") -> str | None:
        if not module.policy.largest_first:
            return (
                "trick largest_only_regularisation tells the largest path of a step from the others, and "
                f"{type(module.policy).__name__} runs no such paths: use nastricks.policies.Sandwich"
            )
        own: dict[str, Any] = module.optimizer_maker(module.networks.parameters()).defaults
        self._module, self.decay = module, float(own.get("weight_decay", 0.0))
        if self.decay and own.get("decoupled_weight_decay"):
            return (
                "trick largest_only_regularisation puts the weight decay into the loss, and the optimizer decays apart "
                "from it: use SGD or Adam in place of AdamW, or a weight_decay of 0"
            )
        if self.decay == 0.0 and self.dropout == 0.0:
            return (
                "trick largest_only_regularisation has nothing to do: its dropout and the optimizer's weight_decay "
                "are both 0, so set one"
            )
        return super().refusal(module)

    def surgery(self, module: "TrainingModule") -> None:
        for network in module.networks:
            assert isinstance(network, Network)
            layers = [layer for layer in network.segments.modules() if isinstance(layer, nn.Linear)]
            layers[-1].register_forward_pre_hook(self._drop)

    def _drop(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        # The training step forks torch's generators by key around every forward pass, so this draw is keyed too.
        if not self._drops or not layer.training or self.dropout == 0.0:
            return None
        return (F.dropout(inputs[0], self.dropout),)

    def on_gates(self, gates: Gates, at: Moment) -> Gates:
        self._drops = at.role == "weights" and self._regularised(at)
        return gates

    def on_loss(self, loss: Tensor, forward: Forward, at: Moment) -> Tensor:
        if not self._regularised(at):
            return loss
        assert self._module is not None, "refusal comes first"
        assert self._module.current is not None, "a loss is of a step"
        for group in self._module.current.weight_optimizer.param_groups:
            group["weight_decay"] = 0.0  # it is in the loss
        self.act()
        return loss + self.decay * half_square(self._weights(forward.gates)) if self.decay else loss

    def _regularised(self, at: Moment) -> bool:
        return self.every_path or at.gate_set == 0

    def _weights(self, gates: Gates) -> list[Tensor]:
        """The parts of the parameters that a path runs."""
        module = self._module
        assert module is not None, "refusal comes first"
        architecture, own = module.architecture_of(gates), dict(module.network_of(gates).named_parameters())
        if architecture is None:  # a trick lets several options run [operation warm-up]
            return list(own.values())
        if architecture not in self._shapes:
            if len(self._shapes) > MOST_KEPT:
                self._shapes.clear()
            self._shapes[architecture] = shapes_of(module.space, module.spec, architecture)
        return [part_of(own[name], shape) for name, shape in self._shapes[architecture].items()]
