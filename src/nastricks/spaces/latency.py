"""Latency of every option of every choice: measured on the user's device, kept as a table, read back and checked.

As in ProxylessNAS and FBNet, the latency of a child is taken to be a constant plus the latencies of its operations,
each measured alone (Cai et al. 2019, section 3.3; Wu et al. 2019, section 3.2).
"""

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

from nastricks.data.batch import ImageSpec
from nastricks.errors import InputError, unknown
from nastricks.files import write_csv
from nastricks.rng import forked_rng, generator
from nastricks.spaces.base import Space
from nastricks.spaces.choices import Architecture
from nastricks.spaces.network import GatedOps
from nastricks.spaces.option_costs import OptionCosts, all_on, watched
from nastricks.table_files import read_rows

COLUMNS = ("choice", "option", "milliseconds")
BASE = "base"
PROBES = 3  # children that are timed whole
UNIT = "milliseconds"


@dataclass(frozen=True)
class Stopwatch:
    """How a module is timed.

    Args:
        device: Where it runs.
        batch: Images at a time, at least 1.
        repeats: Timed runs, of which the median counts, at least 1.
        warmup: Runs before them, at least 0.

    Raises:
        InputError: a number is out of its range, or there is no such device.
    """

    device: str = "cpu"
    batch: int = 1
    repeats: int = 50
    warmup: int = 10

    def __post_init__(self) -> None:
        for name, least in {"batch": 1, "repeats": 1, "warmup": 0}.items():
            if getattr(self, name) < least:
                raise InputError(f"--{name} is {getattr(self, name)}: expected at least {least}")
        try:
            torch.empty(0, device=self.device)
        except (RuntimeError, AssertionError) as error:
            raise InputError(f"--device is {self.device!r}, which this machine has not: take cpu or cuda") from error

    def milliseconds(self, run: Callable[[], object]) -> float:
        """The median time of one call."""
        for _ in range(self.warmup):
            run()
        times = []
        for _ in range(self.repeats):
            self._wait()
            start = time.perf_counter()
            run()
            self._wait()
            times.append(time.perf_counter() - start)
        return 1000 * statistics.median(times)

    def _wait(self) -> None:
        if torch.device(self.device).type == "cuda":
            torch.cuda.synchronize(self.device)


@dataclass(frozen=True)
class Measurement:
    """What was measured: the table, how many operations were timed, and children (whole, by the table) in ms."""

    costs: OptionCosts
    timed: int
    probes: list[tuple[float, float]]


@torch.inference_mode()
def measure_latency(space: Space, spec: ImageSpec, watch: Stopwatch) -> Measurement:
    """Time each option of each choice alone, in eval mode; options of equal operation and input are timed once.

    A choice that occurs several times (the cells that share an architecture) adds up its occurrences. `base` is what
    children take beside their operations: the median over three keyed children timed whole, at least 0.

    Raises:
        InputError: costs of this space do not add up over its choices.
    """
    with forked_rng("latency"):
        network = space.supernet(spec).eval().to(device=watch.device).to(memory_format=torch.channels_last)
    images = torch.zeros(watch.batch, spec.channels, spec.size, spec.size, device=watch.device)
    images = images.contiguous(memory_format=torch.channels_last)
    found: list[tuple[GatedOps, int, nn.Module, Tensor]] = []

    def note(place: GatedOps, index: int, op: nn.Module, x: Tensor) -> None:
        found.append((place, index, op, x))

    with watched(space, network, note, lambda *_: None):
        network(images, all_on(space))
    known: dict[object, float] = {}
    options = {c.name: [0.0] * len(c.options) for c in space.choices}
    for place, index, op, x in found:
        key = (repr(op), tuple(p.shape for p in op.parameters()), x.shape, x.stride(), place.stride)
        if key not in known:
            known[key] = watch.milliseconds(lambda op=op, x=x: op(x))  # type: ignore[misc]
        options[place.choice_name][index] += known[key]
    summed = OptionCosts(UNIT, 0.0, {name: tuple(times) for name, times in options.items()})
    probes: list[tuple[float, float]] = []
    for architecture in _probed(space):
        gates = space.gates(architecture)
        whole = watch.milliseconds(lambda gates=gates: network(images, gates))  # type: ignore[misc]
        probes.append((whole, summed.of(space, architecture)))
    base = max(0.0, statistics.median(whole - parts for whole, parts in probes))
    return Measurement(
        OptionCosts(UNIT, base, summed.options), len(known), [(whole, base + parts) for whole, parts in probes]
    )


def _probed(space: Space) -> list[Architecture]:
    rng = generator("latency", space.name)
    return [space.sample(rng) for _ in range(PROBES)]


def write_latency(path: Path, space: Space, costs: OptionCosts) -> None:
    """The table as CSV, ``choice,option,milliseconds``, with a row ``base`` that has no option."""
    rows = [(BASE, "", costs.base)]
    rows += [
        (choice.name, option.name, cost)
        for choice in space.choices
        for option, cost in zip(choice.options, costs.options[choice.name], strict=True)
    ]
    write_csv(path, pd.DataFrame(rows, columns=list(COLUMNS)))


def read_latency(path: str | Path, space: Space) -> OptionCosts:
    """A table that `write_latency` wrote, or one made by hand.

    Raises:
        InputError: no such file, a column, a choice or an option that is missing, unknown or there twice, or a time
            that is no number of at least 0.
    """
    frame = read_rows(Path(path))
    for column in COLUMNS:
        if column not in frame.columns:
            raise InputError(f"the latency table {str(path)!r} has no column {column}: expected {', '.join(COLUMNS)}")
    known = {c.name: [option.name for option in c.options] for c in space.choices} | {BASE: [""]}
    times: dict[str, dict[str, float]] = {name: {} for name in known}
    for choice, option, text in zip(*(frame[column].str.strip() for column in COLUMNS), strict=True):
        if choice not in known:
            raise unknown(f"choice of the latency table {str(path)!r}", choice, known)
        if option not in known[choice]:
            raise unknown(f"option of {choice} in the latency table {str(path)!r}", option, known[choice])
        if option in times[choice]:
            raise InputError(
                f"the latency table {str(path)!r} has two rows for {choice} {option}".rstrip() + ": keep one"
            )
        times[choice][option] = _time(text, f"the latency table {str(path)!r} gives {choice} {option}".rstrip())
    for choice, names in known.items():
        missing = [name for name in names if name not in times[choice]]
        if missing:
            blocks = [name for name in known if len(times[name]) < len(known[name])]
            raise InputError(
                f"the latency table {str(path)!r} lacks {f'{choice} {missing[0]}'.rstrip()} (rows are missing for "
                f"{len(blocks)} of {len(known)} blocks): measure it with `nastricks latency` for this space"
            )
    options = {c.name: tuple(times[c.name][option.name] for option in c.options) for c in space.choices}
    return OptionCosts(UNIT, times[BASE][""], options)


def _time(text: str, what: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise InputError(f"{what} the time {text!r}: expected milliseconds, a number of at least 0")
    return value
