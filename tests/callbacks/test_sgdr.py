"""SGDR equals torch's CosineAnnealingWarmRestarts, stepped with fractional epochs."""

from collections.abc import Callable
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts

from nastricks.callbacks.sgdr import SGDR, part_of_cycle
from nastricks.errors import InputError
from nastricks.moment import Moment
from nastricks.run import Run

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
]


@pytest.mark.filterwarnings("ignore:.*lr_scheduler.step.*before.*optimizer.step.*:UserWarning")
@pytest.mark.filterwarnings("ignore:.*epoch parameter in `scheduler.step.*:UserWarning")
@pytest.mark.parametrize(("t_0", "t_mult", "eta_min"), [(10, 2, 0.0), (3, 1, 0.001), (1, 3, 0.0), (4, 2, 0.05)])
def test_equals_torch(t_0: int, t_mult: int, eta_min: float) -> None:
    steps_per_epoch, base = 7, 0.1
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=base)
    reference = CosineAnnealingWarmRestarts(optimizer, T_0=t_0, T_mult=t_mult, eta_min=eta_min)
    trick = SGDR(t_0, t_mult, eta_min)
    for step in range(45 * steps_per_epoch):
        if step % steps_per_epoch == 0 and step:
            # torch's closed form for t_mult > 1 takes a logarithm, which is off by rounding at a restart
            assert trick.on_learning_rate(0.0, base, moment(step)) <= base
            continue
        reference.step(step / steps_per_epoch)
        expected = optimizer.param_groups[0]["lr"]
        assert trick.on_learning_rate(0.0, base, moment(step)) == pytest.approx(expected, abs=1e-9)


def moment(step: int) -> Moment:
    return Moment(role="weights", seed=0, step=step, steps_per_epoch=7, epochs=45)


@pytest.mark.parametrize(("epoch", "part"), [(0, 0), (5, 0.5), (10, 0), (20, 0.5), (30, 0), (50, 0.5)])
def test_cycles_double(epoch: float, part: float) -> None:
    assert part_of_cycle(epoch, 10, 2) == part


def test_cycles_may_be_parts_of_an_epoch() -> None:
    assert part_of_cycle(0.75, 0.5, 1) == 0.5


def test_the_rate_restarts_in_a_run(make: Callable[..., Run]) -> None:
    class Rates(pl.Callback):
        def __init__(self) -> None:
            self.seen: list[float] = []

        def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
            self.seen.append(trainer.optimizers[0].param_groups[0]["lr"])

    run, rates = make("spos", {"sgdr": {"t_0": 1, "t_mult": 1}}), Rates()
    run.trainer.callbacks.append(rates)  # type: ignore[attr-defined]
    run.fit()
    once = [0.1, 0.0853553390593, 0.05, 0.0146446609407]
    assert rates.seen == pytest.approx(once * 2)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"t_0": 0}, r"sgdr.t_0 is 0: expected a number of epochs above 0"),
        ({"t_mult": 0}, r"sgdr.t_mult is 0: expected at least 1"),
        ({"eta_min": -1.0}, r"sgdr.eta_min is -1.0: expected at least 0"),
    ],
)
def test_bad_values_are_refused(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        SGDR(**arguments)
