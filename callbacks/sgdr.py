"""SGDR: cosine annealing with warm restarts. Loshchilov & Hutter 2017, equation 5; ENAS uses t_0 10, t_mult 2."""

from typing import TYPE_CHECKING, ClassVar

from nastricks.errors import InputError
from nastricks.modules.schedule import cosine
from nastricks.modules.trick import Change, Trick
from nastricks.moment import Moment

if TYPE_CHECKING:
    from nastricks.modules import TrainingModule


def part_of_cycle(epoch: float, t_0: float, t_mult: int) -> float:
    """Which part of its cycle an epoch is in, in [0, 1); cycle i lasts t_0 * t_mult^i epochs."""
    length = t_0
    while epoch >= length:
        epoch -= length
        length *= t_mult
    return epoch / length


class SGDR(Trick):
    """Replaces the schedule of the weights' learning rate by cosines that restart.

    Args:
        t_0: Epochs of the first cycle, above 0.
        t_mult: Factor from one cycle's length to the next's, at least 1.
        eta_min: Rate at a cycle's end, at least 0.

    Raises:
        InputError: a value is out of its range.
    """

    changes: ClassVar[Change] = "learning rate"

    def __init__(self, t_0: float = 10, t_mult: int = 2, eta_min: float = 0.0) -> None:
        super().__init__()
        if not 0 < t_0 < float("inf"):
            raise InputError(f"sgdr.t_0 is {t_0}: expected a number of epochs above 0, such as 10")
        if t_mult < 1:
            raise InputError(f"sgdr.t_mult is {t_mult}: expected at least 1, such as 2")
        if not 0 <= eta_min < float("inf"):
            raise InputError(f"sgdr.eta_min is {eta_min}: expected at least 0")
        self.t_0, self.t_mult, self.eta_min = t_0, t_mult, eta_min

    def on_learning_rate(self, rate: float, base: float, at: Moment) -> float:
        self.act()
        return cosine(base, self.eta_min, part_of_cycle(at.epoch, self.t_0, self.t_mult))

    def first_active_step(self, module: "TrainingModule") -> int:
        """The second step: at the first one every cosine is at its top."""
        return 1
