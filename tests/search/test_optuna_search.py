"""Optuna's samplers: TPE against random search, NSGA-II against brute force, and not a word from Optuna."""

import logging
import math
import runpy
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import optuna
import pytest

from nastricks.data import ImageSpec
from nastricks.errors import InputError
from nastricks.rng import generator
from nastricks.search import NSGA2, TPE, Outcome, Proposal, RandomSearch, SearchAlgorithm, optuna_search, pareto
from nastricks.search.constraints import Constraints, CostName, Costs
from nastricks.spaces import Allowed, Architecture, Choice, Network, Option, Space, Tiny64


class Wide(Space):
    """Eight choices of four options."""

    name: ClassVar[str] = "wide"
    choices = tuple(Choice(f"choice{i}", tuple(Option(f"option{j}") for j in range(4))) for i in range(8))

    def build(self, spec: ImageSpec, allowed: Allowed) -> Network:
        raise NotImplementedError


def best(algorithm: SearchAlgorithm, target: Architecture, evaluations: int) -> int:
    """The most choices that agree with the target."""
    reached = 0
    for _ in range(evaluations):
        (proposal,) = algorithm.ask()
        agree = sum(a == b for a, b in zip(proposal.architecture, target, strict=True))
        algorithm.tell([Outcome(proposal, agree)])
        reached = max(reached, agree)
    return reached


def test_tpe_beats_random_search() -> None:
    """12 seeds, each with a target of its own, 80 evaluations: the mean paired gain is above three standard errors."""
    space = Wide()
    gains = []
    for seed in range(12):
        target = space.sample(generator(seed, "target"))
        gains.append(best(TPE(space, seed), target, 80) - best(RandomSearch(space, seed), target, 80))
    assert np.mean(gains) > 3 * np.std(gains, ddof=1) / math.sqrt(len(gains))


def traded(architecture: Architecture) -> Outcome:
    """A reward that costs: every option pays, some of them more than they cost."""
    worth, price = (0, 3, 5, 6), ((0, 1, 4, 9), (0, 2, 3, 8), (0, 5, 6, 7))
    reward = sum(worth[option] for option in architecture)
    flops = 10 + sum(price[position][option] for position, option in enumerate(architecture))
    return Outcome(Proposal(architecture), reward, params=100 - flops, flops=flops)


def undominated(outcomes: list[Outcome]) -> set[tuple[float, int]]:
    """The front's rewards and costs, by comparing all with all."""
    points = {(o.reward, o.flops or 0) for o in outcomes}
    return {(r, c) for r, c in points if not any((r2 >= r and c2 <= c) and (r2, c2) != (r, c) for r2, c2 in points)}


@pytest.mark.parametrize("batch", [1, 5])
def test_nsga2_finds_the_front(batch: int) -> None:
    space = Tiny64()
    truth = undominated([traded(architecture) for architecture in space.architectures()])
    assert len(truth) > 5
    shares = []
    for seed in range(3):
        algorithm = NSGA2(space, seed, population=10, batch=batch)
        outcomes: list[Outcome] = []
        while len(outcomes) < 150:
            told = [traded(proposal.architecture) for proposal in algorithm.ask()]
            algorithm.tell(told)
            outcomes += told
        front = pareto(outcomes)
        assert {(o.reward, o.flops) for o in front} == undominated(outcomes)
        assert algorithm.measures() == {"pareto_size": len(front)}
        shares.append(len(undominated(outcomes) & truth) / len(truth))
    assert np.mean(shares) > 0.75


def test_nsga2_spends_its_evaluations_near_the_front() -> None:
    """Once the first population is bred from, cheap or rewarding architectures outnumber those of random search."""
    space = Wide()

    def outcome(proposal: Proposal) -> Outcome:
        return Outcome(proposal, 0.0, flops=sum(proposal.architecture))

    algorithm = NSGA2(space, 0, population=10)
    costs = []
    for _ in range(100):
        (proposal,) = algorithm.ask()
        algorithm.tell([outcome(proposal)])
        costs.append(sum(proposal.architecture))
    assert np.mean(costs[-30:]) < np.mean(costs[:10]) - 4, "of equal rewards the cheap ones breed"


def test_pareto() -> None:
    def made(reward: float, flops: int, option: int = 0) -> Outcome:
        return Outcome(Proposal((option,)), reward, params=-flops, flops=flops)

    low, high, tie = made(1, 10), made(2, 20), made(2, 20, 1)
    worse, dearer, cheaper = made(0.5, 15), made(2, 21), made(-1, 9)
    assert pareto([high, worse, low, tie, dearer, high, cheaper]) == [cheaper, low, high, tie]
    assert pareto([low, high], "params") == [high]
    assert pareto([]) == []


