"""Stop the search where the search loss grows sharp in alpha, and go back to before it did.

Zela et al. 2020 ("Understanding and Robustifying Differentiable Architecture Search", section 4.3): the local average
of the largest eigenvalue of the search loss's Hessian by alpha, against the one a few epochs before. The paper stops
where previous / current < 0.75, its code where current / previous > 1.3, for averages over 5 values, 4 values apart.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import pytorch_lightning as pl
import torch

from nastricks.errors import InputError
from nastricks.modules.curvature import search_eigenpair
from nastricks.modules.trick import Change, Need, Trick
from nastricks.moment import Moment

if TYPE_CHECKING:
    from nastricks.modules import TrainingModule


def epoch_to_return_to(
    eigenvalues: Mapping[int, float], window: int = 5, distance: int = 4, factor: float = 1.3, first_epoch: int = 10
) -> int | None:
    """The epoch that the latest local average is compared with, where it is more than `factor` times as sharp.

    A local average is over `window` values and belongs to the middle one; those that the first values are missing from
    are over the others. The epochs compared are `distance` values apart. None where the search goes on: also where
    nothing is compared yet, the earlier epoch is before `first_epoch`, or its average is not above zero.

    Args:
        eigenvalues: By epochs done, in order.
        window: At least 1.
        distance: At least 1.
        factor: Above 1.
        first_epoch: At least 1.
    """
    epochs, values = list(eigenvalues), list(eigenvalues.values())
    target = len(values) - 1 - distance - window // 2
    if target < 0 or epochs[target] < first_epoch:
        return None

    def average(last: int) -> float:
        members = values[max(0, last - window + 1) : last + 1]
        return sum(members) / len(members)

    previous, current = average(len(values) - 1 - distance), average(len(values) - 1)
    return epochs[target] if previous > 0 and current / previous > factor else None


class EarlyStopHessian(Trick):
    """Measures the sharpness before every epoch, and ends the training where it has grown too fast.

    The run's checkpoint is then that of the epoch gone back to: its weights, statistics and policy, bit for bit. The
    states that may be needed are kept on the CPU and in the checkpoint, window // 2 + distance + 1 of them.

    Args:
        window: Values of a local average, at least 1.
        distance: How many values apart the averages are that are compared, at least 1.
        factor: Stop where the later one is more than this times the earlier one, above 1.
        first_epoch: The earliest epoch to go back to, at least 1.
        every: Measure every so many epochs, at least 1.
        batches: Batches of the search split that the loss is measured on, at least 1.
        rollback: Go back; false ends the training with what it has come to.

    Raises:
        InputError: a value out of its range.
    """

    changes: ClassVar[Change] = "length of training"
    needs: ClassVar[tuple[Need, ...]] = ("policy that learns", "gradient through the gates")
    guard = True
    order = -100  # the state that is kept is that of the epoch's end, before other tricks change what is allowed

    def __init__(
        self,
        window: int = 5,
        distance: int = 4,
        factor: float = 1.3,
        first_epoch: int = 10,
        every: int = 1,
        batches: int = 1,
        rollback: bool = True,
    ) -> None:
        super().__init__()
        counts = {
            "window": window,
            "distance": distance,
            "first_epoch": first_epoch,
            "every": every,
            "batches": batches,
        }
        for name, value in counts.items():
            if value < 1:
                raise InputError(f"early_stop_hessian.{name} is {value}: expected at least 1")
        if not 1 < factor < float("inf"):
            raise InputError(f"early_stop_hessian.factor is {factor}: expected a number above 1, such as 1.3")
        self.window, self.distance, self.factor, self.first_epoch = window, distance, factor, first_epoch
        self.every, self.batches, self.rollback = every, batches, rollback
        self.eigenvalues: dict[int, float] = {}
        self._kept: dict[int, dict[str, Any]] = {}
        self.back_to: int | None = None

    @property
    def earliest_stop(self) -> int:
        """The first epoch after which the training may end."""
        first = -(-self.first_epoch // self.every) * self.every
        return first + (self.distance + self.window // 2) * self.every

    def refusal(self, module: "TrainingModule") -> str | None:
        epochs = module.trainer.max_epochs
        if epochs is not None and 0 < epochs < self.earliest_stop:
            return (
                f"trick early_stop_hessian may stop after epoch {self.earliest_stop} at the earliest, and the run has "
                f"{epochs}: train longer, or lower first_epoch, window, distance or every"
            )
        if module.trainer.datamodule.sizes["search"] == 0:  # type: ignore[attr-defined]
            return "trick early_stop_hessian measures the loss of the search split, and it is empty: set search_size"
        return super().refusal(module)

    def on_epoch(self, module: "TrainingModule", at: Moment) -> bool:
        epoch = round(at.epoch)
        if epoch % self.every:
            return False
        found = search_eigenpair(module, at, self.batches)
        self.act()
        self.eigenvalues[epoch] = found.value
        module.note({"early_stop_hessian/eigenvalue": found.value})
        if self.rollback and epoch >= self.first_epoch:
            self._keep(epoch, module)
        rule = (self.window, self.distance, self.factor, self.first_epoch)
        back_to = epoch_to_return_to(self.eigenvalues, *rule)
        if back_to is None:
            return False
        self.back_to = back_to if self.rollback else epoch
        module.note({"early_stop_hessian/back_to": float(self.back_to)})
        return True

    def _keep(self, epoch: int, module: "TrainingModule") -> None:
        self._kept[epoch] = {key: _copied(value) for key, value in module.state_dict().items()}
        while len(self._kept) > self.window // 2 + self.distance + 1:
            del self._kept[min(self._kept)]

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        # Here rather than in `on_epoch`, so that no other trick acts on what was put back.
        if self.back_to in self._kept:
            pl_module.load_state_dict(self._kept[self.back_to])
            self._kept = {}

    def first_active_step(self, module: "TrainingModule") -> int:
        return self.every * module.steps_per_epoch

    def measured(self) -> str:
        last = next(reversed(self.eigenvalues.values()), float("nan"))
        return f"largest eigenvalue {last:.4g}; may stop after epoch {self.earliest_stop}"

    def state_dict(self) -> dict[str, Any]:
        own = {"eigenvalues": dict(self.eigenvalues), "kept": dict(self._kept), "back_to": self.back_to}
        return {**super().state_dict(), **own}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.eigenvalues, self._kept = dict(state_dict["eigenvalues"]), dict(state_dict["kept"])
        self.back_to = state_dict["back_to"]


def _copied(value: Any) -> Any:
    """A tensor of its own, on the CPU; other state is new at every call."""
    return value.detach().cpu().clone() if isinstance(value, torch.Tensor) else value
