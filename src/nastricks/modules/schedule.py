"""Learning-rate schedules: pure functions of the moment, so that resuming needs no state.

torch's schedulers are not used: their length is fixed in steps when they are built, which a recipe cannot know, and
their chained form drifts by rounding when it is resumed.
"""

import math
from abc import ABC, abstractmethod

from nastricks.errors import InputError
from nastricks.moment import Moment


class Schedule(ABC):
    """The learning rate of a step."""

    @abstractmethod
    def learning_rate(self, base: float, moment: Moment) -> float:
        """The rate at `moment` for a parameter group whose optimizer was given `base`."""


class Constant(Schedule):
    """The optimizer's own rate, always."""

    def learning_rate(self, base: float, moment: Moment) -> float:
        return base


class Cosine(Schedule):
    """Half a cosine from the optimizer's rate to `eta_min`, a step at a time, over the run (SGDR, equation 5).

    Args:
        eta_min: Rate at the end, at least 0.
    """

    def __init__(self, eta_min: float = 0.0) -> None:
        if not 0 <= eta_min < float("inf"):
            raise InputError(f"schedule.eta_min is {eta_min}: expected at least 0")
        self.eta_min = eta_min

    def learning_rate(self, base: float, moment: Moment) -> float:
        return cosine(base, self.eta_min, moment.progress)


class CosineAfterWarmup(Schedule):
    """Half a cosine from `warmup_rate` to 0 over the first epochs, then one from the optimizer's rate to `eta_min`.

    Source: the released code of ProxylessNAS (Cai et al. 2019), whose weights train alone along the first one.

    Args:
        epochs: Length of the first cosine, at least 0; from the run's own length on, the second never begins.
        warmup_rate: Where the first one starts, at least 0.
        eta_min: Rate at the end, at least 0.
    """

    def __init__(self, epochs: float, warmup_rate: float, eta_min: float = 0.0) -> None:
        for name, value in (("epochs", epochs), ("warmup_rate", warmup_rate), ("eta_min", eta_min)):
            if not 0 <= value < float("inf"):
                raise InputError(f"schedule.{name} is {value}: expected at least 0")
        self.epochs, self.warmup_rate, self.eta_min = epochs, warmup_rate, eta_min

    def learning_rate(self, base: float, moment: Moment) -> float:
        if moment.epoch < self.epochs:
            return cosine(self.warmup_rate, 0.0, moment.epoch / self.epochs)
        left = moment.epochs - self.epochs
        return cosine(base, self.eta_min, min(1.0, (moment.epoch - self.epochs) / left) if left > 0 else 1.0)


def remaining(progress: float, fraction: float) -> float:
    """From 1 at the start of the run to 0 at a `fraction` of it, along a line; 0 from there on."""
    return max(0.0, 1.0 - progress / fraction) if fraction > 0 else 0.0


def cosine(start: float, end: float, part: float) -> float:
    """From `start` at part 0 to `end` at part 1 along half a cosine."""
    return end + (start - end) * (1 + math.cos(math.pi * part)) / 2
