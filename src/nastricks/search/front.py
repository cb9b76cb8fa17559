"""The Pareto front of a search: which evaluated networks none beats in reward and cost together, and its picture."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from nastricks.chart import BLUE, GREY, ORANGE, Chart, short
from nastricks.files import write_csv, write_json, write_text
from nastricks.search.algorithm import Outcome, Proposal
from nastricks.search.constraints import UNITS, Constraints, CostName
from nastricks.search.evaluation import Evaluation
from nastricks.search.optuna_search import pareto

COLUMNS = ("architecture", "reward", "accuracy", "truth", "params", "flops", "latency")


def front(evaluations: Sequence[Evaluation], cost: CostName) -> list[Evaluation]:
    """The evaluations that meet the constraints and that no other such one beats, by rising cost, each network once."""
    outcomes = {
        Outcome(Proposal((one.number,)), one.reward, one.params, one.flops, one.latency): one
        for one in evaluations
        if one.meets and not one.repeat
    }
    return [outcomes[outcome] for outcome in pareto(outcomes, cost)]


def write_front(
    folder: Path,
    evaluations: Sequence[Evaluation],
    best: Evaluation,
    cost: CostName,
    constraints: Constraints | None,
    title: str,
) -> None:
    """Write ``front.csv``, ``front.json`` and ``pareto.svg``."""
    found = [{name: asdict(one)[name] for name in COLUMNS} for one in front(evaluations, cost)]
    write_csv(folder / "front.csv", pd.DataFrame(found, columns=list(COLUMNS)))
    write_json(folder / "front.json", found)
    write_text(folder / "pareto.svg", draw_front(evaluations, best, cost, constraints, title))


def draw_front(
    evaluations: Sequence[Evaluation], best: Evaluation, cost: CostName, constraints: Constraints | None, title: str
) -> str:
    """The text of an SVG file: every evaluation, the front, the best, and the bounds on the cost that is drawn."""
    chosen = front(evaluations, cost)
    bounds = {}
    if constraints is not None:
        bounds = {"at least": constraints.least.get(cost), "at most": constraints.most.get(cost)}
    limits = {words: bound for words, bound in bounds.items() if bound is not None}
    distinct = [one for one in evaluations if not one.repeat]
    chart = Chart(
        title,
        (f"{UNITS[cost]} of the child", "reward"),
        [*(_cost(one, cost) for one in distinct), *limits.values()],
        [one.reward for one in distinct],
    )
    for words, bound in limits.items():
        chart.vertical(bound, f"{words} {short(bound)}")
    for one in distinct:
        told = f"{one.architecture}: reward {one.reward:.4f}, {short(_cost(one, cost))} {UNITS[cost]}"
        chart.dot((_cost(one, cost), one.reward), GREY, radius=3, hollow=not one.meets, opacity=0.6, told=told)
    chart.line([(_cost(one, cost), one.reward) for one in chosen], BLUE, steps=True)
    for one in chosen:
        told = f"{one.architecture}: reward {one.reward:.4f}, {short(_cost(one, cost))} {UNITS[cost]}"
        chart.dot((_cost(one, cost), one.reward), BLUE, told=told)
    chart.dot((_cost(best, cost), best.reward), ORANGE, radius=5.5, told=best.architecture)
    chart.legend("evaluated", GREY)
    if not all(one.meets for one in distinct):
        chart.legend("outside the bounds", GREY, "ring")
    chart.legend(f"front, {len(chosen)} networks", BLUE, "line")
    chart.legend(f"highest reward: {best.architecture}", ORANGE)
    return chart.svg()


def _cost(one: Evaluation, cost: CostName) -> float:
    value: float | None = getattr(one, cost)
    assert value is not None, "a search with a front knows the costs"
    return value
