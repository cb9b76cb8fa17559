"""Rankings over time: the moments asked for, an untouched training, the end as `rank` sees it, and a resumed run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import pytorch_lightning as pl
import torch

from nastricks.errors import InputError
from nastricks.modules import Calibration, SupernetModule
from nastricks.modules.run_folder import LAST
from nastricks.ranking.over_time import FILE, RankingOverTime, moments
from nastricks.ranking.rank import scored
from nastricks.run import Run

# Lightning 2.6.6 asks torch's pytrees in a way that torch 2.15 deprecates.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
]


def callback() -> RankingOverTime:
    return RankingOverTime(last_epochs=2, last_steps=3, calibration_batches=2, children="12")


def run_with(make: Callable[..., Run], out: Path | None, added: list[pl.Callback], **changes: Any) -> Run:
    run = make("spos", None, changes, out)
    for one in reversed(added):
        run.trainer.callbacks.insert(0, one)  # type: ignore[attr-defined]
    return run


def test_moments_by_hand() -> None:
    assert moments(12, 3, 2, 0, 0, 0) == {6: ["epochs"], 12: ["epochs"]}
    assert moments(12, 3, 3, 0, 0, 0) == {9: ["epochs"], 12: ["epochs"]}  # and the end
    assert moments(12, 3, 0, 2, 2, 0) == {9: ["last epochs"], 11: ["last batches"], 12: ["last epochs", "last batches"]}
    assert moments(12, 3, 0, 0, 0, 3) == {step: ["middle batches"] for step in (7, 8, 9)}
    assert list(moments(5, 3, 1, 9, 9, 9)) == [1, 2, 3, 4, 5]  # no more than there are


def test_the_training_is_not_changed_and_the_end_is_what_rank_sees(make: Callable[..., Run], tmp_path: Path) -> None:
    plain, watched = make("spos"), run_with(make, tmp_path / "run", [callback()])
    plain.fit()
    watched.fit()
    one, other = plain.module.state_dict(), watched.module.state_dict()
    assert all(torch.equal(value, other[key]) for key, value in one.items() if isinstance(value, torch.Tensor))
    log = pd.read_csv(tmp_path / "run" / FILE, dtype={"architecture": str})
    assert log.groupby("series")["step"].unique().map(list).to_dict() == {
        "last batches": [6, 7, 8],
        "last epochs": [4, 8],
    }
    assert list(log["epoch"].unique()) == [1.0, 1.5, 1.75, 2.0]
    last = log[(log["step"] == 8) & (log["series"] == "last epochs")].set_index("architecture")
    module = watched.module
    assert isinstance(module, SupernetModule)
    chosen = [module.space.parse(name) for name in last.index]
    assert len(chosen) == 12
    found = scored(module, watched.data, chosen, Calibration(2))
    for child in chosen:
        name = module.space.format(child)
        assert (last.loc[name, "accuracy"], last.loc[name, "loss"]) == tuple(found[child])
    earlier = log[(log["step"] == 6)].set_index("architecture")["loss"]
    assert (earlier != last["loss"].loc[earlier.index]).any()


class KilledError(Exception):
    """The run is killed here."""


class Kill(pl.Callback):
    def on_train_batch_start(self, trainer: pl.Trainer, *args: Any) -> None:
        if trainer.global_step == 7:
            raise KilledError


def test_a_killed_run_goes_on_with_what_it_has_scored(make: Callable[..., Run], tmp_path: Path) -> None:
    run_with(make, tmp_path / "straight", [callback()]).fit()
    saves = {"checkpoint.every_n_steps": 3}
    with pytest.raises(KilledError):
        run_with(make, tmp_path / "killed", [callback(), Kill()], **saves).fit()
    assert not (tmp_path / "killed" / FILE).exists()
    run_with(make, tmp_path / "killed", [callback()], **saves).fit(str(tmp_path / "killed" / LAST))
    assert (tmp_path / "killed" / FILE).read_bytes() == (tmp_path / "straight" / FILE).read_bytes()


def test_what_cannot_be_scored_is_refused(make: Callable[..., Run]) -> None:
    with pytest.raises(InputError, match=r"RankingOverTime\.last_steps is -1: expected at least 0"):
        RankingOverTime(last_steps=-1)
    with pytest.raises(InputError, match="RankingOverTime scores nothing: set one of every_n_epochs"):
        RankingOverTime()
    child = make("child")
    child.trainer.callbacks.append(callback())  # type: ignore[attr-defined]
    with pytest.raises(InputError, match="scores the children of a supernet, and this run trains a ChildModule"):
        child.fit()
