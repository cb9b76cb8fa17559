"""The command `nastricks`. Help and listings import no torch; every command imports what it needs when it runs.

Exit codes: 0 done, 2 the input was wrong (one sentence on stderr), 1 anything else.
"""

import argparse
import errno
import importlib
import os
import sys
import warnings
from collections.abc import Callable, Sequence

from nastricks.errors import DeadTrickError, InputError

LIGHTNING_COMMANDS = {
    "fit": "train a supernet or a child into its run folder",
    "validate": "loss and accuracy on the validation split",
    "test": "loss and accuracy on the test split",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    sys.path.insert(0, os.getcwd())  # class paths of the user's own files
    try:
        return run(arguments)
    except InputError as error:
        return _say(" ".join(str(error).split()), 2)
    except DeadTrickError as error:
        return _say(str(error), 1)
    except KeyboardInterrupt:
        return _say("interrupted; the same command continues what can be continued", 130)
    except OSError as error:
        if error.errno is None:
            raise
        where = f" ({error.filename})" if error.filename else ""
        return _say(f"{errno.errorcode.get(error.errno, 'OSError')}: {error.strerror}{where}", 1)
    except MemoryError:
        return _say("out of memory: take smaller batches or fewer workers", 1)


def _say(sentence: str, code: int) -> int:
    print(f"nastricks: {sentence}", file=sys.stderr)
    return code


def run(arguments: list[str]) -> int:
    """Run a command; errors are raised."""
    if arguments and arguments[0] in LIGHTNING_COMMANDS:
        _quiet_libraries()
        from nastricks.commands.fit import fit

        return fit(arguments)
    arguments, overrides = split_overrides(arguments)
    parsed = parser().parse_args(arguments)
    if overrides and not hasattr(parsed, "takes_overrides"):
        raise InputError(f"{overrides[0]} is no argument of `nastricks {arguments[0]}` (see nastricks --help)")
    parsed.overrides = overrides
    if not hasattr(parsed, "command"):
        parser().print_help()
        return 2
    module, _, name = parsed.command.partition(":")
    if module not in ("listing",):
        _quiet_libraries()
    command: Callable[[argparse.Namespace], int] = getattr(
        importlib.import_module(f"nastricks.commands.{module}"), name
    )
    return command(parsed)


def split_overrides(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Part ``--a.b value`` and ``--seed_everything value`` from a command's own arguments."""
    own: list[str] = []
    overrides: list[str] = []
    waiting = list(arguments)
    while waiting:
        argument = waiting.pop(0)
        name, equals, _ = argument.partition("=")
        if name.startswith("--") and ("." in name or name in ("--seed_everything", "--threads")):
            overrides.append(argument)
            if not equals and waiting:
                overrides.append(waiting.pop(0))
        else:
            own.append(argument)
    return own, overrides


def _quiet_libraries() -> None:
    """Silence what libraries say about themselves; warnings of nastricks stay."""
    warnings.filterwarnings("ignore", message=".*treespec, LeafSpec.*")
    warnings.filterwarnings("ignore", category=UserWarning, module=r"pytorch_lightning\..*")
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", category=FutureWarning)


class _Parser(argparse.ArgumentParser):
    """Raises InputError, with the nearest command for an unknown one."""

    def error(self, message: str) -> None:  # type: ignore[override]
        raise InputError(f"{message} (see {self.prog} --help)")


def parser() -> argparse.ArgumentParser:
    """The commands and their arguments."""
    main_parser = _Parser(
        prog="nastricks",
        description="Which training tricks help a neural architecture search algorithm, by how much, how surely, "
        "at what cost.",
    )
    commands = main_parser.add_subparsers(metavar="COMMAND", title="commands")
    for name, text in LIGHTNING_COMMANDS.items():
        commands.add_parser(name, help=text, add_help=False)

    def command(name: str, target: str, text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text)
        made.set_defaults(command=target)
        return made

    def stack(to: argparse.ArgumentParser) -> None:
        to.add_argument("-c", "--config", action="append", default=[], metavar="FILE", help="a recipe file; repeatable")
        to.set_defaults(takes_overrides=True)
        to.epilog = "Keys of the recipe can be set as for fit: --tricks.sam.rho 0.1"

    rank = command("rank", "rank:rank", "evaluate children of a trained supernet and judge the ranking")
    rank.add_argument("runs", nargs="*", metavar="RUN", help="run folders; several also give S-Tau")
    rank.add_argument("--table", metavar="FILE", help="ground truth (default: the one shipped for the space and data)")
    rank.add_argument("--children", default="all", metavar="all|N", help="which children (default: all)")
    rank.add_argument(
        "--scores", metavar="FILE", help="judge a ranking made anywhere: a CSV with architecture and score"
    )
    rank.add_argument(
        "-c", "--config", action="append", default=[], metavar="FILE", help="the space of --scores: counts twins once"
    )
    rank.set_defaults(takes_overrides=True)
    rank.add_argument("--out", metavar="DIR", help="folder of ranking.csv (default: the run's)")
    rank.add_argument(
        "--fine-tune", metavar="N,N", help="also rank after so many batches of each child's own training: 0,1,5,10"
    )
    rank.add_argument(
        "--fine-tune-rate", type=float, metavar="X", help="its learning rate (default: a tenth of the recipe's)"
    )

    derive = command("derive", "derive:derive", "print and draw the architecture that the algorithm settles on")
    derive.add_argument("run", metavar="RUN")
    derive.add_argument("--out", metavar="DIR", help="folder of derived.svg (default: the run's)")
    derive.add_argument("--derivation", metavar="NAME", help="another derivation than the run's, such as BestEdges")
    derive.set_defaults(takes_overrides=True)
    derive.epilog = "Arguments of another derivation: --derivation BestEdges --derivation.edges 1"

    errors = command("errors", "errors:errors", "tell the errors of weight sharing in a finished search apart")
    errors.add_argument("run", metavar="RUN")
    errors.add_argument(
        "--table", metavar="FILE", help="ground truth (default: the one shipped for the space and data)"
    )
    errors.add_argument("--final-table", metavar="FILE", help="ground truth at the final size")
    errors.add_argument("--children", default="all", metavar="all|N", help="which children (default: all)")
    errors.add_argument("--out", metavar="DIR", help="folder of errors.json (default: the run's)")

    stages = command("run", "stages:run", "run the stages of a recipe one after another")
    stages.add_argument("file", metavar="FILE")
    stages.add_argument("--out", metavar="DIR", help="folder (default: runs/<the file's name>)")

    show = command("show", "show:show", "say what a space holds, and what architectures cost")
    stack(show)
    show.add_argument("architectures", nargs="*", metavar="ARCHITECTURE")
    show.add_argument("--file", metavar="CODES", help="a file with an architecture a line")
    show.add_argument("--costs", action="store_true", help="also print parameters and FLOPs of every option")
    show.add_argument("--json", action="store_true", help="print a list of {architecture, params, flops}")
    show.add_argument("--latency", metavar="FILE.csv", help="also print latencies, by a table of `nastricks latency`")
    show.add_argument("--draw", metavar="FILE.svg", help="draw the architecture given")

    latency = command("latency", "latency:latency", "measure every option of every choice on a device into a table")
    stack(latency)
    latency.add_argument("--device", default="cpu", metavar="NAME", help="cpu, cuda, cuda:1, … (default: cpu)")
    latency.add_argument("--batch", type=int, default=1, metavar="N", help="images at a time (default: 1)")
    latency.add_argument("--repeats", type=int, default=50, metavar="N", help="runs, the median counts (default: 50)")
    latency.add_argument("--warmup", type=int, default=10, metavar="N", help="runs before them (default: 10)")
    latency.add_argument("--out", required=True, metavar="FILE.csv", help="the table: choice,option,milliseconds")

    bench = command("bench", "bench:bench", "train every child of a small space alone into a table")
    stack(bench)
    bench.add_argument("--replicas", type=int, default=3, metavar="N", help="trainings of each child (default: 3)")
    bench.add_argument("--workers", type=int, metavar="N", help="Ray workers (default: this process)")
    bench.add_argument("--ray", metavar="ADDRESS", help="a Ray cluster")
    bench.add_argument("--out", metavar="DIR", help="folder (default: runs/bench-<space>-<data>)")

    search = command("search", "search:search", "search a space by the rewards of its children")
    stack(search)
    search.add_argument("--workers", type=int, metavar="N", help="Ray workers (default: this process)")
    search.add_argument("--ray", metavar="ADDRESS", help="a Ray cluster")
    search.add_argument("--out", metavar="DIR", help="folder (default: runs/search-<space>-<algorithm>)")

    check = command("check", "check:check", "prove each trick of a recipe alive")
    stack(check)
    check.add_argument("--out", metavar="DIR", help="also write check.json there")

    ablate = command("ablate", "ablate:ablate", "run an ablation; the same command continues an interrupted one")
    ablate.add_argument("files", nargs="+", metavar="FILE", help="ablations; several share their workers")
    ablate.add_argument("--workers", type=int, metavar="N", help="Ray workers (default: this process)")
    ablate.add_argument("--ray", metavar="ADDRESS", help="a Ray cluster")
    stack(ablate)
    ablate.add_argument("--without", action="append", default=[], metavar="ARM", help="leave an arm out; repeatable")
    ablate.add_argument("--out", metavar="DIR", help="folder (default: runs/<the file's name>)")

    report = command("report", "ablate:report", "rebuild effects.csv and report.html from finished trials")
    report.add_argument("folder", metavar="DIR")

    ls = command("ls", "listing:ls", "list the shipped recipes, tricks, spaces and algorithms")
    ls.add_argument("kind", nargs="?", metavar="KIND", help="one kind alone, such as tricks")

    cp = command("cp", "listing:cp", "copy a shipped recipe out")
    cp.add_argument("name", metavar="NAME", help="as `nastricks ls` prints it, such as tricks/sam")
    cp.add_argument("file", metavar="FILE")
    return main_parser


if __name__ == "__main__":
    sys.exit(main())
