"""`interference`: does training one child raise or lower each other one? And the saw-tooth of a fixed order."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from nastricks.ablation.evidence import Evidence
from nastricks.ablation.questions.base import Answered, Interval, Question, over_seeds, rankings_of
from nastricks.ablation.questions.figures import matrix, profile
from nastricks.ablation.questions.over_time import FILE as OVER_TIME

FILE = "interference.csv"
SERIES = "middle batches"
DIGITS = 5  # a few batches at a tenth of the rate change little


@dataclass(frozen=True, kw_only=True)
class Interference(Question):
    """What a child's accuracy and loss do when another child is trained from the same supernet's weights.

    Args:
        arm: An arm whose trainer has the callback `nastricks.ranking.interference.Interference`.
        fixed_order: An arm that trains children in a fixed order (`Sweep`, not shuffled) and scores all of them after
            each batch of a stretch in the middle (`RankingOverTime.middle_steps`); None leaves the saw-tooth out.
    """

    kind = "interference"
    needs_options = True
    arm: str
    fixed_order: str | None = None

    def arms(self) -> list[str]:
        return [self.arm, *([self.fixed_order] if self.fixed_order else [])]

    def find(self, evidence: Evidence) -> Answered | None:
        seeds = [trial.seed for trial in evidence.trials if trial.arm == self.arm and trial.error is None]
        logs = [log for seed in seeds if (log := evidence.table_of(self.arm, seed, FILE)) is not None and len(log)]
        said: list[str] = []
        tables: dict[str, pd.DataFrame] = {}
        figures: dict[str, Any] = {}
        if logs:
            self._pairs(logs, evidence.options, said, tables, figures)
        teeth = self._teeth(evidence)
        if teeth:
            self._saw(teeth, said, tables, figures)
        return Answered(said, tables, figures) if said else None

    def _pairs(
        self,
        logs: Sequence[pd.DataFrame],
        options: pd.DataFrame | None,
        said: list[str],
        tables: dict[str, pd.DataFrame],
        figures: dict[str, Any],
    ) -> None:
        rows: list[dict[str, Any]] = []
        for column, unit in (("loss", "nats"), ("accuracy", "fraction")):
            grids = [changes(log, column) for log in logs]
            mean = grids[0] * 0 + np.mean([grid.to_numpy() for grid in grids], axis=0)
            figures[f"change of {column} ({unit})"] = matrix(
                mean, f"change of {column}", "scored", "trained", reverse=column == "loss"
            )
            groups = by_distance(grids, options)
            rows += [{"what": what, "of": column, **i._asdict()} for what, i in groups.items()]
            hurt = over_seeds([_hurt(grid, column) for grid in grids])
            own, others = groups["the child itself"], groups["all other children"]
            said.append(
                f"Training one child alone changes its own {column} by {own.told(True, DIGITS)} and that of another "
                f"child by {others.told(True, DIGITS)}; a share of {hurt} of the other children gets worse."
            )
            near = {w: i for w, i in groups.items() if w.startswith("differ")}
            if near:
                told = "; ".join(f"{w} {i.told(True, DIGITS)}" for w, i in near.items())
                said.append(f"The change of {column} by what the two children share: {told}.")
        tables["changes, 95 % intervals over supernets"] = pd.DataFrame(rows)

    def _teeth(self, evidence: Evidence) -> list[pd.DataFrame]:
        if self.fixed_order is None:
            return []
        found = []
        for seed in rankings_of(evidence, self.fixed_order):
            log = evidence.table_of(self.fixed_order, seed, OVER_TIME)
            if log is not None and (log["series"] == SERIES).any():
                own = log[log["series"] == SERIES]
                names = sorted(own["architecture"].unique())
                found.append(saw_tooth(own, names if evidence.options is None else list(evidence.options.index)))
        return found

    def _saw(
        self,
        teeth: Sequence[pd.DataFrame],
        said: list[str],
        tables: dict[str, pd.DataFrame],
        figures: dict[str, Any],
    ) -> None:
        rows = []
        for column in ("accuracy", "loss"):
            own = pd.concat([tooth[column] for tooth in teeth], axis=1)
            ages = {int(age): over_seeds(values.dropna()) for age, values in own.iterrows()}  # type: ignore[call-overload]
            figures[f"saw-tooth: {column}"] = profile(ages, "batches since the child was trained itself", column)
            first, last = own.index.min(), own.index.max()
            drop = over_seeds(own.loc[last] - own.loc[first])
            rows.append({"what": f"saw-tooth of {column}: before its turn minus right after it", **drop._asdict()})
            said.append(
                f"In a fixed order a child's {column} goes from {over_seeds(own.loc[first])} right after its own batch "
                f"to {over_seeds(own.loc[last])} before its next turn ({drop.told(signed=True)})."
            )
        tables["the saw-tooth of a fixed order, 95 % intervals over supernets"] = pd.DataFrame(rows)


def changes(log: pd.DataFrame, column: str) -> pd.DataFrame:
    """Change of every child's `column` (columns) by training each child (rows), in lexicographic order."""
    grid = log.pivot_table(index="trained", columns="architecture", values=column, aggfunc="first")
    before = log[log["trained"] == ""].set_index("architecture")[column]
    after = grid.drop(index="", errors="ignore")
    return (after - before.loc[after.columns]).sort_index(axis=0).sort_index(axis=1)


def by_distance(grids: Sequence[pd.DataFrame], options: pd.DataFrame | None) -> dict[str, Interval]:
    """The mean change of the child itself, of all others, and of those that differ in one choice, two, …"""
    first = grids[0]
    same = np.array([[a == b for b in first.columns] for a in first.index])
    masks = {"the child itself": same, "all other children": ~same}
    if options is not None:
        own, others = options.loc[first.index].to_numpy(), options.loc[first.columns].to_numpy()
        distance = (own[:, None, :] != others[None, :, :]).sum(axis=2)
        for number in range(1, own.shape[1] + 1):
            if (distance == number).any():
                masks[f"differ in {number} of {own.shape[1]} choices"] = distance == number
    return {what: over_seeds([float(grid.to_numpy()[mask].mean()) for grid in grids]) for what, mask in masks.items()}


def _hurt(grid: pd.DataFrame, column: str) -> float:
    """The share of other children that got worse."""
    same = np.array([[a == b for b in grid.columns] for a in grid.index])
    values = grid.to_numpy()[~same]
    return float(np.mean(values > 0 if column == "loss" else values < 0))


def saw_tooth(log: pd.DataFrame, order: Sequence[str]) -> pd.DataFrame:
    """Accuracy and loss by age, the batches since a child was trained itself; how good a child is cancels.

    Children are trained one a batch in `order`, round after round; the row of step s stands after batch s, counted
    from 1, which trained child (s - 1) modulo their number.
    """
    place = {child: number for number, child in enumerate(order)}
    ages = (log["step"] - 1 - log["architecture"].map(place)) % len(order)
    found = {}
    for column in ("accuracy", "loss"):
        centred = log[column] - log.groupby("architecture")[column].transform("mean")
        found[column] = centred.groupby(ages).mean() + log[column].mean()
    return pd.DataFrame(found).sort_index()
