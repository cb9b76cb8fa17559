"""The rate falls by equal factors, and stands still at the end."""

from collections.abc import Callable
from itertools import pairwise

import pytest

from nastricks.callbacks.constant_ending import ConstantEnding, falling
from nastricks.errors import InputError
from nastricks.moment import Moment
from nastricks.run import Run

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
]


def test_it_falls_by_equal_factors_and_then_stands_still() -> None:
    rates = [falling(part / 10, 0.05, 0.8) for part in range(11)]
    factors = [b / a for a, b in pairwise(rates[:9])]
    assert rates[0] == 1.0
    assert factors == pytest.approx([0.05 ** (1 / 8)] * 8)
    assert rates[8:] == pytest.approx([0.05] * 3)


def test_efficientnets_decay_is_at_five_percent_where_the_default_says() -> None:
    default = ConstantEnding()
    for epoch in (0, 50, 150, 230):
        assert falling(epoch / 350, default.ending, default.start) == pytest.approx(0.97 ** (epoch / 2.4), rel=0.02)


def test_it_replaces_the_recipes_schedule() -> None:
    trick = ConstantEnding(ending=0.1, start=0.5)
    at = Moment(role="weights", seed=0, steps_per_epoch=10, epochs=4)
    assert trick.on_learning_rate(0.001, 0.2, at.at(step=10)) == pytest.approx(0.2 * 0.1**0.5)
    assert trick.on_learning_rate(0.001, 0.2, at.at(step=39)) == pytest.approx(0.02)
    assert trick.acts == 2


def test_the_optimizer_gets_the_rate(make: Callable[..., Run]) -> None:
    run = make("spos", {"constant_ending": {"ending": 0.1, "start": 0.5}})
    run.fit()
    assert run.trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"ending": 0.0}, r"constant_ending\.ending is 0\.0"),
        ({"ending": 1.0}, r"constant_ending\.ending is 1\.0"),
        ({"start": 0.0}, r"constant_ending\.start is 0\.0"),
        ({"start": 1.0}, r"constant_ending\.start is 1\.0"),
    ],
)
def test_bad_values(arguments: dict[str, float], words: str) -> None:
    with pytest.raises(InputError, match=words):
        ConstantEnding(**arguments)


def test_another_trick_that_sets_the_rate_is_refused(make: Callable[..., Run]) -> None:
    with pytest.raises(InputError, match="tricks constant_ending and sgdr both set the learning rate"):
        make("spos", {"constant_ending": {}, "sgdr": {"t_0": 1}}).check()
