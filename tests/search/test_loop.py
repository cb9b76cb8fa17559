"""The search loop: budgets, what is measured once, replay after an interruption, and what is told of a search."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from jsonargparse import Namespace

from nastricks.errors import InputError
from nastricks.recipe import with_seed
from nastricks.rng import generator
from nastricks.search import trained_child
from nastricks.search.algorithm import Proposal
from nastricks.search.engine import Engine, InProcess, RayWorkers
from nastricks.search.folder import claim
from nastricks.search.loop import CHECKPOINTS, Search
from nastricks.search.recipe import dump_any, resolve_any, resolve_search, searches
from nastricks.search.reward import Measured, Reward
from nastricks.search.trained_child import ChildTask, TrainedChild

# Lightning 2.6 calls the parser by its old name.
pytestmark = pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning")

TINY = ["recipes/spaces/tiny64.yaml", "recipes/data/digits.yaml"]
CHILD = [*TINY, "recipes/child/tiny64.yaml"]
TRAINS = "recipes/search/rewards/trained_child.yaml"


def config(search: str, *more: str, seed: int = 0, budget: int = 40) -> Namespace:
    made = resolve_search([*TINY, f"recipes/search/{search}.yaml"], [f"--search.evaluations={budget}", *more])
    return with_seed(made, seed)


def found(search: Search, engine: Engine | None = None) -> pd.DataFrame:
    """Run a search; its evaluations without their times."""
    search.run(engine or InProcess())
    return pd.DataFrame([vars(e) for e in search.evaluations]).drop(columns="seconds")


class Counted(Reward):
    """A made-up accuracy, and every proposal that was measured."""

    def __init__(self) -> None:
        super().__init__()
        self.measured: list[Proposal] = []

    def prepare(self, setting: Any) -> None: ...

    def measure(self, proposals: Sequence[Proposal], engine: Engine) -> Iterator[tuple[Proposal, Measured]]:
        for proposal in reversed(proposals):  # results in another order than asked
            self.measured.append(proposal)
            yield proposal, Measured(sum(proposal.architecture) / 9)


@pytest.mark.parametrize("name", ["random_search", "evolution", "nasnet_reinforce", "nasnet_ppo", "relax", "tpe"])
def test_a_search_repeats_under_its_seed_and_differs_under_another(name: str) -> None:
    first = found(Search(config(name)))
    assert len(first) == 40
    pd.testing.assert_frame_equal(first, found(Search(config(name))))
    assert not first["architecture"].equals(found(Search(config(name, seed=1)))["architecture"])


def test_what_is_told_equals_what_was_evaluated() -> None:
    search = Search(config("random_search", "--search.goal=0.955", budget=60))
    metrics = search.run(InProcess())
    rows = pd.DataFrame([vars(e) for e in search.evaluations])
    best = [rows["truth"][rows["reward"][: n + 1].idxmax()] for n in range(len(rows))]
    assert metrics["best_true"] == best[-1]
    assert [metrics[f"best_true_at_{n}"] for n in (10, 20, 50)] == [best[n - 1] for n in (10, 20, 50)]
    assert metrics["mean_best_true"] == pytest.approx(np.mean(best))
    assert metrics["final_reward"] == pytest.approx(rows["reward"][-6:].mean())
    reached = [n + 1 for n, value in enumerate(best) if value >= 0.955]
    assert metrics["evaluations_to_goal"] == (reached[0] if reached else 60)
    assert metrics["goal_reached"] == bool(reached)
    networks = [search.space.canonical(search.space.parse(a)) for a in rows["architecture"]]
    assert metrics["repeats"] == pytest.approx(pd.Series(networks).duplicated().mean())
    assert set(metrics) == set(search.metric_names())
    assert max(n for n in CHECKPOINTS if f"best_true_at_{n}" in metrics) == 50
    ends = search.baselines()
    assert ends["chance"]["best_true"] < metrics["best_true"] <= ends["best"]["best_true"]


def test_no_network_is_measured_twice_and_outcomes_are_told_in_the_order_asked() -> None:
    search = Search(config("random_search", budget=64))
    search.reward = counted = Counted()
    told: list[list[float]] = []
    tell = search.algorithm.tell
    search.algorithm.tell = lambda outcomes: (told.append([o.reward for o in outcomes]), tell(outcomes))[1]  # type: ignore[method-assign, func-returns-value]
    search.run(InProcess())
    canonical = [search.space.canonical(p.architecture) for p in counted.measured]
    assert len(canonical) == len(set(canonical))
    for outcome, evaluation in zip([r for batch in told for r in batch], search.evaluations, strict=True):
        own = search.space.canonical(search.space.parse(evaluation.architecture))
        assert outcome == evaluation.reward == sum(own) / 9
    assert sum(not e.repeat for e in search.evaluations) == len(canonical)
    assert len({e.architecture for e in search.evaluations}) > len(canonical)  # 12 of the 64 are a second spelling


def test_hyperband_pays_by_epochs_and_stays_within_its_budget() -> None:
    rows = found(Search(config("hyperband", budget=12)))
    price = rows["epochs"] / 20
    assert set(rows["epochs"]) == {2, 6, 20}
    assert rows["spent"].to_numpy() == pytest.approx(price.cumsum().to_numpy())
    assert rows["spent"].max() <= 12
    assert rows["spent"].max() > 11  # the next child would not have fitted
    with pytest.raises(InputError, match="knows none"):
        Search(resolve_search(["recipes/spaces/sequence.yaml", "recipes/search/hyperband.yaml",
                               "recipes/search/rewards/objective.yaml"]))  # fmt: skip


def test_a_curve_has_the_same_places_in_every_search() -> None:
    one, other = Search(config("random_search", budget=250)), Search(config("nasnet_ppo", budget=250))
    for search in (one, other):
        search.run(InProcess())
    assert one._grid == other._grid
    assert (len(one._grid), one._grid[-1]) == (100, 250)
    assert [row["step"] for row in other._curve] == other._grid
    assert {"mean_reward", "entropy", "repeats", "best_true"} <= set(other._curve[0])


def test_every_update_is_logged(tmp_path: Path) -> None:
    Search(config("nasnet_reinforce", budget=40), tmp_path).run(InProcess())
    rows = pd.read_csv(tmp_path / "updates.csv")
    assert list(rows["evaluations"]) == [8, 16, 24, 32, 40]
    assert {"mean_reward", "entropy", "repeats"} <= set(rows.columns)
    assert list(rows["illegal"]) == [0] * 5


def test_without_masks_illegal_draws_are_counted_and_cost_no_evaluation(tmp_path: Path) -> None:
    files = [f"recipes/{f}.yaml" for f in ("spaces/sequence", "search/nasnet_reinforce", "search/rewards/objective")]
    unmasked = ["--space.init_args.length=4", "--space.init_args.kinds=2", "--search.evaluations=24"]
    unmasked.append("--search.algorithm.init_args.policy.init_args.masked=false")
    search = Search(resolve_search(files, unmasked), tmp_path)
    search.run(InProcess())
    rows = pd.read_csv(tmp_path / "updates.csv")
    assert len(search.evaluations) == 24
    assert rows["illegal"].mean() > 0.5  # one draw in 16 is legal at first
    assert rows["updates"].iloc[-1] > len(rows)


def test_any_table_can_be_searched(tmp_path: Path) -> None:
    table = tmp_path / "mine.csv"
    table.write_text("architecture,accuracy\n" + "".join(f"{a}{b},0.{a}{b}\n" for a in range(4) for b in range(4)))
    files = ["recipes/spaces/tabular.yaml", "recipes/search/random_search.yaml", "recipes/search/local_search.yaml"]
    search = Search(resolve_search(files, [f"--space.init_args.table={table}"]))
    assert search.run(InProcess())["best_true"] == 0.33
    assert len(search.curve) == 100  # flat once all sixteen were asked


@pytest.mark.parametrize(
    ("name", "length", "vocabulary"),
    [
        ("evolution", 5, 4),  # 1,024 sequences
        ("local_search", 5, 4),
        ("tpe", 5, 4),
        ("nasnet_reinforce", 4, 3),  # 81: a fast controller settles on a local optimum
        ("nasnet_ppo", 4, 3),
        ("relax", 4, 3),
    ],
)
def test_the_optimum_is_recovered_where_it_is_known(name: str, length: int, vocabulary: int) -> None:
    files = ["recipes/spaces/sequence.yaml", f"recipes/search/{name}.yaml", "recipes/search/rewards/objective.yaml"]
    small = [f"--space.init_args.length={length}", f"--space.init_args.vocabulary={vocabulary}"]
    search = Search(resolve_search(files, [*small, "--search.evaluations=400"]))
    metrics = search.run(InProcess())
    assert metrics["best_true"] == 1.0
    assert search.space.parse(search.best_at(400).architecture) == search.space.optimum()  # type: ignore[attr-defined]


# Children that are trained.

Trained = list[str]


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> Trained:
    """Children with a made-up accuracy in place of a training; every one that was trained."""
    seen: Trained = []

    def train(task: ChildTask) -> Measured:
        seen.append(task.architecture)
        if task.architecture == "444":
            return Measured(0.1, float("nan"), 0.5, "diverged")
        draw = generator(task.config.seed_everything, task.architecture, task.proposal.epochs)
        return Measured(draw.initial_seed() % 1000 / 1000, 0.5, 0.5)

    monkeypatch.setattr(trained_child, "train_child", train)
    return seen


def trains(search: str, *more: str, budget: int = 30) -> Namespace:
    files = [*CHILD, f"recipes/search/{search}.yaml", TRAINS]
    return resolve_search(files, [f"--search.evaluations={budget}", *more])


class KilledError(Exception):
    """Stands for a kill."""


@pytest.mark.parametrize("name", ["evolution", "nasnet_reinforce", "hyperband"])
def test_a_killed_search_loses_no_child_and_ends_the_same(
    name: str, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = found(Search(trains(name), tmp_path / "straight"))
    whole = sorted(trained)
    trained.clear()
    fake: Callable[[ChildTask], Measured] = trained_child.train_child

    def mortal(task: ChildTask) -> Measured:
        if len(trained) == 7:
            raise KilledError
        return fake(task)

    monkeypatch.setattr(trained_child, "train_child", mortal)
    with pytest.raises(KilledError):
        Search(trains(name), tmp_path / "killed").run(InProcess())
    assert len(list((tmp_path / "killed/children").glob("*.json"))) == 7
    monkeypatch.setattr(trained_child, "train_child", fake)
    pd.testing.assert_frame_equal(straight, found(Search(trains(name), tmp_path / "killed")))
    assert sorted(trained) == whole  # the seven are among them once
    assert (tmp_path / "killed/metrics.csv").read_text() == (tmp_path / "straight/metrics.csv").read_text()


def test_a_child_that_diverges_gets_the_stated_reward_and_is_logged(trained: Trained, tmp_path: Path) -> None:
    search = Search(trains("random_search", "--search.reward.init_args.diverged=0.05", budget=64), tmp_path / "out")
    metrics = search.run(InProcess())
    (row,) = (e for e in search.evaluations if e.architecture == "444" and not e.repeat)
    assert (row.reward, row.accuracy, row.status) == (0.05, 0.05, "diverged")
    assert metrics["diverged"] >= 1
    kept = pd.read_csv(tmp_path / "out/evaluations.csv", dtype={"architecture": str})
    assert kept.loc[kept["architecture"] == "444", "status"].iloc[0] == "diverged"


def test_a_folder_holds_one_search_whose_budget_may_grow(trained: Trained, tmp_path: Path) -> None:
    small, large = trains("evolution", budget=10), trains("evolution", budget=20)
    claim(small, tmp_path / "out")
    first = found(Search(small, tmp_path / "out"))
    claim(large, tmp_path / "out")
    trained.clear()
    search = Search(large, tmp_path / "out")
    second = found(search)
    pd.testing.assert_frame_equal(first, second[:10])
    known = {search.space.format(search.space.canonical(search.space.parse(a))) for a in first["architecture"]}
    assert not set(trained) & known
    with pytest.raises(InputError, match="holds another search"):
        claim(trains("evolution", "--seed_everything=3"), tmp_path / "out")
    (tmp_path / "strange").mkdir()
    (tmp_path / "strange/file").write_text("x")
    with pytest.raises(InputError, match="holds no search"):
        claim(small, tmp_path / "strange")


SHORT = (
    "--data.init_args.train_size=32",
    "--data.init_args.search_size=16",
    "--data.init_args.validation_size=64",
    "--data.init_args.batch_size=16",
    "--trainer.accelerator=cpu",
    "--trainer.max_epochs=1",
)


@pytest.mark.xdist_group("ray")
def test_two_ray_workers_find_what_this_process_finds_even_where_one_dies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'nastricks[ray]'")
    monkeypatch.setenv("RAY_worker_niceness", "0")  # else they wait for every other test
    mark, once = tmp_path / "died", trained_child.train_child

    def mortal(task: ChildTask) -> Measured:  # local, so that workers get it by value
        import os

        measured = once(task)
        if not mark.exists():
            mark.touch()
            os._exit(1)
        return measured

    alone = found(Search(trains("nasnet_reinforce", *SHORT, budget=12)))
    monkeypatch.setattr(trained_child, "train_child", mortal)
    with closing(RayWorkers(2)) as workers:
        search = Search(trains("nasnet_reinforce", *SHORT, budget=12), tmp_path / "out")
        pd.testing.assert_frame_equal(alone, found(search, workers))
    assert mark.exists()
    assert alone["reward"].nunique() > 3
    assert len(list((tmp_path / "out/children").iterdir())) == len(set(alone["architecture"]))


# Configurations.


def test_a_stack_that_searches_round_trips(tmp_path: Path) -> None:
    made = config("nasnet_ppo")
    assert searches(made)
    (tmp_path / "config.yaml").write_text(dump_any(made))
    assert dump_any(resolve_any([tmp_path / "config.yaml"])) == dump_any(made)
    assert not searches(resolve_any(CHILD))


@pytest.mark.parametrize(
    ("overrides", "match"),
    [
        (["--search.evaluations=0"], "evaluations is 0"),
        (["--search.reward=TrainedChild"], "add data and a child recipe"),
        (["--search.reward=ObjectiveReward"], "needs a space with an objective"),
        (["--search.reward=SharedWeights", "--search.reward.run=nowhere"], "holds no run"),
        (["--search.reward.table=nowhere.csv"], "does not exist"),
        (["--search.reward.resource.target=0"], "target is 0"),
        (["--search.reward.fidelities={2: tiny64_digits_2_epochs}"], "say how long the main table trained"),
    ],
)
def test_what_does_not_fit_is_refused(overrides: list[str], match: str) -> None:
    with pytest.raises(InputError, match=match):
        Search(resolve_search([*TINY, "recipes/search/random_search.yaml"], overrides))


def test_a_stack_without_a_search_is_refused() -> None:
    with pytest.raises(InputError, match="names no search"):
        resolve_search(TINY)
    with pytest.raises(InputError, match="trains children"):
        Search(resolve_search([*TINY, "recipes/algorithms/spos.yaml", "recipes/search/evolution.yaml", TRAINS]))


def test_epochs_that_a_reward_does_not_know_are_refused() -> None:
    with pytest.raises(InputError, match="no table of 5 epochs: they know 2, 6, 20"):
        Search(config("hyperband", "--search.algorithm.init_args.eta=2"))
    with pytest.raises(InputError, match="longest training is of 18 epochs, the reward's of 20"):
        Search(config("hyperband", "--search.algorithm.init_args.max_epochs=18"))
    files = ["recipes/spaces/sequence.yaml", "recipes/data/digits.yaml", "recipes/search/nsga2.yaml"]
    costly = resolve_search([*files, "recipes/search/rewards/objective.yaml"])
    with pytest.raises(InputError, match="no network"):
        Search(costly)


def test_a_training_that_diverges() -> None:
    made = trains("random_search", *SHORT, "--model.init_args.optimizer.init_args.lr=1e30", budget=2)
    rows = found(Search(made))
    assert set(rows["status"]) == {"diverged"}
    assert set(rows["reward"]) == {0.0}


def test_the_cost_of_a_child_is_taken_off() -> None:
    free = Search(config("random_search", budget=8))
    taxed = Search(
        config(
            "random_search", "--search.reward.resource.target=1000", "--search.reward.resource.cost=params", budget=8
        )
    )
    free.run(InProcess())
    taxed.run(InProcess())
    for a, b in zip(free.evaluations, taxed.evaluations, strict=True):
        params = taxed.space.cost(taxed.space.parse(b.architecture), taxed.setting.spec).params  # type: ignore[arg-type]
        assert b.params == params
        assert b.reward == pytest.approx(a.reward - 0.1 * max(0.0, params / 1000 - 1))


def test_a_reward_of_trained_children_is_the_validation_accuracy_of_the_recipe() -> None:
    search = Search(trains("random_search", *SHORT, budget=1))
    assert isinstance(search.reward, TrainedChild)
    assert search.reward.full_epochs == 1
    (row,) = found(search).to_dict("records")
    assert 0 <= row["accuracy"] <= 1
    assert row["truth"] is not None  # out of the shipped table
