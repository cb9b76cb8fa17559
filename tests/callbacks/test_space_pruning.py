"""What stays by hand, what a pruned policy proposes and derives, whole runs, and the three rules beside each other."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import pytorch_lightning as pl

from nastricks.callbacks.space_pruning import SpacePruning, best_part
from nastricks.derivations import BestRanked, Trained
from nastricks.errors import InputError
from nastricks.modules import Calibration, SupernetModule, TrainingModule
from nastricks.moment import Moment
from nastricks.policies import Policy, Prioritised, Sandwich, StrictFairness, Sweep, UniformPath
from nastricks.ranking.rank import find_table, rank, scored
from nastricks.run import Run, load_run
from nastricks.spaces import Architecture, Slimmable, Tiny64

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
]

VALUES: dict[Architecture, float] = {(0,): 0.3, (1,): 0.9, (2,): 0.1, (3,): 0.9, (4,): 0.5}


@pytest.mark.parametrize(
    ("part", "least", "expected"),
    [
        (0.5, 1, [(1,), (3,), (4,)]),
        (0.6, 1, [(1,), (3,)]),
        (0.8, 1, [(1,)]),
        (0.01, 1, [(0,), (1,), (3,), (4,)]),  # one goes at least
        (0.99, 4, [(0,), (1,), (3,), (4,)]),
        (0.99, 1, [(1,)]),  # of equals the first stays
    ],
)
def test_the_best_part_stays(part: float, least: int, expected: list[Architecture]) -> None:
    assert best_part(VALUES, part, least) == expected


@pytest.mark.parametrize("make_policy", [UniformPath, Sweep])
def test_a_policy_that_keeps_proposes_those_alone(make_policy: Callable[[Tiny64], Policy]) -> None:
    space = Tiny64()
    policy, kept = make_policy(space), [(0, 1, 2), (3, 3, 3), (2, 0, 1)]
    policy.keep(kept)
    drawn = [policy.propose(Moment("weights", 0, step=step))[0] for step in range(300)]
    paths = [tuple(gates[choice.name].active[0] for choice in space.choices) for gates in drawn]
    assert set(paths) == set(kept)
    for child in kept:
        assert abs(paths.count(child) - 100) < 3 * (300 * 2 / 9) ** 0.5
    again = make_policy(space)
    again.load_state_dict(policy.state_dict())
    assert again.kept == policy.kept == tuple(sorted(kept))
    policy.restrict(space.choices[0].name, (0, 2))
    assert policy.kept == ((0, 1, 2), (2, 0, 1))
    with pytest.raises(InputError, match="none of the architectures to keep is allowed"):
        policy.keep([(1, 1, 1)])


def test_masks_of_earlier_checkpoints_are_read() -> None:
    policy = UniformPath(Tiny64())
    policy.set_extra_state({name: [0, 2] for name in policy.allowed})
    assert (set(policy.allowed.values()), policy.kept) == ({(0, 2)}, None)


def test_log_probabilities_of_what_is_kept() -> None:
    policy = UniformPath(Tiny64())
    policy.keep([(0, 0, 0), (1, 1, 1)])
    assert float(policy.log_prob((1, 1, 1)).exp()) == pytest.approx(0.5)
    assert float(policy.log_prob((2, 1, 1)).exp()) == 0


def test_what_is_dropped_is_not_derived() -> None:
    space = Tiny64()
    policy = UniformPath(space)
    policy.keep([(0, 0, 0), (1, 1, 1)])
    scores = {a: float(sum(a)) for a in space.architectures()}
    assert BestRanked().derive(Trained(space, policy, lambda: scores)) == (1, 1, 1)


@pytest.mark.parametrize("policy", [StrictFairness(Tiny64()), Sandwich(Slimmable()), Prioritised(Tiny64())], ids=repr)
def test_other_policies_cannot_keep(policy: Policy) -> None:
    with pytest.raises(InputError, match="cannot keep to a list of architectures: use UniformPath or Sweep"):
        policy.keep([(0, 0, 0)])


class Watch(pl.Callback):
    """What is left during each epoch, and how the children of that moment score."""

    def __init__(self) -> None:
        self.left: list[tuple[Architecture, ...] | None] = []

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        assert isinstance(pl_module, TrainingModule)
        if trainer.is_last_batch:
            self.left.append(pl_module.policy.kept)


class Stop(pl.Callback):
    """Ends a run with its first epoch."""

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.should_stop = True


def fitted(make: Callable[..., Run], arguments: dict[str, Any], epochs: int = 5, **more: Any) -> tuple[Run, Watch]:
    run, watch = make("spos", {"space_pruning": arguments, **more}, {"trainer.max_epochs": epochs}), Watch()
    run.trainer.callbacks.append(watch)  # type: ignore[attr-defined]
    run.fit()
    return run, watch


@pytest.mark.parametrize(
    ("arguments", "expected", "acts"),
    [
        ({"epochs": 1, "least": 8}, [64, 32, 16, 8, 8], 3),
        ({"epochs": 2, "part": 0.25, "least": 1}, [64, 64, 48, 48, 36], 2),
        ({"epochs": 2, "first": 1, "least": 1}, [64, 32, 32, 16, 16], 2),
    ],
)
def test_the_schedule_of_a_run(
    arguments: dict[str, Any], expected: list[int], acts: int, make: Callable[..., Run]
) -> None:
    run, watch = fitted(make, arguments)
    assert [64 if left is None else len(left) for left in watch.left] == expected
    assert run.tricks[0].acts == acts


def test_by_the_ranking_the_best_stay_and_one_of_them_is_derived(make: Callable[..., Run]) -> None:
    run, _ = fitted(make, {"epochs": 1, "least": 4, "by": "loss"}, 2, bn_calibration={"batches": 2})
    straight = make("spos", {}, {"trainer.max_epochs": 2})  # the same up to the pruning
    straight.trainer.callbacks.append(Stop())  # type: ignore[attr-defined]
    straight.fit()
    everything = list(straight.module.space.architectures())
    scores = scored(straight.module, straight.data, everything, Calibration(2))
    best = sorted(everything, key=lambda a: scores[a].loss)[:32]
    assert run.module.policy.kept == tuple(sorted(best))
    assert isinstance(run.module, SupernetModule)
    derived = run.module.derivation.derive(
        Trained(run.module.space, run.module.policy, lambda: {a: scores[a].accuracy for a in everything})
    )
    assert derived in best


def test_the_truth_keeps_the_truly_best_and_chance_keeps_others(make: Callable[..., Run], tmp_path: Path) -> None:
    space = Tiny64()
    truth = {space.format(a): i / 63 for i, a in enumerate(space.architectures())}
    table = tmp_path / "truth.csv"
    pd.DataFrame({"architecture": list(truth), "accuracy": list(truth.values())}).to_csv(table, index=False)
    told, _ = fitted(make, {"epochs": 1, "least": 32, "by": "truth", "table": str(table)}, 2)
    assert told.module.policy.kept == tuple(list(space.architectures())[32:])
    drawn = [fitted(make, {"epochs": 1, "least": 32, "by": "chance"}, 2)[0].module.policy.kept for _ in range(2)]
    assert drawn[0] == drawn[1] != told.module.policy.kept
    shipped, _ = fitted(make, {"epochs": 1, "least": 32, "by": "truth"}, 2)
    known = find_table(space, shipped.data, None)
    assert known is not None
    mean = dict(zip(known.architectures, known.mean, strict=True))
    kept = shipped.module.policy.kept or ()
    worst = min(mean[space.format(a)] for a in kept)
    assert sum(value > worst for value in mean.values()) < 32


def test_a_run_that_is_read_again_derives_among_those_left(make: Callable[..., Run], tmp_path: Path) -> None:
    run = make("spos", {"space_pruning": {"epochs": 1, "least": 2, "part": 0.97}}, out=tmp_path / "run")
    run.fit()
    again = load_run(tmp_path / "run")
    assert again.module.policy.kept == run.module.policy.kept
    ranking = rank(again.module, again.data, find_table(again.module.space, again.data, None))
    assert len(ranking.rows) == 64
    assert ranking.derived in {again.module.space.format(a) for a in again.module.policy.kept or ()}
    metrics = pd.read_csv(tmp_path / "run/metrics.csv")
    assert metrics["space_pruning/children"].dropna().tolist() == [2.0]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"epochs": 0}, r"space_pruning.epochs is 0: expected at least 1"),
        ({"part": 1.0}, r"space_pruning.part is 1.0: expected a number in \(0, 1\)"),
        ({"least": 0}, r"space_pruning.least is 0"),
        ({"by": "luck"}, r"space_pruning.by is 'luck': expected one of accuracy, loss, chance, truth"),
        ({"table": "x.csv"}, r"space_pruning.table is x.csv, which pruning by accuracy does not read"),
    ],
)
def test_bad_values_are_refused(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        SpacePruning(**arguments)


def test_what_cannot_act_is_refused(make: Callable[..., Run], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"space_pruning.first is 20, and the last of 2 epochs is number 1"):
        make("spos", {"space_pruning": {"epochs": 20}}).fit()
    with pytest.raises(InputError, match=r"space_pruning.least is 64, and there are 64 children"):
        make("spos", {"space_pruning": {"epochs": 1, "least": 64}}).fit()
    short = tmp_path / "short.csv"
    short.write_text("architecture,accuracy\n111,0.5\n")
    with pytest.raises(InputError, match=r"cannot rank the children: .* lacks 63 architectures"):
        make("spos", {"space_pruning": {"epochs": 1, "by": "truth", "table": str(short)}}).fit()
