"""`nastricks show`: what a space holds, and what architectures cost as children."""

import argparse
import json
from pathlib import Path

from nastricks.errors import InputError
from nastricks.files import write_text
from nastricks.recipe import space_and_spec
from nastricks.spaces import Space
from nastricks.spaces.drawing import draw

LISTED = 200_000


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
        return _describe(space, spec is not None)
    if spec is None:
        raise InputError("parameters depend on the data: add a data recipe, such as -c recipes/data/digits.yaml")
    costs = {name: space.cost(space.parse(name), spec) for name in dict.fromkeys(names)}
    if arguments.json:
        print(json.dumps([{"architecture": n, "params": costs[n].params, "flops": costs[n].flops} for n in names]))
        return 0
    width = max(len(name) for name in names)
    print(f"{'architecture':{max(width, 12)}}  {'params':>12}  {'FLOPs':>14}")
    for name in names:
        print(f"{name:{max(width, 12)}}  {costs[name].params:>12,}  {costs[name].flops:>14,}")
    print(f"on images of {spec.channels}x{spec.size}x{spec.size}, {spec.classes} classes; 2 FLOPs a multiply-add")
    if arguments.draw is not None:
        print(f"drawing: {arguments.draw}")
    return 0


def _listed(file: str | None) -> list[str]:
    if file is None:
        return []
    if not Path(file).is_file():
        raise InputError(f"no file {file}: expected an architecture a line")
    names = [line.strip() for line in Path(file).read_text().splitlines() if line.strip()]
    if len(names) > LISTED:
        raise InputError(f"{file} names {len(names)} architectures: at most {LISTED} at a time")
    return names


def _describe(space: Space, with_data: bool) -> int:
    print(f"{space.name}: {space.size:,} architectures, {len(space.choices)} choices")
    if space.size <= LISTED:
        distinct = len({space.canonical(architecture) for architecture in space.architectures()})
        ranked = "" if space.counts_twins else ", and a ranking counts each of these once"
        print(f"{distinct:,} of them are distinct networks when trained alone{ranked}")
    for choice in space.choices:
        options = ", ".join(f"{i + 1} {option.name}" for i, option in enumerate(choice.options))
        print(f"  {choice.name} ({choice.kind}): {options}")
    print(f"first: {space.format(next(space.architectures()))}")
    if not with_data:
        print("add a data recipe and architectures to see their parameters and FLOPs")
    return 0
