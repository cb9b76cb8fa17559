"""What every benchmark shares: pairs of times taken in turn, their ratios, and the machine they were taken on."""

import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from nastricks.errors import InputError

CPU = ("--trainer.accelerator", "cpu")  # the targets are for a CPU, where a step's fixed cost shows


@dataclass(frozen=True)
class Result:
    """One measured figure.

    `value` is the median over `n` measurements and `low`, `high` are their quartiles, in `unit` ("ratio" or "s"). The
    benchmark's target is the largest value that is good enough. `note` says what was compared, with the typical times.
    """

    name: str
    value: float
    low: float
    high: float
    n: int
    target: float
    unit: str
    note: str

    @staticmethod
    def of(name: str, values: Sequence[float], target: float, note: str, unit: str = "ratio") -> "Result":
        """The median and the quartiles of at least one value.

        Raises:
            InputError: there is no value.
        """
        if not values:
            raise InputError(f"benchmark {name} has 0 measurements: expected at least 1, so run more rounds")
        low, middle, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [*values] * 3
        return Result(name, middle, low, high, len(values), target, unit, note)

    @property
    def reached(self) -> bool:
        return self.value <= self.target

    def __str__(self) -> str:
        unit = " s" if self.unit == "s" else "  "
        verdict = "reached" if self.reached else "MISSED"
        spread = f"{self.low:.3f} to {self.high:.3f}"
        return f"{self.name:<30} {self.value:6.3f}{unit} {spread:>16}  {self.n:>4}  {self.target:6.2f}{unit} {verdict}"


HEADER = f"{'benchmark':<30} {'median':>6}   {'quartiles':>16}  {'n':>4}  {'target':>6}"


class Clock(NamedTuple):
    """Seconds on the wall, and seconds of CPU that this process used: the latter hardly see what else is running."""

    wall: float
    cpu: float

    @staticmethod
    def now() -> "Clock":
        return Clock(time.perf_counter(), time.process_time())

    def since(self, start: "Clock") -> "Clock":
        return Clock(self.wall - start.wall, self.cpu - start.cpu)

    def plus(self, other: "Clock") -> "Clock":
        return Clock(self.wall + other.wall, self.cpu + other.cpu)


def ratios(first: Sequence[Clock], second: Sequence[Clock]) -> list[float]:
    """Each time on the wall of `first` over the one of `second` that was taken beside it."""
    return [a.wall / b.wall for a, b in zip(first, second, strict=True)]


def compared(first: Sequence[Clock], second: Sequence[Clock], each: int = 1) -> str:
    """Both medians in milliseconds, a time taken for `each` equal parts, and the ratio of all CPU seconds."""
    a, b = (1000 / each * statistics.median(t.wall for t in times) for times in (first, second))
    cpu = sum(t.cpu for t in first) / sum(t.cpu for t in second)
    return f"{a:.2f} ms against {b:.2f} ms, {cpu:.3f} by CPU time"


def alternate(
    first: Callable[[], object], second: Callable[[], object], rounds: int
) -> tuple[list[Clock], list[Clock]]:
    """The times of two functions that run in turn, `rounds` times each, after one round that is not counted.

    The one that starts a round changes from round to round, so that neither always finds the other's caches.
    """
    times: tuple[list[Clock], list[Clock]] = ([], [])
    for number in range(rounds + 1):
        for which in (0, 1) if number % 2 else (1, 0):
            start = Clock.now()
            (first, second)[which]()
            if number > 0:
                times[which].append(Clock.now().since(start))
    return times


@contextmanager
def kept_threads() -> Iterator[None]:
    """Put torch's number of threads back after the block: recipes of small spaces set it for the whole process."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def machine() -> str:
    """The processor, the number of its cores and of those in use, the load, and the versions."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    model = models[0] if models else platform.processor() or platform.machine()
    return (
        f"{model}, {os.cpu_count()} cores, load {load()}, Python {platform.python_version()}, torch {torch.__version__}"
    )


def load() -> str:
    """The processes that wanted to run in the last minute, on average; times are worth more where they are few."""
    return f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
