"""`nastricks latency`: how long every option of every choice takes on the user's device."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from nastricks.errors import InputError
from nastricks.recipe import read_yaml, space_and_spec
from nastricks.spaces import Stopwatch, measure_latency, write_latency


def latency(arguments: argparse.Namespace) -> int:
    """Measure, write the table, and print what children take by it."""
    threads, overrides = _threads(arguments.config, arguments.overrides)
    space, spec = space_and_spec(arguments.config, overrides)
    if spec is None:
        raise InputError("latency depends on the images: add a data recipe, such as -c recipes/data/digits.yaml")
    watch = Stopwatch(arguments.device, arguments.batch, arguments.repeats, arguments.warmup)
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        made = measure_latency(space, spec, watch)
    finally:
        torch.set_num_threads(before)
    write_latency(Path(arguments.out), space, made.costs)
    used = threads or before
    how = f"cpu, {used} thread{'s' if used > 1 else ''}" if watch.device == "cpu" else watch.device
    print(
        f"{space.name} on {how}, batches of {watch.batch}: {made.timed} operations, median of {watch.repeats} runs each"
    )
    print(f"mean child {made.costs.mean:.3f} ms, of which {made.costs.base:.3f} ms are in every child")
    wholes = ", ".join(f"{whole:.3f} ms against {table:.3f} by the table" for whole, table in made.probes)
    print(f"children timed whole: {wholes}")
    print(f"table: {arguments.out}")
    return 0


def _threads(files: Sequence[str], overrides: Sequence[str]) -> tuple[int | None, list[str]]:
    """The recipe's `threads`, and the overrides without it."""
    text: object = None
    for file in files:
        text = read_yaml(file).get("threads", text)
    rest = list(overrides)
    for place, argument in enumerate(overrides):
        name, equals, value = argument.partition("=")
        if name == "--threads":
            text = value if equals else overrides[place + 1] if place + 1 < len(overrides) else ""
            del rest[place : place + (1 if equals else 2)]
    if text is None or text == "null":
        return None, rest
    if not str(text).isdigit() or int(str(text)) < 1:
        raise InputError(f"threads is {text}: expected at least 1, or null for torch's own choice")
    return int(str(text)), rest
