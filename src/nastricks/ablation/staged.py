"""A trial whose arm is stages: judged by what its last search derives, at the cost of all its stages."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from nastricks.errors import InputError
from nastricks.files import write_csv
from nastricks.modules import SupernetModule
from nastricks.modules.tracking import Tracked
from nastricks.ranking.rank import cost, derived_baselines, derived_metrics, find_table, picked
from nastricks.ranking.tables import Table
from nastricks.run import Run, build
from nastricks.stages import Stages, run_stages
from nastricks.stages.check import check_stages

TRAINED = ("train/loss", "train/accuracy")


@dataclass(frozen=True)
class Staged:
    """What the stages of a trial came to; `seconds` is the time of all of them."""

    metrics: dict[str, float]
    baselines: Mapping[str, Mapping[str, float]]
    derived: str
    seconds: float
    searched: str  # the stage that derived it


def run_staged(stages: Stages, place: Path, seed: int, tracked: Tracked, table: str | None, children: str) -> Staged:
    """Run the stages that are not done in the trial's folder, and judge what the last search derives.

    The folder's ``metrics.csv`` holds the searches' epochs one after another.
    """
    results = run_stages(stages, place, seed=seed, quiet=True, tracked=tracked)
    last = max((number for number, r in enumerate(results.values()) if r.derived is not None), default=None)
    if last is None:
        raise InputError(f"no stage of {stages.name} searches: there is no architecture to judge")
    name = list(results)[last]
    searches = [stage for stage, result in results.items() if result.derived is not None]
    curves = joined_curves([pd.read_csv(place / stage / "metrics.csv") for stage in searches])
    write_csv(place / "metrics.csv", curves)
    run = build(stages.stages[last].config(), None, quiet=True)
    derived = results[name].derived
    assert derived is not None, "it is a search"
    ended = curves.iloc[-1].dropna()
    metrics = {str(key): float(value) for key, value in ended.items() if key not in ("epoch", "step")}
    metrics |= list(results.values())[-1].metrics
    truth = table_of(run, table)
    baselines: Mapping[str, Mapping[str, float]] = {}
    if truth is not None:
        metrics |= derived_metrics(derived, truth)
        baselines = derived_baselines(_sizes(run, truth, children), truth)
    return Staged(metrics, baselines, derived, sum(r.seconds for r in results.values()), name)


def table_of(run: Run, table: str | None) -> Table | None:
    """The ground truth of a stage's space and data, where there is one."""
    return find_table(run.module.space, run.data, table)


def known_metrics(stages: Stages, table: str | None) -> list[str]:
    """What a trial of these stages measures; sees first that they can run.

    Raises:
        InputError: they cannot, or none of them searches.
    """
    runs = check_stages(stages)
    searches = [run for run in runs.values() if isinstance(run.module, SupernetModule)]
    if not searches:
        raise InputError(f"no stage of {stages.name} searches: there is no architecture to judge")
    measures = searches[-1].module.measures
    truth = table_of(searches[-1], table)
    judged = [] if truth is None else ["derived_accuracy", "derived_rank"]
    child = [] if isinstance(list(runs.values())[-1].module, SupernetModule) else ["accuracy", "loss"]
    return [*judged, *child, *TRAINED, *([] if measures is None else measures.names)]


def joined_curves(frames: list[pd.DataFrame]) -> pd.DataFrame:
    """Epochs and steps of several trainings, counted on from one to the next."""
    shifted, epochs, steps = [], 0, 0
    for frame in frames:
        shifted.append(frame.assign(epoch=frame["epoch"] + epochs, step=frame["step"] + steps))
        epochs, steps = int(shifted[-1]["epoch"].max()) + 1, int(shifted[-1]["step"].max())
    return pd.concat(shifted, ignore_index=True)


def _sizes(run: Run, table: Table, children: str) -> pd.DataFrame:
    """Parameters, FLOPs and true accuracy of the children that trivial choices are made among."""
    space = run.module.space
    chosen = picked(space, children, seed=0)
    sizes = [cost(space, architecture, run.module) for architecture in chosen]
    names = [space.format(architecture) for architecture in chosen]
    columns = {"params": [size.params for size in sizes], "flops": [size.flops for size in sizes]}
    return pd.DataFrame({"architecture": names, **columns, "truth": table.truth(names)})
