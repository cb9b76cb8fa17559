"""Temperatures of relaxed samples: pure functions of the moment, so that resuming needs no state."""

import math
from abc import ABC, abstractmethod

from nastricks.errors import InputError
from nastricks.moment import Moment


class Temperature(ABC):
    """The temperature of a moment, above 0."""

    @abstractmethod
    def at(self, moment: Moment) -> float:
        """The temperature at `moment`."""


class ConstantTemperature(Temperature):
    """One temperature for the whole run.

    Args:
        value: Above 0.
    """

    def __init__(self, value: float = 1.0) -> None:
        self.value = _positive("value", value)

    def at(self, moment: Moment) -> float:
        return self.value


class LinearTemperature(Temperature):
    """From `start` to `end` along a line over the run (GDAS: 10 to 0.1).

    Args:
        start: At the first step, above 0.
        end: At the end of the run, above 0.
    """

    def __init__(self, start: float = 10.0, end: float = 0.1) -> None:
        self.start, self.end = _positive("start", start), _positive("end", end)

    def at(self, moment: Moment) -> float:
        return self.start + (self.end - self.start) * moment.progress


class ExponentialTemperature(Temperature):
    """start * exp(-rate * epoch), not below `floor` (FBNet: 5 and 0.045; SNAS: floor 0.03).

    Args:
        start: At the first step, above 0.
        rate: An epoch, at least 0.
        floor: Above 0.
    """

    def __init__(self, start: float = 5.0, rate: float = 0.045, floor: float = 0.03) -> None:
        if not 0 <= rate < math.inf:
            raise InputError(f"temperature.rate is {rate}: expected at least 0, such as 0.045")
        self.start, self.rate, self.floor = _positive("start", start), rate, _positive("floor", floor)

    def at(self, moment: Moment) -> float:
        return max(self.floor, self.start * math.exp(-self.rate * math.floor(moment.epoch)))


def _positive(name: str, value: float) -> float:
    if not 0 < value < math.inf:
        raise InputError(f"temperature.{name} is {value}: expected a number above 0, since 0 has no gradient")
    return value
