"""Batches are pure functions of their key; splits are shared by replicas; bad settings get one sentence."""

from pathlib import Path
from typing import Any

import pytest
import torch

from nastricks.data import SPLITS, Batch, Description, Digits, ImageSpec, RawImages, TensorDataModule
from nastricks.data import store as store_module
from nastricks.data.transforms import random_crop
from nastricks.errors import InputError
from nastricks.rng import generator


class Photographs(TensorDataModule):
    """A stand-in for a data set with official test images: each image's first pixel says which image it is."""

    name = "photographs"
    description = Description(ImageSpec(3, 8, 4), (100, 60, 40, None), 2, True)
    loads = 0

    @staticmethod
    def load(root: Path) -> RawImages:
        Photographs.loads += 1
        draw = torch.Generator().manual_seed(0)
        images = torch.randint(256, (260, 3, 8, 8), generator=draw, dtype=torch.uint8)
        labels = torch.randint(4, (260,), generator=draw)
        return RawImages(images[:200], labels[:200], images[200:], labels[200:])


def digits(**settings: Any) -> Digits:
    data = Digits(**settings)
    data.setup()
    return data


def photographs(**settings: Any) -> Photographs:
    data = Photographs(**settings)
    data.setup()
    return data


def equal(a: Batch, b: Batch) -> bool:
    return torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels)


def rows(images: torch.Tensor) -> set[tuple[float, ...]]:
    return {tuple(i.flatten().tolist()) for i in images}


def test_spec_is_known_before_anything_is_read() -> None:
    assert Digits(root="/nowhere").spec == ImageSpec(1, 8, 10)
    assert Digits(resolution=12).spec == ImageSpec(1, 12, 10)
    assert Digits(resolution=0.5).spec == ImageSpec(1, 4, 10)
    assert Digits(resolution=0.01).spec == ImageSpec(1, 1, 10)


def test_defaults_cut_the_digits_into_four_disjoint_splits_that_hold_them_all() -> None:
    data = digits()
    index = [data.indices(split) for split in SPLITS]
    assert [len(i) for i in index] == [600, 300, 300, 597]
    assert torch.cat(index).sort().values.tolist() == list(range(1797))


def test_official_test_images_are_the_test_split_and_training_images_never_are() -> None:
    data = photographs()
    assert data.indices("test").sort().values.tolist() == list(range(200, 260))
    others = torch.cat([data.indices(s) for s in ("train", "search", "validation")])
    assert others.sort().values.tolist() == list(range(200))
    assert len(photographs(test_size=7).indices("test")) == 7


def test_seeds_share_the_split_but_not_the_order() -> None:
    a, b, other = digits(seed=1), digits(seed=2), digits(split_seed=1)
    assert all(torch.equal(a.indices(s), b.indices(s)) for s in SPLITS)
    assert not equal(a.batch("train", 0), b.batch("train", 0))
    assert not torch.equal(a.indices("train"), other.indices("train"))


def test_a_batch_is_a_pure_function_of_its_key() -> None:
    data, again = digits(seed=3), digits(seed=3)
    forward = [data.batch("train", i) for i in range(25)]
    for i in (24, 3, 11, 0):  # in another order, and with draws of others in between
        torch.rand(5)
        again.batch("search", i)
        assert equal(again.batch("train", i), forward[i])
    assert not equal(forward[0], forward[10])


def test_an_epoch_holds_every_image_once_and_keeps_its_short_last_batch() -> None:
    data = digits(crop_padding=0)
    assert data.batches("train") == 10
    everything = rows(torch.cat([b.images for b in data.evaluation_batches("train")]))
    for epoch in range(2):
        batches = [data.batch("train", 10 * epoch + i) for i in range(10)]
        assert [len(b) for b in batches] == [64] * 9 + [24]
        assert rows(torch.cat([b.images for b in batches])) == everything


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_take_disjoint_slices_whose_union_is_the_epoch(world: int) -> None:
    data = digits(crop_padding=0)
    seen: list[tuple[float, ...]] = []
    for index in range(data.batches("train", world)):
        for rank in range(world):
            batch = data.batch("train", index, rank=rank, world=world)
            assert 1 <= len(batch) <= 64
            seen += [tuple(i.flatten().tolist()) for i in batch.images]
    everything = [tuple(i.flatten().tolist()) for b in data.evaluation_batches("train") for i in b.images]
    assert sorted(seen) == sorted(everything)


def test_no_rank_goes_without_where_the_last_batch_is_shorter_than_the_world() -> None:
    data = digits(train_size=66, batch_size=16, crop_padding=0)
    last = [data.batch("train", 1, rank=r, world=4) for r in range(4)]
    assert [len(b) for b in last] == [1, 1, 1, 1]
    assert len(rows(torch.cat([b.images for b in last]))) == 2


def test_train_and_search_are_augmented_by_the_keyed_crop_and_flip_and_evaluation_is_not() -> None:
    plain, moved = photographs(crop_padding=0, flip=False, seed=5), photographs(flip=False, seed=5)
    for split in ("train", "search"):
        images = plain.batch(split, 1).images
        expected = random_crop(images, 2, generator(5, "augment", split, 1, 0))
        assert torch.equal(moved.batch(split, 1).images, expected)
        flipped = photographs(seed=5).batch(split, 1).images
        same = (flipped == expected).flatten(1).all(1) | (flipped == expected.flip(-1)).flatten(1).all(1)
        assert bool(same.all())
        assert not torch.equal(flipped, expected)
    assert torch.equal(plain.batch("validation", 0).images, moved.batch("validation", 0).images)
    assert torch.equal(plain.evaluation_batches("train")[0].images, moved.evaluation_batches("train")[0].images)


