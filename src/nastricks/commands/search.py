"""`nastricks search`: black-box search and controllers."""

import argparse
from contextlib import closing
from pathlib import Path

from nastricks.commands.progress import progress
from nastricks.files import write_json
from nastricks.modules.tracking import Tracked, track_results
from nastricks.search.engine import Engine, engine
from nastricks.search.folder import claim
from nastricks.search.front import front
from nastricks.search.loop import Search
from nastricks.search.recipe import dump_any, resolve_search


def search(arguments: argparse.Namespace) -> int:
    """Search, or continue an interrupted search; print the best architecture and what was reached."""
    config = resolve_search(arguments.config, arguments.overrides)
    made = Search(config)
    algorithm = type(made.algorithm).__name__
    folder = Path(arguments.out) if arguments.out else Path("runs") / f"search-{made.space.name}-{algorithm.lower()}"
    with closing(engine(arguments.workers, arguments.ray)) as runs:
        runs.check()
        claim(config, folder, made.reward.stamp)
        made.keep_in(folder)
        made.algorithm.keep_in(folder)
        metrics = _run(made, runs)
    best = made.best_at(made.budget)
    told = {"best": best.architecture, "evaluations": len(made.evaluations), "metrics": metrics}
    write_json(folder / "result.json", {**told, "baselines": made.baselines()})
    _track(made, folder, metrics)
    print(f"best: {best.architecture}, reward {best.reward:.4f}, evaluation {best.number} of {len(made.evaluations)}")
    if best.truth is not None:
        print(f"its true accuracy: {best.truth:.4f}")
    for kind, values in made.baselines().items():
        label = {"chance": "a random architecture on average", "best": "the best of the table"}[kind]
        print(f"{label}: {next(iter(values.values())):.4f}")
    if made.front_cost is not None:
        found = len(front(made.evaluations, made.front_cost))
        print(f"front: {found} networks, {folder / 'front.csv'}, {folder / 'pareto.svg'}")
    print(f"evaluations: {folder / 'evaluations.csv'}")
    return 0


def _track(made: Search, folder: Path, metrics: dict[str, float]) -> None:
    """To Weights & Biases, where the stack asks for it."""
    tracking = made.config.loggers.wandb
    if tracking is not None:
        rows = made.curve.to_dict("records")
        place = Tracked(folder.name, "search", type(made.algorithm).__name__)
        track_results(tracking, folder, dump_any(made.config), [], place, rows, metrics, None)  # type: ignore[arg-type]


def _run(made: Search, runs: Engine) -> dict[str, float]:
    with progress(f"search {made.space.name}", made.budget) as (bar, number):
        return made.run(runs, lambda spent: bar.update(number, completed=spent))
