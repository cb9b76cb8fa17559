"""Judges a trained supernet's ranking of children against ground truth, beside trivial baselines and the ceiling."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, is_dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from nastricks.data import ImageSpec, TensorDataModule
from nastricks.derivations import Trained
from nastricks.errors import InputError
from nastricks.files import write_csv
from nastricks.modules import Calibration, SupernetModule, TrainingModule
from nastricks.modules.measures import discretisation_scores
from nastricks.modules.scoring import Score, gated_accuracy
from nastricks.ranking.baselines import baselines, noise_ceiling
from nastricks.ranking.evaluate import score_children, scoring_of
from nastricks.ranking.metrics import ranking_metrics_by_accuracy_and_loss
from nastricks.ranking.tables import Table, load_table, shipped_table
from nastricks.rng import generator
from nastricks.spaces import Architecture, Cost, Space

MOST_CHILDREN = 100_000
DISCRETISATION_LOSS = "discretisation_loss"
COLUMNS = ("architecture", "accuracy", "loss", "params", "flops", "truth")


@dataclass(frozen=True)
class Ranking:
    """Scores of children with what they are judged by.

    `rows` has the columns of ``ranking.csv``. Without a table `baselines` and `ceiling` are empty or None, and
    `metrics` holds only what discretising costs, where the policy's gates have weights.
    """

    rows: pd.DataFrame
    metrics: dict[str, float]
    baselines: dict[str, dict[str, float]]
    ceiling: float | None
    derived: str | None = None

    def write(self, path: Path) -> None:
        write_csv(path, self.rows)


def scored(
    module: TrainingModule,
    data: TensorDataModule,
    architectures: Sequence[Architecture],
    calibration: Calibration | None,
    done: Callable[[int], None] = lambda count: None,
) -> dict[Architecture, Score]:
    """Scores on the validation split, each architecture with the copy of the weights that it uses."""
    data.to(module.device)
    scoring = scoring_of(data, calibration, "validation")
    found: dict[Architecture, Score] = {}
    copies: dict[int, list[Architecture]] = {}
    for architecture in architectures:
        copies.setdefault(module.sharing.copy_of(architecture), []).append(architecture)
    for copy, group in copies.items():
        network = module.networks[copy]
        found |= score_children(module.space, network, group, scoring, done=done)  # type: ignore[arg-type]
    return {architecture: found[architecture] for architecture in architectures}


def picked(space: Space, children: str, seed: int) -> list[Architecture]:
    """All architectures that a ranking counts (`Space.counts_twins`), or N keyed random ones without repetition, in
    lexicographic order.

    Raises:
        InputError: `children` is neither "all" nor a number from 2 to their number, or they are too many.
    """
    if children == "all":
        if space.size > MOST_CHILDREN:
            raise InputError(
                f"{space.name} has {space.size:,} architectures: ranking them all is for at most {MOST_CHILDREN:,}, "
                "choose some with --children 1000 or the ablation's key children"
            )
        return list(space.rankable())
    size = space.rankable_size
    if not children.isdigit() or not 2 <= int(children) <= size:
        raise InputError(f"--children is {children!r}: expected all, or a number from 2 to {size}")
    rng, drawn = generator(seed, "children"), set[Architecture]()
    if not space.counts_twins and space.size <= MOST_CHILDREN:
        # Drawn by spelling, networks with many would be likelier.
        everything = list(space.rankable())
        return sorted(everything[i] for i in torch.randperm(size, generator=rng)[: int(children)].tolist())
    while len(drawn) < int(children):
        drawn.add(space.counted(space.sample(rng)))
    return sorted(drawn)


def find_table(space: Space, data: TensorDataModule, path: str | Path | None) -> Table | None:
    """The table named, or the one shipped for the space and data (None where there is none)."""
    found = Path(path) if path is not None else shipped_table(space.name, data.name)
    return None if found is None else counted_once(load_table(found, parse=space.parse), space)


def counted_once(table: Table, space: Space) -> Table:
    """The rows that a ranking in this space counts."""
    rows = counted_rows(table.architectures, space)
    return Table(list(rows), table.replicas[list(rows.values())], name=table.name)


def counted_rows(names: Sequence[str], space: Space) -> dict[str, int]:
    """Architecture -> its row among `names`, for each that a ranking counts (`Space.counts_twins`).

    A network's row is that of its canonical spelling, else that of the first other spelling.

    Raises:
        InputError: a name is no architecture of the space.
    """
    rows: dict[str, int] = {}
    for row, name in enumerate(names):
        counted = space.format(space.counted(space.parse(name)))
        if name == counted or counted not in rows:
            rows[counted] = row
    return rows


def rank(
    module: TrainingModule,
    data: TensorDataModule,
    table: Table | None,
    *,
    architectures: Sequence[Architecture] | None = None,
    calibration: Calibration | None = None,
    done: Callable[[int], None] = lambda count: None,
) -> Ranking:
    """Score children and judge the ranking; `architectures` None takes all of the space.

    Networks are counted as the space says (`Space.counts_twins`).

    Raises:
        InputError: the table lacks an architecture.
    """
    space = module.space
    asked = picked(space, "all", seed=0) if architectures is None else architectures
    chosen = list(dict.fromkeys(space.counted(architecture) for architecture in asked))
    names = [space.format(architecture) for architecture in chosen]
    truth = table.truth(names) if table is not None else None
    scores = scored(module, data, chosen, calibration, done)
    sizes = [cost(space, architecture, module) for architecture in chosen]
    rows = pd.DataFrame(
        {
            "architecture": names,
            "accuracy": [scores[a].accuracy for a in chosen],
            "loss": [scores[a].loss for a in chosen],
            "params": [size.params for size in sizes],
            "flops": [size.flops for size in sizes],
            "truth": np.full(len(chosen), np.nan) if truth is None else truth,
        }
    )
    derived: str | None = None
    kept: dict[str, float] = {}
    if isinstance(module, SupernetModule):
        trained = trained_supernet(module, data, lambda: {a: scores[a].accuracy for a in chosen})
        settled = module.derivation.derive(trained)
        derived = space.format(space.counted(settled))
        kept = discretisation_metrics(module, data, settled, calibration) if module.policy.weighted else {}
    found = judged(rows, table, derived)
    return replace(found, metrics={**found.metrics, **kept})


def discretisation_metrics(
    module: SupernetModule, data: TensorDataModule, derived: Architecture, calibration: Calibration | None
) -> dict[str, float]:
    """Accuracy on the validation split that the supernet loses when the derived options alone are kept.

    Both are calibrated, over 10 training batches where no trick says how many.
    """
    own, path = discretisation_scores(module, data, derived, "validation", calibration)
    return {"supernet_accuracy": own.accuracy, DISCRETISATION_LOSS: own.accuracy - path.accuracy}


def trained_supernet(
    module: SupernetModule, data: TensorDataModule, scores: Callable[[], Mapping[Architecture, float]]
) -> Trained:
    """What a derivation may read of a trained supernet, given the scores of its children."""
    return Trained(module.space, module.policy, scores, lambda draw: gated_accuracy(module, data, draw))


def judged(rows: pd.DataFrame, table: Table | None, derived: str | None = None) -> Ranking:
    """Measures, baselines and ceiling of scored children."""
    if table is None:
        return Ranking(rows, {}, {}, None, derived)
    truth = rows["truth"].to_numpy()
    metrics = ranking_metrics_by_accuracy_and_loss(rows["accuracy"], rows["loss"], truth)
    if derived is not None:
        metrics |= derived_metrics(derived, table)
    replicas = table.replicas[[table.row[name] for name in rows["architecture"]]]
    trivial = baselines(rows["params"], rows["flops"], truth, seed=0)
    if derived is not None:
        for kind, reached in derived_baselines(rows, table).items():
            trivial.setdefault(kind, {}).update(reached)
    return Ranking(rows, metrics, trivial, noise_ceiling(replicas), derived)


def derived_baselines(rows: pd.DataFrame, table: Table) -> dict[str, dict[str, float]]:
    """What settling on a child without training reaches: the one with most "params" or "flops", "chance", the "best".

    Ties, and chance over all of `rows`, are expectations: the means over the children concerned.
    """
    truth = rows["truth"].to_numpy(dtype=np.float64)
    ranks = 1 + (table.mean[None, :] > truth[:, None]).sum(axis=1)
    chosen = {
        "params": rows["params"] == rows["params"].max(),
        "flops": rows["flops"] == rows["flops"].max(),
        "chance": np.full(len(rows), True),
        "best": truth == truth.max(),
    }
    return {
        kind: {"derived_accuracy": float(truth[those].mean()), "derived_rank": float(ranks[those].mean())}
        for kind, those in chosen.items()
    }


def derived_metrics(derived: str, table: Table) -> dict[str, float]:
    """True accuracy of the derived architecture, and its rank in the whole table, 1 for the best."""
    accuracy = float(table.truth([derived])[0])
    return {"derived_accuracy": accuracy, "derived_rank": float(1 + np.sum(table.mean > accuracy))}


def cost(space: Space, architecture: Architecture, module: TrainingModule) -> Cost:
    """Parameters and FLOPs of a child, counted once a process (an ablation ranks the same space many times)."""
    kept = {k: v for k, v in vars(space).items() if isinstance(v, int | float | str | tuple | None) or is_dataclass(v)}
    known = _costs(type(space), repr(sorted(kept.items())), module.spec)  # some settings cannot be hashed
    if architecture not in known:
        known[architecture] = space.cost(architecture, module.spec)
    return known[architecture]


@functools.cache
def _costs(space: type[Space], settings: str, spec: ImageSpec) -> dict[Architecture, Cost]:
    return {}
