"""The curve that a training writes is what `fine_tune` finds of the finished supernet, which stays as it was."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch

from nastricks.errors import InputError
from nastricks.modules import Calibration
from nastricks.ranking.fine_tuning import fine_tune
from nastricks.ranking.fine_tuning_curve import FILE, FineTuningCurve
from nastricks.run import Run

# Lightning 2.6.6 asks torch's pytrees in a way that torch 2.15 deprecates.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
]


def test_the_curve_is_that_of_the_finished_run(make: Callable[..., Run], tmp_path: Path) -> None:
    plain, watched = make("spos"), make("spos", None, None, tmp_path / "run")
    curve = FineTuningCurve(batches=[0, 2], calibration_batches=2, children="3")
    watched.trainer.callbacks.insert(0, curve)  # type: ignore[attr-defined]
    plain.fit()
    watched.fit()
    one, other = plain.module.state_dict(), watched.module.state_dict()
    assert all(torch.equal(value, other[key]) for key, value in one.items() if isinstance(value, torch.Tensor))
    log = pd.read_csv(tmp_path / "run" / FILE, dtype={"architecture": str})
    chosen = [plain.module.space.parse(name) for name in log["architecture"].unique()]
    found = fine_tune(plain.module, plain.data, None, chosen, [0, 2], calibration=Calibration(2))
    pd.testing.assert_frame_equal(log, found.children, check_exact=True)


def test_bad_numbers_are_refused() -> None:
    with pytest.raises(InputError, match=r"FineTuningCurve\.batches is \[5, 1\]: expected rising numbers"):
        FineTuningCurve(batches=[5, 1])
    with pytest.raises(InputError, match=r"FineTuningCurve\.batches is \[0\]"):
        FineTuningCurve(batches=[0])
    with pytest.raises(InputError, match=r"FineTuningCurve\.calibration_batches is -1"):
        FineTuningCurve(calibration_batches=-1)
