"""`fine_tuning`: does a little training of its own restore a child's rank?"""

from dataclasses import dataclass

import pandas as pd

from nastricks.ablation.evidence import Evidence
from nastricks.ablation.questions.base import Answered, Question, over_seeds, rankings_of
from nastricks.ablation.questions.figures import lines
from nastricks.ranking.metrics import kendall_tau

FILE = "fine_tuned_children.csv"


@dataclass(frozen=True, kw_only=True)
class FineTuning(Question):
    """GT-Tau after each number of batches that the children continued to train for, each from the supernet's weights.

    The answer rests on the last number of batches against none, the same supernets.

    Args:
        arm: An arm whose trainer has the callback `nastricks.ranking.fine_tuning_curve.FineTuningCurve`.
    """

    kind = "fine_tuning"
    arm: str

    def arms(self) -> list[str]:
        return [self.arm]

    def find(self, evidence: Evidence) -> Answered | None:
        taus: dict[str, list[pd.Series[float]]] = {"accuracy": [], "loss": []}
        for seed, ranking in rankings_of(evidence, self.arm).items():
            log = evidence.table_of(self.arm, seed, FILE)
            if log is None or log.empty:
                continue
            known = log[log["architecture"].isin(ranking.index)]
            truth = ranking["truth"].astype(float)
            for column, own in taus.items():
                sign = 1 if column == "accuracy" else -1
                scores = (
                    known.pivot_table(index="architecture", columns="batches", values=column, aggfunc="first") * sign
                )
                own.append(scores.apply(lambda column, truth=truth: kendall_tau(column, truth.loc[column.index])))
        if not taus["accuracy"]:
            return None
        grids = {f"by {column}": pd.concat(own, axis=1) for column, own in taus.items()}
        drawn = {
            name: {str(int(count)): over_seeds(row) for count, row in grid.iterrows()}  # type: ignore[call-overload]
            for name, grid in grids.items()
        }
        table = pd.DataFrame(
            [
                {"ranked": name, "batches": count, "GT-Tau": i.mean, "low": i.low, "high": i.high, "n": i.n}
                for name, line in drawn.items()
                for count, i in line.items()
            ]
        )
        gains = {name: over_seeds(grid.iloc[-1] - grid.iloc[0]) for name, grid in grids.items()}
        told = "; ".join(f"{count} {interval}" for count, interval in drawn["by accuracy"].items())
        said = [
            f"GT-Tau after so many batches of a child's own: {told}.",
            f"From the first to the last: {'; '.join(f'{n} {i.told(signed=True)}' for n, i in gains.items())}.",
        ]
        figure = lines(drawn, "gt_tau", "batches of a child's own training", evidence.scale("gt_tau"), {})
        return Answered(
            said, {"GT-Tau, 95 % intervals over supernets": table}, {"GT-Tau": figure}, gains["by accuracy"]
        )
