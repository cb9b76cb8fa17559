"""Splits are disjoint, keyed, and stratified where asked."""

import pytest
import torch

from nastricks.data.splits import carve, part, shuffled
from nastricks.errors import InputError

LABELS = torch.cat([torch.zeros(60), torch.ones(30), torch.full((10,), 2.0)]).long()


@pytest.mark.parametrize("stratified", [False, True])
def test_splits_are_disjoint_and_of_the_sizes_asked(stratified: bool) -> None:
    cut = carve(LABELS, {"train": 50, "search": 30, "validation": 20}, 0, stratified=stratified, what="images")
    assert [len(i) for i in cut.values()] == [50, 30, 20]
    assert torch.cat(list(cut.values())).sort().values.tolist() == list(range(100))


def test_stratified_splits_hold_the_classes_in_proportion() -> None:
    for seed in range(5):
        cut = carve(LABELS, {"train": 50, "search": 30, "validation": 20}, seed, stratified=True, what="images")
        for index in cut.values():
            share = LABELS[index].bincount(minlength=3)
            expected = torch.tensor([0.6, 0.3, 0.1]) * len(index)
            assert float((share - expected).abs().max()) <= 2


@pytest.mark.parametrize("stratified", [False, True])
def test_order_follows_the_key_alone(stratified: bool) -> None:
    assert torch.equal(shuffled(LABELS, stratified, "a"), shuffled(LABELS, stratified, "a"))
    assert not torch.equal(shuffled(LABELS, stratified, "a"), shuffled(LABELS, stratified, "b"))
    assert shuffled(LABELS, stratified, "a").sort().values.tolist() == list(range(100))


def test_a_smaller_fraction_is_contained_in_a_larger_one() -> None:
    index = torch.randperm(100)
    small, large = part(index, 0.2), part(index, 0.5)
    assert (len(small), len(large), len(part(index, 1.0)), len(part(index, 1e-9))) == (20, 50, 100, 1)
    assert set(small.tolist()) < set(large.tolist())


def test_more_images_than_there_are_is_refused() -> None:
    with pytest.raises(InputError, match=r"train 90 \+ search 20 = 110 images exceed the 100 images of x"):
        carve(LABELS, {"train": 90, "search": 20}, 0, stratified=False, what="images of x")


def test_negative_size_is_refused() -> None:
    with pytest.raises(InputError, match="search_size -1"):
        carve(LABELS, {"train": 90, "search": -1}, 0, stratified=False, what="images")


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.1, float("nan")])
def test_fraction_outside_its_range_is_refused(fraction: float) -> None:
    with pytest.raises(InputError, match="fraction"):
        part(LABELS, fraction)
