"""Cutout by hand, from the same keyed draws."""

from collections.abc import Callable

import pytest
import torch

from nastricks.callbacks.cutout import Cutout
from nastricks.data.batch import Batch
from nastricks.errors import InputError
from nastricks.moment import Moment
from nastricks.run import Run

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
]

NOW = Moment(role="weights", seed=4, step=2)


def batch(n: int = 32, size: int = 8) -> Batch:
    return Batch(1 + torch.rand(n, 2, size, size), torch.zeros(n, dtype=torch.int64))


@pytest.mark.parametrize("length", [1, 3, 4, 8])
def test_equals_the_squares_by_hand(length: int) -> None:
    plain = batch()
    found = Cutout(length=length).on_batch(plain, NOW)
    rng = NOW.generator("cutout", per_sample=True)
    rows, columns = (torch.randint(8, (32,), generator=rng).tolist() for _ in range(2))
    for i, (row, column) in enumerate(zip(rows, columns, strict=True)):
        expected = plain.images[i].clone()
        for y in range(row - length // 2, row - length // 2 + length):
            for x in range(column - length // 2, column - length // 2 + length):
                if 0 <= y < 8 and 0 <= x < 8:
                    expected[:, y, x] = 0.0
        assert torch.equal(found.images[i], expected)


def test_each_sample_has_a_square_of_its_own_within_the_image() -> None:
    erased = Cutout(length=4).on_batch(batch(), NOW).images[:, 0] == 0
    assert len({tuple(e.flatten().tolist()) for e in erased}) > 1
    counts = erased.sum((1, 2))
    assert int(counts.max()) == 16
    assert int(counts.min()) >= 4


def test_half_of_the_side_by_default() -> None:
    assert int((Cutout().on_batch(batch(), NOW).images[:, 0] == 0).sum((1, 2)).max()) == 16


def test_the_given_batch_stays_and_labels_are_kept() -> None:
    plain = batch()
    before = plain.images.clone()
    found = Cutout(length=4).on_batch(plain, NOW)
    assert torch.equal(plain.images, before)
    assert found.labels is plain.labels


def test_batches_that_teach_the_policy_are_left_alone() -> None:
    trick, plain = Cutout(length=4), batch()
    assert trick.on_batch(plain, NOW.at(role="policy")) is plain
    assert trick.acts == 0


def test_length_zero_is_refused() -> None:
    with pytest.raises(InputError, match=r"cutout.length is 0: expected at least 1"):
        Cutout(length=0)


def test_length_above_the_image_is_refused(make: Callable[..., Run]) -> None:
    with pytest.raises(InputError, match=r"cutout.length is 9 and images are 8 pixels wide: choose at most 8"):
        make("spos", {"cutout": {"length": 9}}).fit()
