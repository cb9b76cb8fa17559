"""The search loop: ask, measure, tell, until the budget is spent.

An interrupted search is continued by replaying it: an algorithm that is told the same outcomes in the same order asks
the same questions, and children that were trained before the interruption are answered from the run folder.
"""

import functools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
from jsonargparse import Namespace

from nastricks.errors import InputError
from nastricks.files import write_csv
from nastricks.ranking.tables import Table
from nastricks.rng import generator
from nastricks.search.algorithm import Outcome, Proposal, SearchAlgorithm
from nastricks.search.constraints import COSTS, Constraints, CostName, Costs
from nastricks.search.engine import Engine
from nastricks.search.evaluation import Evaluation
from nastricks.search.folder import KeptChildren
from nastricks.search.front import write_front
from nastricks.search.recipe import instantiated
from nastricks.search.reward import Measured, Reward, Setting, truth_table
from nastricks.spaces import Cost, Space

CHECKPOINTS = (10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
"""Numbers of evaluations at which the best so far is a metric of its own."""

COUNTED = ("repeats", "diverged", "child_seconds")
CURVE_POINTS = 100
SECONDS_BETWEEN_WRITES = 5.0


class Search:
    """One search of a resolved configuration.

    Args:
        config: Of `nastricks.search.recipe.resolve_search`, with its seed.
        folder: Where trained children are kept and results written; None keeps nothing.

    Raises:
        InputError: an algorithm, a reward and a space that do not fit one another.
    """

    def __init__(self, config: Namespace, folder: Path | None = None) -> None:
        self.config, self.folder = config, folder
        self.budget: int = config.search.evaluations
        self.seed: int = config.seed_everything
        made = instantiated(config)
        self.space: Space = made.space
        self.setting = Setting(config, self.space, made.get("data"), self.seed)
        self.reward: Reward = made.search.reward
        self.algorithm: SearchAlgorithm = made.search.algorithm(self.space, self.seed)
        self.reward.prepare(self.setting)
        self.front_cost, self.costs, self.constraints = self._weighed()  # refused now, before anything is scored
        if self.constraints is not None:
            self.algorithm.constrain(self.constraints)
        self.reward.check_epochs(self.algorithm.asked_epochs())
        self.algorithm.check_rewards(*self.reward.range)
        goal = self.config.search.goal
        if goal is not None and not goal <= self.reward.range[1]:
            raise InputError(
                f"search.goal is {goal}: expected at most {self.reward.range[1]:g}, which is the most there is"
            )
        self.truth = self._truth()
        self._children: KeptChildren | None = None
        if folder is not None:
            self.keep_in(folder)
        self._known: dict[Proposal, Measured] = {}
        self.evaluations: list[Evaluation] = []
        self._best: list[Evaluation] = []  # those that were the best so far when they came
        self._seen: set[Proposal] = set()
        self._curve: list[dict[str, float]] = []
        self._updates: list[dict[str, float]] = []

    def keep_in(self, folder: Path) -> None:
        """Keep trained children and write results there from now on."""
        self.folder = folder
        self._children = KeptChildren(folder, self.space, self.reward.stamp) if self.reward.keeps else None

    def _weighed(self) -> tuple[CostName | None, Costs | None, Constraints | None]:
        """The cost of the front, what children cost, and the bounds on it; None where nothing asks for it."""
        search = self.config.search
        least, most = _bounds(search.least), _bounds(search.most)
        own: CostName | None = getattr(self.algorithm, "cost", None)
        drawn: CostName | None = search.front or own or next(iter([*most, *least]), None)
        names = [name for name in (drawn, own, *least, *most) if name is not None]
        if not names and self.reward.resource is None:
            if search.latency is not None:
                raise InputError(
                    f"search.latency is {search.latency}, and nothing asks for costs: add search.front latency, or a "
                    "bound such as search.most.latency, or leave it out"
                )
            return None, None, None
        if self.setting.spec is None:
            raise InputError("the cost of a child depends on the images: name the data in the stack")
        if "latency" in names and search.latency is None:
            raise InputError(
                "the search asks for latencies and search.latency is not set: name a table that `nastricks latency` "
                "measured for this space"
            )
        costs = Costs(self.space, self.setting.spec, search.latency)
        costs.of(self.space.sample(generator(self.seed, "cost")))  # refuses spaces without a network
        constraints = Constraints(least, most, costs) if least or most else None
        if constraints is not None:
            constraints.witness  # noqa: B018  refuses bounds that no architecture meets
        return drawn, costs, constraints

    def _truth(self) -> Table | None:
        return truth_table(self.setting, self.config.search.truth or getattr(self.reward, "table", None))

    def run(self, engine: Engine, done: Callable[[float], None] = lambda spent: None) -> dict[str, float]:
        """Search until the budget is spent or nothing is left to ask; returns the metrics."""
        written = time.monotonic()
        spent = 0.0
        while spent < self.budget - 1e-9:
            asked = self._within(self.algorithm.ask(), spent)
            if not asked:
                break
            measured = self._measured(asked, engine)
            outcomes = []
            for proposal, found in zip(asked, measured, strict=True):
                outcome = self._outcome(proposal, found)
                spent += self._price(proposal)
                outcomes.append(outcome)
                self._note(outcome, found, spent)
            self.algorithm.tell(outcomes)
            if measures := self.algorithm.measures():
                self._updates.append({"evaluations": round(spent, 6), **measures})
            self._draw_curve(spent)
            done(spent)
            if self.folder is not None and time.monotonic() - written > SECONDS_BETWEEN_WRITES:
                self._write()
                written = time.monotonic()
        if not self.evaluations:
            raise InputError(f"{type(self.algorithm).__name__} proposed no architecture of {self.space.name}")
        if not self._best:
            raise InputError(
                f"the budget of {self.budget} evaluations ended before {type(self.algorithm).__name__} reached an "
                "architecture that meets the constraints: raise search.evaluations"
            )
        self._draw_curve(self.budget)  # flat from where nothing was left to ask
        if self.folder is not None:
            self._write()
        return self.metrics()

    def _price(self, proposal: Proposal) -> float:
        """What a proposal takes of the budget: 1, or its share of a full evaluation's epochs."""
        full = self.reward.full_epochs
        return 1.0 if proposal.epochs is None or full is None else proposal.epochs / full

    def _within(self, asked: Sequence[Proposal], spent: float) -> list[Proposal]:
        """The proposals that the budget still pays for."""
        kept = []
        for proposal in asked:
            spent += self._price(proposal)
            if spent > self.budget + 1e-9:
                break
            kept.append(proposal)
        return kept

    def _measured(self, asked: Sequence[Proposal], engine: Engine) -> list[Measured]:
        """Every proposal's measurement, in the order asked; no network is measured twice."""
        keys = [self._network(proposal) for proposal in asked]
        missing = [key for key in dict.fromkeys(keys) if key not in self._known and not self._recall(key)]
        if missing:
            for key, found in self.reward.measure(missing, engine):
                self._known[key] = found
                if self._children is not None:
                    self._children.keep(key, found)
        return [self._known[key] for key in keys]

    def _recall(self, key: Proposal) -> bool:
        found = None if self._children is None else self._children.recall(key)
        if found is not None:
            self._known[key] = found
        return found is not None

    def _network(self, proposal: Proposal) -> Proposal:
        """The proposal that stands for all that train the same network for as long."""
        return Proposal(self.space.canonical(proposal.architecture), proposal.epochs)

    def _outcome(self, proposal: Proposal, measured: Measured) -> Outcome:
        if self.costs is None:
            return Outcome(proposal, measured.accuracy)
        cost = self.costs.of(proposal.architecture)
        params, flops = int(cost["params"]), int(cost["flops"])
        taken = 0.0 if self.reward.resource is None else self.reward.resource.term(Cost(params, flops))
        return Outcome(proposal, measured.accuracy - taken, params, flops, cost.get("latency"))

    def _note(self, outcome: Outcome, measured: Measured, spent: float) -> None:
        name = self.space.format(outcome.proposal.architecture)
        truth = self._true_accuracy(name, measured)
        network = self._network(outcome.proposal)
        self.evaluations.append(
            Evaluation(
                number=len(self.evaluations) + 1,
                spent=round(spent, 6),
                architecture=name,
                epochs=outcome.proposal.epochs,
                reward=outcome.reward,
                accuracy=measured.accuracy,
                truth=truth,
                params=outcome.params,
                flops=outcome.flops,
                latency=outcome.latency,
                seconds=measured.seconds,
                status=measured.status,
                meets=self.algorithm.admits(outcome.proposal.architecture),
                repeat=network in self._seen,
            )
        )
        self._seen.add(network)
        if self.evaluations[-1].meets and (not self._best or outcome.reward > self._best[-1].reward):
            self._best.append(self.evaluations[-1])

    def _true_accuracy(self, name: str, measured: Measured) -> float | None:
        if self.truth is not None:
            return float(self.truth.truth([name])[0])
        return measured.accuracy if hasattr(self.space, "objective") else None

    # What is told of it.

    def best_at(self, spent: float) -> Evaluation:
        """The evaluation with the highest reward once so much was spent; the very first where nothing was yet."""
        earlier = [evaluation for evaluation in self._best if evaluation.spent <= spent + 1e-9]
        return earlier[-1] if earlier else self._best[0]

    def metric_names(self) -> list[str]:
        """The names of `metrics`, before there is any."""
        told = "true" if self.truth is not None or hasattr(self.space, "objective") else "reward"
        names = [f"best_{told}", *(f"best_{told}_at_{n}" for n in CHECKPOINTS if n <= self.budget), f"mean_best_{told}"]
        names += ["evaluations_to_goal", "goal_reached"] if self.config.search.goal is not None else []
        return [*dict.fromkeys([*names, "best_reward", "mean_reward", "final_reward", *COUNTED])]

    def metrics(self) -> dict[str, float]:
        """What the search reached: `best_true` is the true accuracy of the one with the highest reward so far.

        `best_true_at_N` after N full evaluations, `mean_best_true` the mean over all numbers of evaluations up to the
        budget (the area under the curve), `evaluations_to_goal` where `search.goal` is set: the budget where it was
        never reached, and `goal_reached` tells the two apart. Without a truth, the same of the reward. `final_reward`
        is the mean of the last tenth of the evaluations: what the algorithm has learnt to propose.
        """
        told = "true" if self._best[-1].truth is not None else "reward"
        value = {e.number: e.reward if e.truth is None else e.truth for e in self._best}
        found: dict[str, float] = {f"best_{told}": value[self._best[-1].number]}
        for number in CHECKPOINTS:
            if number <= self.budget:
                found[f"best_{told}_at_{number}"] = value[self.best_at(number).number]
        over = [value[self.best_at(spent).number] for spent in range(1, self.budget + 1)]
        found[f"mean_best_{told}"] = float(np.mean(over))
        if (goal := self.config.search.goal) is not None:
            reached = [e.spent for e in self._best if value[e.number] >= goal]
            found["evaluations_to_goal"] = float(math.ceil(reached[0])) if reached else float(self.budget)
            found["goal_reached"] = float(bool(reached))
        found["best_reward"] = self._best[-1].reward
        rewards = [e.reward for e in self.evaluations]
        found["mean_reward"] = float(np.mean(rewards))
        found["final_reward"] = float(np.mean(rewards[-max(1, len(rewards) // 10) :]))
        found["repeats"] = float(np.mean([e.repeat for e in self.evaluations]))
        found["diverged"] = float(sum(e.status == "diverged" for e in self.evaluations))
        found["child_seconds"] = float(sum(e.seconds for e in self.evaluations if not e.repeat))
        return found

    def baselines(self) -> dict[str, dict[str, float]]:
        """What one random architecture reaches on average, and the best there is, for the metrics of true accuracy."""
        if self.truth is None:
            return {}
        ends = {"chance": float(self.truth.mean.mean()), "best": float(self.truth.mean.max())}
        names = [name for name in self.metrics() if "best_true" in name]
        return {kind: dict.fromkeys(names, value) for kind, value in ends.items()}

    @property
    def curve(self) -> pd.DataFrame:
        """What ``metrics.csv`` holds: the best so far at a hundred numbers of evaluations."""
        return pd.DataFrame(self._curve or [{"step": 0}])

    def _draw_curve(self, spent: float) -> None:
        drawn = len(self._curve)
        if not self._best:  # nothing met the constraints yet
            return
        for point in self._grid[drawn:]:
            if point > spent + 1e-9:
                break
            best = self.best_at(point)
            row: dict[str, float] = {"step": point} if best.truth is None else {"step": point, "best_true": best.truth}
            self._curve.append({**row, "best_reward": best.reward, **self.algorithm.measures()})

    @functools.cached_property
    def _grid(self) -> list[int]:
        """Numbers of evaluations at which ``metrics.csv`` has a row: the same for all searches of one budget."""
        points = min(self.budget, CURVE_POINTS)
        return [math.ceil(self.budget * (k + 1) / points) for k in range(points)]

    def _write(self) -> None:
        assert self.folder is not None
        write_csv(self.folder / "evaluations.csv", pd.DataFrame([asdict(e) for e in self.evaluations]))
        write_csv(self.folder / "metrics.csv", self.curve)
        if self._updates:
            write_csv(self.folder / "updates.csv", pd.DataFrame(self._updates))
        if self.front_cost is not None and self._best:
            title = f"{self.space.name}: {len(self.evaluations)} evaluations of {type(self.algorithm).__name__}"
            write_front(self.folder, self.evaluations, self._best[-1], self.front_cost, self.constraints, title)


def _bounds(asked: Namespace) -> dict[CostName, float]:
    return {name: getattr(asked, name) for name in COSTS if getattr(asked, name) is not None}
