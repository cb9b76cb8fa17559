"""Dropout on operations that have no weights of their own, so that they do not win by being easy to train.

P-DARTS (Chen et al. 2019, section 3.3): dropout behind each skip connection, decayed while the search goes on; the
released code drops elements, and multiplies the rate by exp(-0.2) an epoch once alpha learns. Before that the rate
falls along a line, and then starts again.
"""

import math
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from nastricks.errors import InputError
from nastricks.modules.normalisation import BatchNorm
from nastricks.modules.trick import Change, Trick
from nastricks.moment import Moment
from nastricks.spaces import GatedOps, Gates, Space

if TYPE_CHECKING:
    from nastricks.modules import TrainingModule

Target = Literal["skips", "parameter_free"]


def dropout_rate(probability: float, decay: float, progress: float, restart: float = 0.0) -> float:
    """probability * exp(-decay * part), part in [0, 1] being how much is done of the run from `restart` on.

    Before that probability * (1 - progress), where progress in [0, 1] is the part of the whole run that is done.
    """
    if progress < restart:
        return probability * (1 - progress)
    return probability * math.exp(-decay * (progress - restart) / (1 - restart))


def has_weights(operation: nn.Module) -> bool:
    """Whether an operation learns anything beside the scale and shift of a batch norm."""
    return any(True for m in operation.modules() if not isinstance(m, BatchNorm) for _ in m.parameters(recurse=False))


def dropped_operations(space: Space, networks: nn.Module, target: Target) -> list[nn.Module]:
    """The operations that get dropout: all without weights, or of those the skip connections alone.

    A skip connection that changes the shape has weights.
    """
    skips = {c.name: {o.name for o in c.options if o.skip} for c in space.choices}
    return [
        operation
        for ops in networks.modules()
        if isinstance(ops, GatedOps)
        for name, operation in ops.ops.items()
        if not has_weights(operation) and (target == "parameter_free" or name in skips[ops.choice_name])
    ]


class OpDropout(Trick):
    """Drops elements of the outputs of operations without weights, less and less as the run goes on.

    Args:
        probability: Dropout rate at the start of the run, in [0, 1); the stages of P-DARTS take 0.1, 0.4, 0.7.
        decay: At least 0: the rate at the end is exp(-decay) times `probability`.
        target: On skip connections alone, or on every operation without weights.
        restart: Part of the run up to which the rate falls along a line that would reach 0 at the run's end, before it
            starts again at `probability`, in [0, 1); P-DARTS takes the part for which alpha is frozen, 0.4.

    Raises:
        InputError: a value is out of its range.
    """

    changes: ClassVar[Change] = "loss"
    order = 30
    neutral = {"probability": 0.0}

    def __init__(
        self, probability: float = 0.1, decay: float = 3.0, target: Target = "skips", restart: float = 0.0
    ) -> None:
        super().__init__()
        if not 0 <= probability < 1:
            raise InputError(f"op_dropout.probability is {probability}: expected a number in [0, 1), such as 0.4")
        if not 0 <= decay < float("inf"):
            raise InputError(f"op_dropout.decay is {decay}: expected at least 0, such as 3")
        if target not in ("skips", "parameter_free"):
            raise InputError(f"op_dropout.target is {target!r}: expected skips or parameter_free")
        if not 0 <= restart < 1:
            raise InputError(f"op_dropout.restart is {restart}: expected a number in [0, 1), such as 0.4")
        self.probability, self.decay, self.target, self.restart = probability, decay, target, restart
        self._rate = 0.0  # of the pass that comes next
        self._dropped = False

    def refusal(self, module: "TrainingModule") -> str | None:
        if not dropped_operations(module.space, module.networks, self.target):
            what = "a skip connection" if self.target == "skips" else "an operation without weights"
            return f"trick op_dropout needs {what}, and this network of {module.space.name} has none: leave it out"
        return super().refusal(module)

    def surgery(self, module: "TrainingModule") -> None:
        # Hooks leave the names of weights as they are, so checkpoints fit with and without the trick.
        for operation in dropped_operations(module.space, module.networks, self.target):
            operation.register_forward_hook(self._behind_operation())
        for network in module.networks:
            last = list(network.segments.values())[-1]  # type: ignore[operator]
            last.register_forward_hook(self._behind_network())

    def on_gates(self, gates: Gates, at: Moment) -> Gates:
        learning = at.role in ("weights", "policy")
        self._rate = dropout_rate(self.probability, self.decay, at.progress, self.restart) if learning else 0.0
        return gates

    # Functions rather than methods: a network that is copied keeps its hooks, and must not copy the trick with them.

    def _behind_operation(self) -> Any:
        def drop(operation: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
            if self._rate == 0.0 or not operation.training:
                return output
            self._dropped = True
            return F.dropout(output, self._rate)

        return drop

    def _behind_network(self) -> Any:
        def disarm(network: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
            """What runs without passing `on_gates` [rewards, calibration] is not dropped from."""
            if self._dropped:
                self.act()
            self._rate, self._dropped = 0.0, False

        return disarm
