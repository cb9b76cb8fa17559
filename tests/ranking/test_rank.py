"""What a ranking is judged by: which children, which table, measures of the derived architecture, sizes."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from nastricks.data import Digits, ImageSpec
from nastricks.errors import InputError
from nastricks.ranking.metrics import kendall_tau
from nastricks.ranking.rank import COLUMNS, Ranking, cost, derived_metrics, find_table, judged, picked
from nastricks.ranking.tables import Table
from nastricks.rng import generator
from nastricks.spaces import Tiny64, WeightSharing64

SPACE = Tiny64()
NAMES = [SPACE.format(a) for a in SPACE.architectures()]


def table(replicas: int = 3) -> Table:
    rng = np.random.default_rng(0)
    means = np.linspace(0.2, 0.9, 64)[:, None]
    return Table(NAMES, (means + rng.normal(0, 0.01, (64, replicas))).clip(0, 1))


def rows(truth: Table, names: list[str] = NAMES) -> pd.DataFrame:
    """Scores equal to the truth, losses that rank the other way round, and sizes without meaning."""
    right = truth.truth(names)
    values: dict[str, Any] = {"architecture": names, "accuracy": right, "loss": right, "params": 7, "flops": 7}
    return pd.DataFrame({**values, "truth": right})


def test_picked_children_are_distinct_keyed_and_in_order() -> None:
    assert picked(SPACE, "all", 0) == list(SPACE.architectures())
    some = picked(SPACE, "20", 0)
    assert len(set(some)) == 20
    assert some == sorted(some) == picked(SPACE, "20", 0)
    assert some != picked(SPACE, "20", 1)
    assert picked(SPACE, "64", 0) == list(SPACE.architectures())


@pytest.mark.parametrize("children", ["1", "0", "-2", "65", "many", "", "2.0"])
def test_numbers_of_children_that_cannot_be(children: str) -> None:
    with pytest.raises(InputError, match="expected all, or a number from 2 to 64"):
        picked(SPACE, children, 0)


def test_a_perfect_ranking_by_accuracy_and_the_worst_by_loss() -> None:
    truth = table()
    ranking = judged(rows(truth), truth, derived=NAMES[int(truth.mean.argmax())])
    assert ranking.metrics["gt_tau"] == pytest.approx(1)
    assert ranking.metrics["gt_tau_by_loss"] == pytest.approx(-1)
    assert ranking.metrics["derived_rank"] == 1
    assert ranking.metrics["derived_accuracy"] == pytest.approx(truth.mean.max())
    assert ranking.ceiling is not None
    assert 0.8 < ranking.ceiling < 1
    assert set(ranking.baselines) == {"params", "flops", "chance", "best"}
    assert ranking.baselines["params"]["gt_tau"] == pytest.approx(0)  # all equal: ties are broken at random
    assert ranking.baselines["chance"]["gt_tau"] == pytest.approx(0, abs=0.05)


def test_baselines_are_measured_as_the_ranking_is() -> None:
    truth = table()
    frame = rows(truth).assign(params=np.random.default_rng(1).permutation(64))
    ranking = judged(frame, truth)
    expected = kendall_tau(frame["params"].to_numpy(float), frame["truth"].to_numpy())
    assert ranking.baselines["params"]["gt_tau"] == pytest.approx(expected)


def test_settling_on_a_child_is_measured_beside_settling_without_training() -> None:
    truth = table()
    frame = rows(truth).assign(params=np.arange(64), flops=np.repeat([1, 2], 32))
    trivial = judged(frame, truth, derived=NAMES[0]).baselines
    accuracies = frame["truth"].to_numpy(float)
    assert trivial["params"]["derived_accuracy"] == pytest.approx(accuracies[63])
    assert trivial["flops"]["derived_accuracy"] == pytest.approx(accuracies[32:].mean())  # ties: their mean
    assert trivial["chance"]["derived_accuracy"] == pytest.approx(accuracies.mean())
    assert trivial["best"] == {"derived_accuracy": pytest.approx(accuracies.max()), "derived_rank": 1}
    order = 1 + np.argsort(np.argsort(-accuracies))
    assert trivial["params"]["derived_rank"] == order[63]
    assert trivial["chance"]["derived_rank"] == pytest.approx(32.5)
    assert "derived_accuracy" not in judged(frame, truth).baselines["params"]


def test_without_a_table_nothing_is_judged() -> None:
    ranking = judged(rows(table()), None, derived="111")
    assert (ranking.metrics, ranking.baselines, ranking.ceiling, ranking.derived) == ({}, {}, None, "111")


def test_the_rank_of_the_derived_architecture_is_among_the_whole_table() -> None:
    truth = Table(["111", "112", "113", "114"], np.array([[0.4], [0.9], [0.9], [0.1]]))
    assert [derived_metrics(name, truth)["derived_rank"] for name in truth.architectures] == [3, 1, 1, 4]
    with pytest.raises(InputError, match="lacks"):
        derived_metrics("444", truth)


def test_a_ranking_is_written_with_its_columns(tmp_path: Path) -> None:
    frame = rows(table())
    Ranking(frame, {}, {}, None).write(tmp_path / "new" / "ranking.csv")
    back = pd.read_csv(tmp_path / "new" / "ranking.csv", dtype={"architecture": str})
    assert tuple(back.columns) == COLUMNS
    np.testing.assert_array_equal(back["accuracy"], frame["accuracy"])  # every digit is kept


def test_which_table_is_taken(tmp_path: Path) -> None:
    shipped = find_table(SPACE, Digits(), None)
    assert shipped is not None
    assert shipped.architectures == NAMES
    assert find_table(WeightSharing64(), Digits(), None) is None
    (tmp_path / "mine.csv").write_text("architecture,accuracy\n111,0.5\n112,0.25\n")
    own = find_table(SPACE, Digits(), tmp_path / "mine.csv")
    assert own is not None
    assert own.truth(["112"]).tolist() == [0.25]
    (tmp_path / "other.csv").write_text("architecture,accuracy\n555,0.5\n")
    with pytest.raises(InputError, match="'555' is no architecture of tiny64"):
        find_table(SPACE, Digits(), tmp_path / "other.csv")


def test_sizes_are_remembered_by_space_settings_and_data() -> None:
    found = set()
    for space in (Tiny64(4), Tiny64(5), WeightSharing64(4, 1, 6), WeightSharing64(4, 1, 6, bn_affine=True)):
        for spec in (ImageSpec(1, 8, 10), ImageSpec(3, 8, 10)):
            architecture = space.sample(generator("sizes"))
            module: Any = SimpleNamespace(spec=spec)
            for _ in range(2):
                assert cost(space, architecture, module) == space.cost(architecture, spec)
            found.add(cost(space, architecture, module))
    assert len(found) == 8
