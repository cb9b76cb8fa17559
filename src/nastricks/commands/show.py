"""`nastricks show`: what a space holds, and what architectures cost as children."""

import argparse
import json
from contextlib import suppress
from pathlib import Path

import torch

from nastricks.data import ImageSpec
from nastricks.errors import InputError
from nastricks.files import write_text
from nastricks.recipe import space_and_spec
from nastricks.spaces import Cost, Space, read_latency
from nastricks.spaces.base import trainable
from nastricks.spaces.drawing import draw
from nastricks.spaces.option_costs import option_costs

LISTED = 200_000
TITLES = {"params": "params", "flops": "FLOPs", "with_auxiliary": "with auxiliary", "milliseconds": "ms"}
WIDEST = 60  # letters of an architecture that stands in the first column


def show(arguments: argparse.Namespace) -> int:
    """Describe the space, or the architectures named."""
    space, spec = space_and_spec(arguments.config, arguments.overrides)
    names = list(arguments.architectures) + _listed(arguments.file)
    if arguments.draw is not None:
        if len(names) != 1:
            raise InputError(f"--draw takes one architecture, and {len(names)} are named")
        architecture = space.parse(names[0])
        write_text(Path(arguments.draw), draw(space.graph(architecture), f"{space.name} {names[0]}"))
    if not names:
        if arguments.latency is not None:
            raise InputError("--latency needs architectures to price: name some, or --file with an architecture a line")
        _describe(space, spec)
        if arguments.costs:
            _print_costs(space, spec)
        return 0
    if arguments.costs:
        raise InputError("--costs prints what every option costs: leave the architectures out")
    if spec is None:
        raise InputError("parameters depend on the data: add a data recipe, such as -c recipes/data/digits.yaml")
    latency = None if arguments.latency is None else read_latency(arguments.latency, space)
    fields: dict[str, dict[str, int | float]] = {}
    for name in dict.fromkeys(names):
        architecture = space.parse(name)
        time = {} if latency is None else {"milliseconds": latency.of(space, architecture)}
        fields[name] = {**_fields(space.cost(architecture, spec)), **time}
    if arguments.json:
        print(json.dumps([{"architecture": name, **fields[name]} for name in names]))
        return 0
    present = [key for key in TITLES if any(key in own for own in fields.values())]
    table = [("architecture", [f"{TITLES[key]:>14}" for key in present])]
    table += [(name, [_cell(fields[name].get(key)) for key in present]) for name in names]
    width = max(len(name) for name, _ in table)
    for name, cells in table:  # what is too long for a column stands last
        print("  ".join([f"{name:{width}}", *cells] if width <= WIDEST else [*cells, name]))
    print(f"on images of {spec.channels}x{spec.size}x{spec.size}, {spec.classes} classes; 2 FLOPs a multiply-add")
    if arguments.draw is not None:
        print(f"drawing: {arguments.draw}")
    return 0


def _fields(cost: Cost) -> dict[str, int]:
    """Parameters and FLOPs, and the parameters with those of an auxiliary head where there is one."""
    fields = {"params": cost.params, "flops": cost.flops}
    return {**fields, "with_auxiliary": cost.params + cost.auxiliary} if cost.auxiliary else fields


def _cell(value: int | float | None) -> str:
    text = "" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:,.3f}"
    return f"{text:>14}"


def _listed(file: str | None) -> list[str]:
    if file is None:
        return []
    if not Path(file).is_file():
        raise InputError(f"no file {file}: expected an architecture a line")
    names = [line.strip() for line in Path(file).read_text().splitlines() if line.strip()]
    if len(names) > LISTED:
        raise InputError(f"{file} names {len(names)} architectures: at most {LISTED} at a time")
    return names


def _describe(space: Space, spec: ImageSpec | None) -> None:
    print(f"{space.name}: {space.size:,} architectures, {len(space.choices)} choices")
    if space.size <= LISTED:
        distinct = len({space.canonical(architecture) for architecture in space.architectures()})
        ranked = "" if space.counts_twins else ", and a ranking counts each of these once"
        print(f"{distinct:,} of them are distinct networks when trained alone{ranked}")
    for choice in space.choices:
        options = ", ".join(f"{i + 1} {option.name}" for i, option in enumerate(choice.options))
        print(f"  {choice.name} ({choice.kind}): {options}")
    print(f"first: {space.format(next(space.architectures()))}")
    if spec is None:
        print("add a data recipe and architectures to see their parameters and FLOPs")
        return
    with suppress(InputError), torch.device("meta"):  # spaces without a network build none
        params = trainable(space.supernet(spec).segments)
        print(f"its supernet has {params:,} parameters on images of {spec.channels}x{spec.size}x{spec.size}")


def _print_costs(space: Space, spec: ImageSpec | None) -> None:
    """A row an option, and one of what all children have; a child costs the sum of its options and that."""
    if spec is None:
        raise InputError("costs depend on the data: add a data recipe, such as -c recipes/data/digits.yaml")
    costs = option_costs(space, spec)
    params, flops = costs["params"], costs["flops"]
    rows = [
        (f"{choice.name} {option.name}", [round(unit.options[choice.name][index]) for unit in (params, flops)])
        for choice in space.choices
        for index, option in enumerate(choice.options)
    ]
    rows.append(("what all children have", [round(params.base), round(flops.base)]))
    width = max(len(name) for name, _ in rows)
    print(f"{'option':{width}}  {'params':>14}  {'FLOPs':>14}")
    for name, values in rows:
        print("  ".join([f"{name:{width}}", *(_cell(value) for value in values)]))
