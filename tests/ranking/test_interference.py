"""What training one child does to the others: nothing where no weights are shared, and the module stays as it was."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch

from nastricks.errors import InputError
from nastricks.modules import Calibration, SupernetModule
from nastricks.ranking.interference import FILE, Interference, interference
from nastricks.recipe import resolve
from nastricks.run import Run, build

# Lightning 2.6.6 asks torch's pytrees in a way that torch 2.15 deprecates.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
]

CHILDREN = [(0, 0, 0), (1, 2, 1), (1, 2, 2), (3, 3, 3)]


def changes(run: Run, calibration: Calibration | None) -> pd.DataFrame:
    """Change of each child's loss (columns) by training each (rows)."""
    assert isinstance(run.module, SupernetModule)
    log = interference(run.module, run.data, CHILDREN, 3, 0.5, calibration)
    grid = log.pivot(index="trained", columns="architecture", values="loss")
    return grid.drop(index="") - grid.loc[""]


@pytest.mark.parametrize("calibration", [None, Calibration(2)])
def test_children_that_share_weights_move_one_another(
    make: Callable[..., Run], calibration: Calibration | None
) -> None:
    run = make("spos")
    run.fit()
    before = {key: t.clone() for key, t in run.module.state_dict().items() if isinstance(t, torch.Tensor)}
    modes = [m.training for m in run.module.networks.modules()]
    grid = changes(run, calibration)
    assert (grid.to_numpy() != 0).all()  # the stem and the classifier are everyone's
    after = run.module.state_dict()
    assert all(torch.equal(t, after[key]) for key, t in before.items())
    assert [m.training for m in run.module.networks.modules()] == modes
    pd.testing.assert_frame_equal(changes(run, calibration), grid, check_exact=True)


def test_children_that_share_nothing_do_not() -> None:
    small = {"data.init_args.train_size": 64, "data.init_args.search_size": 32, "data.init_args.validation_size": 64}
    small |= {"data.init_args.batch_size": 32, "trainer.max_epochs": 1}
    files = ["recipes/spaces/tiny64.yaml", "recipes/data/digits.yaml", "recipes/algorithms/spos.yaml"]
    overrides = [f"--{key}={value}" for key, value in {**small, "trainer.accelerator": "cpu"}.items()]
    run = build(resolve([*files, "recipes/sharing/none.yaml"], overrides), None, quiet=True)
    run.fit()
    grid = changes(run, None).to_numpy()
    own = torch.eye(len(CHILDREN), dtype=torch.bool).numpy()
    assert (grid[~own] == 0).all()
    assert (grid[own] != 0).all()


def test_the_callback_writes_what_it_found(make: Callable[..., Run], tmp_path: Path) -> None:
    run = make("spos", None, None, tmp_path / "run")
    run.trainer.callbacks.insert(0, Interference(batches=1, calibration_batches=0, children="3"))  # type: ignore[attr-defined]
    run.fit()
    log = pd.read_csv(tmp_path / "run" / FILE, dtype={"trained": str, "architecture": str}, keep_default_na=False)
    assert len(log) == 4 * 3
    assert set(log["trained"]) == {"", *log["architecture"]}


def test_what_cannot_be_measured_is_refused(make: Callable[..., Run]) -> None:
    with pytest.raises(InputError, match=r"Interference\.batches is 0: expected at least 1"):
        Interference(batches=0)
    with pytest.raises(InputError, match=r"Interference\.share is 0: expected a number above 0"):
        Interference(share=0)
    with pytest.raises(InputError, match=r"Interference\.calibration_batches is -1"):
        Interference(calibration_batches=-1)
    run = make("spos")
    run.trainer.callbacks.append(Interference(children="99"))  # type: ignore[attr-defined]
    with pytest.raises(InputError, match="expected all, or a number from 2 to 64"):
        run.fit()
