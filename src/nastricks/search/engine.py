"""Runs independent tasks: one after another in this process, or in persistent Ray workers.

The engine that `bench` and `ablate` run on. Workers are started once and import once; a worker that dies is replaced,
and its task is run again. Results are handed over as they come; who needs an order sorts them.
"""

import os
import re
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch

from nastricks.errors import InputError

Task = TypeVar("Task")
Result = TypeVar("Result")

SECONDS_TO_ANSWER = 10
ATTEMPTS = 3  # runs of one task whose worker keeps dying


@dataclass(frozen=True)
class Lost:
    """Stands for the result of a task whose workers died."""

    reason: str


class Engine(Protocol):
    """Runs a function over tasks; workers live until it is closed, over several runs."""

    def check(self) -> None:
        """Refuse now what `run` would refuse: an address where nobody answers."""

    def close(self) -> None:
        """End the workers."""

    def run(self, function: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[tuple[Task, Result | Lost]]:
        """Yield each task with its result, in the order in which they finish."""


class InProcess:
    """One task after another in this process."""

    def check(self) -> None:
        """There is nothing to refuse."""

    def close(self) -> None:
        """There is nothing to end."""

    def run(self, function: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[tuple[Task, Result | Lost]]:
        for task in tasks:
            yield task, function(task)


class RayWorkers:
    """Persistent Ray workers, on this machine or on a cluster.

    On a cluster every node needs nastricks, the user's own files, and the output folder under the same path.

    Args:
        workers: Number of workers, at least 1.
        address: Of a running cluster; None starts Ray on this machine.
    """

    def __init__(self, workers: int, address: str | None = None) -> None:
        if workers < 1:
            raise InputError(f"--workers is {workers}: expected at least 1, or leave it out to run in this process")
        self.workers, self.address = workers, address
        self._idle: list[Any] = []
        self._connected = self._started = False

    def close(self) -> None:
        self._idle = []
        if self._started:
            _ray().shutdown()
        self._connected = self._started = False

    def run(self, function: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[tuple[Task, Result | Lost]]:
        ray = _ray()
        if not self._connected:
            self._connect(ray)
        yield from self._spread(ray, function, list(tasks))

    def _connect(self, ray: Any) -> None:
        """Start or join Ray."""
        if self.address is None and ray.is_initialized():
            self._connected = True
            return
        self.check()
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        settings: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        if self.address is None:
            settings |= {"num_cpus": self.workers, "include_dashboard": False}
        try:
            ray.init(self.address, **settings)
        except (ConnectionError, ValueError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise InputError(f"no Ray cluster answers at {self.address}: {reason}") from error
        self._connected = self._started = True

    def check(self) -> None:
        """See that somebody listens at the address: Ray itself tries for minutes."""
        found = re.fullmatch(r"(?:ray://)?([^:/]+):(\d+)", self.address or "")
        if found is None:  # this machine, or a word such as "auto"
            return
        try:
            socket.create_connection((found[1], int(found[2])), SECONDS_TO_ANSWER).close()
        except (OSError, OverflowError) as error:
            raise InputError(f"no Ray cluster answers at {self.address}: {error}") from error

    def _spread(self, ray: Any, function: Callable[[Any], Any], tasks: list[Any]) -> Iterator[tuple[Any, Any]]:
        gpus = 1 if torch.cuda.is_available() else 0
        remote = ray.remote(num_cpus=1, num_gpus=gpus / self.workers if self.address is None else gpus)(_Worker)

        def start() -> Any:
            return remote.remote(list(sys.path), os.getcwd())

        waiting = list(enumerate(tasks))
        attempts = dict.fromkeys(range(len(tasks)), 0)
        idle = self._idle
        idle += [start() for _ in range(min(self.workers, len(tasks)) - len(idle))]
        busy: dict[Any, tuple[int, Any]] = {}
        while waiting or busy:
            while waiting and idle:
                number, task = waiting.pop(0)
                worker = idle.pop()
                attempts[number] += 1
                busy[worker.call.remote(function, task)] = (number, worker)
            (finished, *_), _ = ray.wait(list(busy))
            number, worker = busy.pop(finished)
            try:
                result = ray.get(finished)
            except ray.exceptions.RayTaskError as error:
                if isinstance(error.cause, InputError):
                    raise error.cause from None
                raise
            except ray.exceptions.RayActorError as error:
                idle.append(start())
                if attempts[number] < ATTEMPTS:
                    waiting.insert(0, (number, tasks[number]))
                    continue
                yield tasks[number], Lost(f"its worker died {ATTEMPTS} times: {str(error).splitlines()[0]}")
            else:
                idle.append(worker)
                yield tasks[number], result


class _Worker:
    """Lives until the engine is closed; imports once."""

    def __init__(self, path: list[str], folder: str) -> None:
        sys.path[:] = list(dict.fromkeys([*path, *sys.path]))
        os.chdir(folder)

    def call(self, function: Callable[[Any], Any], task: Any) -> Any:
        return function(task)


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise InputError("--workers needs Ray: pip install 'nastricks[ray]', or leave --workers out") from error
    return ray


def engine(workers: int | None, address: str | None) -> Engine:
    """The engine that the command line asks for: neither workers nor an address run in this process."""
    if workers is None and address is None:
        return InProcess()
    return RayWorkers(1 if workers is None else workers, address)


class Stopwatch:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    def seconds(self) -> float:
        return time.perf_counter() - self._start
