"""Every benchmark runs with tiny counts and gives a figure; how fast anything is, is not tested here."""

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # the benchmarks are no part of the installed package

from benchmarks import training_step  # noqa: E402
from benchmarks.__main__ import BENCHMARKS, main, picked  # noqa: E402
from benchmarks.measure import Clock, Result, alternate, ratios  # noqa: E402
from nastricks.errors import InputError  # noqa: E402

# Lightning and the recipe call jsonargparse by names that it renamed.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
]

SMALL: dict[str, dict[str, int]] = {
    "step_tiny64": {"epochs": 3, "fits": 1},
    "step_weight_sharing_64": {"epochs": 3, "batch_size": 2},
    "alpha_step_tiny64": {"rounds": 1, "steps": 1},
    "alpha_step_weight_sharing_64": {"rounds": 1, "batch_size": 2},
    "calibrated_evaluation": {"rounds": 1, "batches": 1, "children": 3},
    "between_trials": {"trials": 2, "epochs": 1},
    "episode_on_two_workers": {"rounds": 1, "children": 2, "epochs": 1},
    "controller_draws": {"rounds": 1, "architectures": 5},
    "gumbel_hard": {"rounds": 1, "batch_size": 2, "channels": 4, "cells": 3},
    "active_options": {"rounds": 1, "children": 2, "batch_size": 2, "channels": 4, "cells": 3},
    "arch_perturbation": {"rounds": 1, "batch_size": 2, "channels": 4, "cells": 3},
    "partial_channels": {"rounds": 1, "batch_size": 2, "channels": 4, "cells": 3},
    "partial_channels_memory": {"rounds": 1, "batch_size": 2, "channels": 4, "cells": 3},
    "second_order": {"rounds": 1, "batch_size": 2, "channels": 4, "cells": 3},
    "hessian_eigenvalue": {"rounds": 1, "batch_size": 2, "channels": 2, "cells": 3, "nodes": 2, "rows": 1},
    "macro_evaluation": {"parts": 1, "alone": 2, "codes": 9, "images": 4, "size": 8},
    "macro_evaluation_loop": {"parts": 1, "alone": 2, "codes": 9, "images": 16, "size": 8},
    "extracted_subnet": {"rounds": 1, "passes": 1, "batch_size": 2, "size": 32},
    "strict_fairness": {"rounds": 1, "batch_size": 2, "train_size": 16},
    "frozen_prefix": {"rounds": 1, "batch_size": 2, "train_size": 4},
}


@pytest.fixture(autouse=True)
def _without_cifar10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NASTRICKS_DATA", str(tmp_path))  # random images are made faster than CIFAR-10 is read


@pytest.mark.parametrize("name", BENCHMARKS)
def test_gives_a_figure(name: str) -> None:
    run: Callable[..., Result] = BENCHMARKS[name]
    result = run(**SMALL[name])
    assert result.name == name
    assert result.unit == ("s" if name in ("between_trials", "controller_draws") else "ratio")
    assert result.n == 1
    assert math.isfinite(result.value)
    assert 0 < result.low <= result.value <= result.high
    assert result.note


def test_sides_that_do_different_work_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bare loop that skips half of its epochs ends with other weights."""
    whole = training_step.BareLoop.epoch

    def lazy(self: Any, number: int) -> None:
        if number % 2 == 0:
            whole(self, number)

    monkeypatch.setattr(training_step.BareLoop, "epoch", lazy)
    with pytest.raises(RuntimeError, match="different weights"):
        training_step.step_tiny64(epochs=3, fits=1)


def test_alpha_alone_leaves_the_weights_without_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both estimators leave the same gradient on alpha; only the slow one reaches the weights."""
    from benchmarks.alpha_step import AlphaStep, IntoWeights
    from benchmarks.measure import CPU
    from nastricks.estimators import FirstOrder
    from nastricks.recipe import resolve

    run = AlphaStep(resolve(["spaces/tiny64.yaml", "data/digits.yaml", "algorithms/darts.yaml"], CPU))
    monkeypatch.setattr(run.weights, "zero_grad", lambda set_to_none: None)
    monkeypatch.setattr(run.alpha, "step", lambda: None)
    module, gradients = run.module, []
    for estimator, reached in ((FirstOrder(module.policy), False), (IntoWeights(module.policy), True)):
        run.take(estimator)
        module.steps_seen = 0  # the same batch again
        gradients.append([p.grad.clone() for p in module.policy.parameters() if p.grad is not None])
        assert any(p.grad is not None for p in module.networks.parameters()) == reached
    assert len(gradients[0]) == len(gradients[1]) == 3
    for alone, into_weights in zip(*gradients, strict=True):
        torch.testing.assert_close(alone, into_weights)


def test_takes_turns() -> None:
    calls: list[str] = []
    first, second = alternate(lambda: calls.append("a"), lambda: calls.append("b"), rounds=2)
    assert "".join(calls) == "baabba"
    assert len(first) == len(second) == 2


def test_ratio_is_of_pairs() -> None:
    """A machine that is slow for a while slows both of a pair."""
    quiet, busy = (Clock(1.0, 1.0), Clock(10.0, 1.0)), (Clock(2.0, 1.0), Clock(20.0, 1.0))
    assert ratios(quiet, busy) == [0.5, 0.5]


def test_median_and_quartiles() -> None:
    result = Result.of("name", [4.0, 1.0, 2.0, 3.0, 100.0], target=3.0, note="")
    assert (result.low, result.value, result.high, result.n) == (2.0, 3.0, 4.0, 5)
    assert result.reached
    with pytest.raises(InputError, match="0 measurements"):
        Result.of("name", [], target=1.0, note="")


def test_names() -> None:
    assert picked([]) == list(BENCHMARKS)
    assert picked(["alpha_step"]) == ["alpha_step_tiny64", "alpha_step_weight_sharing_64"]
    with pytest.raises(InputError, match="did you mean 'step_tiny64'"):
        picked(["step_tiny46"])


def test_unknown_name_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["step_tiny46"]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.count("\n") == 1