def test_pareto_against_brute_force() -> None:
    draws = np.random.default_rng(0)
    for _ in range(50):
        points = draws.integers(0, 6, (12, 2)).tolist()
        outcomes = [Outcome(Proposal((n,)), reward, flops=flops) for n, (reward, flops) in enumerate(points)]
        front = pareto(outcomes)
        best = undominated(outcomes)
        assert {o.proposal for o in front} == {o.proposal for o in outcomes if (o.reward, o.flops) in best}
        assert [o.flops for o in front] == sorted(o.flops or 0 for o in front)


@pytest.mark.parametrize("cost", ["flops", "params"])
def test_an_unknown_cost_is_refused(cost: CostName) -> None:
    algorithm = NSGA2(Tiny64(), 0, cost=cost)
    (proposal,) = algorithm.ask()
    with pytest.raises(InputError, match=f"the {cost} of .* are unknown: expected a number beside every reward"):
        algorithm.tell([Outcome(proposal, 0.5)])


def stored(folder: Path) -> optuna.Study:
    """The study of a search's run folder, as Optuna itself reads it."""
    backend = optuna.storages.journal.JournalFileBackend(str(folder / "optuna.journal"))
    return optuna.load_study(study_name=None, storage=optuna.storages.JournalStorage(backend))


@pytest.mark.parametrize("make", [partial(TPE, startup=4, batch=3), partial(NSGA2, population=6, batch=3)])
@pytest.mark.parametrize("bounded", [False, True])
@pytest.mark.parametrize("cut", [1, 11, 24])
def test_a_study_goes_on_from_its_storage(
    make: Callable[[Space, int], SearchAlgorithm], bounded: bool, cut: int, tmp_path: Path
) -> None:
    """Stopped after `cut` evaluations, which may be within an ask: the rest is what a straight run proposes."""
    space = Tiny64()
    constraints = Constraints({}, {"params": 2_000.0}, Costs(space, ImageSpec(1, 10, 8))) if bounded else None

    def proposed(evaluations: int, folder: Path | None) -> list[Architecture]:
        algorithm = make(space, 0)
        if constraints is not None:
            algorithm.constrain(constraints)
        if folder is not None:
            algorithm.keep_in(folder)
        found: list[Architecture] = []
        while len(found) < evaluations:
            asked = algorithm.ask()[: evaluations - len(found)]
            found += [proposal.architecture for proposal in asked]
            algorithm.tell([traded(proposal.architecture) for proposal in asked])
        return found

    straight = proposed(36, None)
    assert proposed(cut, tmp_path) == straight[:cut]
    assert proposed(36, tmp_path) == straight
    kept = [trial.params for trial in stored(tmp_path).trials]
    assert proposed(36, tmp_path) == straight
    assert [trial.params for trial in stored(tmp_path).trials] == kept, "nothing is stored twice"
    assert len(kept) == 36 or bounded
    if constraints is not None:
        assert all(constraints.met(architecture) for architecture in straight)


def test_optunas_own_tools_can_read_the_storage(tmp_path: Path) -> None:
    algorithm = NSGA2(Tiny64(), 0, population=4)
    algorithm.keep_in(tmp_path)
    outcomes = []
    for _ in range(12):
        (proposal,) = algorithm.ask()
        outcomes.append(traded(proposal.architecture))
        algorithm.tell(outcomes[-1:])
    study = stored(tmp_path)
    assert [tuple(t.values) for t in study.trials] == [(o.reward, o.flops) for o in outcomes]
    best = {tuple(t.values) for t in study.best_trials}
    assert best == {(o.reward, o.flops) for o in pareto(outcomes)}


def test_optuna_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    logger = logging.getLogger("optuna")
    said: list[logging.LogRecord] = []
    monkeypatch.setattr(logger, "level", logger.level)  # put back after the test
    logger.setLevel(logging.INFO)
    listener = logging.Handler()
    monkeypatch.setattr(listener, "emit", said.append)
    monkeypatch.setattr(logger, "handlers", [listener])
    for algorithm in (TPE(Tiny64(), 0, startup=2), NSGA2(Tiny64(), 0, population=2)):
        for _ in range(8):
            algorithm.tell([traded(proposal.architecture) for proposal in algorithm.ask()])
    assert said == []
    assert logger.level == logging.INFO, "how much Optuna logs is the user's own"


def test_optuna_is_needed_only_when_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    fresh = runpy.run_path(str(optuna_search.__file__))
    assert fresh["pareto"]([]) == []
    for algorithm in ("TPE", "NSGA2"):
        with pytest.raises(InputError, match="need Optuna: pip install"):
            fresh[algorithm](Tiny64(), 0)