@pytest.mark.parametrize("settings", [{}, {"crop_padding": 0}, {"resolution": 11}])
def test_images_kept_as_bytes_give_the_same_batches(monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]) -> None:
    few = photographs(split_seed=9, **settings)
    monkeypatch.setattr(store_module, "FLOAT_BYTES", 0)
    many = photographs(split_seed=9, root="elsewhere", **settings)
    assert many._ready().images.dtype == torch.uint8
    assert few._ready().images.dtype == torch.float32
    assert all(equal(few.batch("train", i), many.batch("train", i)) for i in range(3))
    assert equal(few.evaluation_batches("test")[0], many.evaluation_batches("test")[0])
    assert equal(few.calibration_batches(1)[0], many.calibration_batches(1)[0])


def test_normalisation_is_that_of_the_train_split() -> None:
    data = photographs()
    images = torch.cat([b.images for b in data.evaluation_batches("train")]).double()
    assert images.mean((0, 2, 3)).abs().max() < 1e-6
    assert (images.std((0, 2, 3), correction=0) - 1).abs().max() < 1e-6
    raw = Photographs.load(Path()).images[data.indices("train")].double()
    assert torch.allclose(data.mean.flatten().double(), raw.mean((0, 2, 3)))
    assert torch.allclose(data.deviation.flatten().double(), raw.std((0, 2, 3), correction=0))


def test_evaluation_has_a_fixed_order_and_the_limit_counts_batches() -> None:
    data = digits(eval_batch_size=128)
    batches = data.evaluation_batches("validation")
    assert [len(b) for b in batches] == [128, 128, 44]
    assert len(data.evaluation_batches("validation", limit=2)) == 2
    again = digits(eval_batch_size=128, seed=8).evaluation_batches("validation")
    assert all(equal(a, b) for a, b in zip(batches, again, strict=True))
    assert rows(batches[0].images).isdisjoint(rows(batches[1].images))


def test_calibration_batches_are_the_first_training_batches() -> None:
    data = digits(seed=2)
    data.batch("train", 17)
    batches = data.calibration_batches(12)
    assert [len(b) for b in batches] == [64] * 9 + [24, 64, 64]
    assert all(equal(batch, data.batch("train", i)) for i, batch in enumerate(batches))
    with pytest.raises(InputError, match="0 calibration batches"):
        data.calibration_batches(0)


def test_fraction_shrinks_train_and_search_alone_and_is_nested() -> None:
    whole, tenth = digits(), digits(fraction=0.1)
    assert [len(tenth.indices(s)) for s in SPLITS] == [60, 30, 300, 597]
    assert set(tenth.indices("train").tolist()) < set(whole.indices("train").tolist())
    assert torch.equal(tenth.indices("validation"), whole.indices("validation"))


def test_resolution_resizes_the_images() -> None:
    data = digits(resolution=4)
    assert data.batch("train", 0).images.shape == (64, 1, 4, 4)
    assert data.evaluation_batches("test")[0].images.shape == (512, 1, 4, 4)


def test_a_process_reads_and_prepares_the_same_data_once(tmp_path: Path) -> None:
    before = Photographs.loads
    first, second = (photographs(root=str(tmp_path), seed=s) for s in (1, 2))
    assert Photographs.loads == before + 1
    assert first._ready() is second._ready()
    photographs(root=str(tmp_path), split_seed=77)
    assert Photographs.loads == before + 1


def test_chunks_cut_a_batch_without_loss() -> None:
    batch = digits().batch("train", 9)
    batch.targets = torch.nn.functional.one_hot(batch.labels, 10).float()
    parts = batch.chunks(5)
    assert sum(map(len, parts)) == len(batch) == 24
    assert torch.equal(torch.cat([p.images for p in parts]), batch.images)
    assert torch.equal(torch.cat([p.targets for p in parts if p.targets is not None]), batch.targets)
    assert batch.chunks(1) == [batch]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"batch_size": 0}, "batch_size 0 is too small"),
        ({"eval_batch_size": 0}, "eval_batch_size 0 is too small"),
        ({"crop_padding": -1}, "crop_padding -1 is too small"),
        ({"resolution": 0}, "resolution 0 is too small"),
        ({"resolution": 4.5}, "resolution 4.5 is no number of pixels"),
        ({"train_size": 0}, "train_size 0 leaves nothing"),
        ({"search_size": -3}, "search_size -3 is negative"),
        ({"fraction": 0.0}, "fraction 0.0 lies outside"),
        ({"fraction": 1.5}, "fraction 1.5 lies outside"),
        ({"train_size": 1000}, "= 2197 images exceed the 1797 training images of digits"),
    ],
)
def test_settings_that_cannot_work_get_one_sentence(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError) as refusal:
        digits(**settings)
    assert sentence in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_an_empty_split_is_refused_where_it_is_used() -> None:
    data = digits(search_size=0)
    with pytest.raises(InputError, match="search split of digits is empty: set search_size"):
        data.batch("search", 0)
    with pytest.raises(InputError, match="unknown split 'valid': did you mean 'validation'"):
        data.evaluation_batches("valid")  # type: ignore[arg-type]
