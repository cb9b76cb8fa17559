"""`nastricks errors`: the errors of weight sharing in a finished search, told apart."""

import argparse
from pathlib import Path

from rich.console import Console
from rich.table import Table as RichTable

from nastricks.commands.progress import progress
from nastricks.errors import InputError
from nastricks.files import write_json
from nastricks.modules import SupernetModule
from nastricks.ranking.derive import derived
from nastricks.ranking.errors import Errors, errors_of
from nastricks.ranking.gradient_error import Compared
from nastricks.ranking.rank import find_table, picked
from nastricks.ranking.tables import load_table
from nastricks.run import calibration_of, load_run
from nastricks.spaces import Architecture, Network
from nastricks.table_files import locate_table

UNKNOWN = "unknown"


def errors(arguments: argparse.Namespace) -> int:
    """Measure, print a table, and write errors.json."""
    folder = Path(arguments.run)
    run = load_run(folder)
    module = run.module
    if not isinstance(module, SupernetModule):
        raise InputError(f"{folder} trained a child: its weights are shared with nobody")
    out = Path(arguments.out) if arguments.out else folder
    table = find_table(module.space, run.data, None if arguments.table is None else locate_table(arguments.table))
    final = None
    if arguments.final_table is not None:
        final = load_table(locate_table(arguments.final_table), parse=module.space.parse)
    chosen = _children(module, arguments.children) if table is not None else []
    settled = module.space.parse(derived(folder, out))
    with progress("errors", 2 * len(set(chosen) | {settled}) if table is not None else 1) as (bar, number):
        found = errors_of(
            module,
            run.data,
            settled,
            chosen,
            table,
            final,
            calibration_of(run.config),
            done=lambda count: bar.advance(number, count),
        )
    write_json(out / "errors.json", found.as_dict())
    _print(found, str(folder))
    print(f"errors: {out / 'errors.json'}")
    return 0


def _children(module: SupernetModule, wanted: str) -> list[Architecture]:
    """The children that the network holds, among those that are asked for."""
    network = module.networks[0]
    assert isinstance(network, Network)
    # With options that only an architecture takes, such as none in S2.
    held = module.policy.derivable_of(network.allowed)
    options = [set(held[choice.name]) for choice in module.space.choices]
    chosen = [
        child
        for child in picked(module.space, wanted, seed=0)
        if all(index in own for index, own in zip(child, options, strict=True))
    ]
    if len(chosen) < 2:
        raise InputError(f"--children {wanted} names {len(chosen)} that this network holds: ask for more, or all")
    return chosen


def _print(found: Errors, title: str) -> None:
    print(f"{title}: derived {found.derived}")
    shown = RichTable("error", "measured", "value")
    for row in _gradients(found):
        shown.add_row("gradient of alpha", *row)
    for name, shared in (("calibrated", found.calibrated), ("uncalibrated", found.uncalibrated)):
        values = (None, None, None) if shared is None else (shared.mean, shared.derived, shared.tau)
        what = (
            f"shared minus alone, {found.children} children",
            "shared minus alone, derived",
            "tau, shared and alone",
        )
        for words, value in zip(what, values, strict=True):
            shown.add_row("shared weights", f"{words}, {name}", _number(value))
    shown.add_row("discretisation", "supernet under its own gates", _number(found.supernet))
    shown.add_row("discretisation", "derived path, shared weights", _number(found.path))
    shown.add_row("discretisation", "lost", _number(found.discretisation))
    shown.add_row("search", "derived, alone", _number(found.alone))
    shown.add_row("search", "best of the table", _number(found.best))
    shown.add_row(
        "deployment", f"tau, search size against final size, {found.common} children", _number(found.final_tau)
    )
    shown.add_row("deployment", "derived, alone, final size", _number(found.final_alone))
    shown.add_row("deployment", "best of the final table", _number(found.final_best))
    Console().print(shown)
    if found.no_gradient is not None:
        print(f"the error of alpha's gradient is unknown: {found.no_gradient}")
    if found.calibrated is None:
        print("no table of ground truth for this space and data: give one with --table, or make one with `bench`")
    if found.final_best is None:
        print("deployment is unknown without the truth at the final size: give it with --final-table")


def _gradients(found: Errors) -> list[tuple[str, str]]:
    if found.gradient is None:
        return [("first order", UNKNOWN)]
    compared = {
        "second order": found.gradient.second_order,
        "the implicit gradient": found.gradient.implicit,
        "itself on other batches": found.gradient.halves,
    }
    return [row for name, pair in compared.items() for row in _pair(name, pair)]


def _pair(name: str, pair: Compared) -> list[tuple[str, str]]:
    return [
        (f"cosine, first order against {name}", _number(pair.cosine)),
        (f"length of first order, in parts of {name}", _number(pair.length)),
    ]


def _number(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.3f}"
