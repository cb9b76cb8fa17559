"""Augmentations against their definitions, by hand."""

import numpy as np
import pytest
import torch

from nastricks.data import transforms
from nastricks.errors import InputError
from nastricks.rng import generator

IMAGES = torch.randn(50, 3, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(50) % 10


def shift_by_hand(image: torch.Tensor, dy: int, dx: int) -> torch.Tensor:
    """out[y, x] = image[y + dy, x + dx], zero where that lies outside."""
    out = torch.zeros_like(image)
    side = image.shape[-1]
    for y in range(side):
        for x in range(side):
            if 0 <= y + dy < side and 0 <= x + dx < side:
                out[:, y, x] = image[:, y + dy, x + dx]
    return out


def test_crop_is_a_zero_filled_shift_of_each_sample_by_its_own_offset() -> None:
    out = transforms.random_crop(IMAGES, 2, generator("crop"))
    offsets = transforms.random_offsets(len(IMAGES), 2, generator("crop")) - 2
    for image, moved, (dy, dx) in zip(IMAGES, out, offsets.T.tolist(), strict=True):
        assert torch.equal(moved, shift_by_hand(image, dy, dx))
    many = transforms.random_offsets(25_000, 2, generator("many"))
    counts = (5 * many[0] + many[1]).bincount(minlength=25)
    assert len(counts) == 25
    assert float((counts - 1000).abs().max()) < 150  # every shift is equally likely


def test_crop_without_padding_is_the_identity() -> None:
    assert torch.equal(transforms.random_crop(IMAGES, 0, generator(0)), IMAGES)


def test_flip_mirrors_about_half_of_the_samples_and_leaves_the_rest() -> None:
    out = transforms.random_flip(IMAGES, generator("flip"))
    same = (out == IMAGES).flatten(1).all(1)
    mirrored = (out == IMAGES.flip(-1)).flatten(1).all(1)
    assert bool((same ^ mirrored).all())
    assert 10 < int(mirrored.sum()) < 40


@pytest.mark.parametrize("length", [1, 3, 4, 8])
def test_cutout_clears_one_clipped_square_a_sample(length: int) -> None:
    images = torch.ones(4000, 2, 8, 8)
    out = transforms.cutout(images, length, generator("cutout", length))
    assert torch.equal(images, torch.ones_like(images))
    assert torch.equal(out[:, 0], out[:, 1])
    hole = out[:, 0] == 0
    rows, columns = hole.any(2), hole.any(1)
    assert torch.equal(hole, rows[:, :, None] & columns[:, None, :])
    reached = {tuple(r) for r in rows.int().tolist()}
    expected = set()
    for centre in range(8):
        first = centre - length // 2
        expected.add(tuple(int(first <= i < first + length) for i in range(8)))
    assert reached == expected
    areas = torch.tensor([sum(e) for e in expected], dtype=torch.float64)
    assert len(expected) == 8 or length == 8
    if len(expected) == 8:  # every centre is equally likely, in both directions on its own
        assert float(hole.double().sum((1, 2)).mean()) == pytest.approx(float(areas.mean()) ** 2, rel=0.05)


@pytest.mark.parametrize("length", [0, -1, 9])
def test_cutout_that_does_not_fit_is_refused(length: int) -> None:
    with pytest.raises(InputError, match=f"cutout length {length} .*1 to 8"):
        transforms.cutout(IMAGES, length, generator(0))


def test_mixup_mixes_images_and_labels_by_the_same_weight_and_partner() -> None:
    images = torch.eye(10, dtype=torch.float64)[LABELS].view(50, 10, 1, 1)  # the image says its class
    mixed, targets = transforms.mixup(images, LABELS, 10, 1.0, generator("mixup"))
    assert torch.equal(mixed.view(50, 10), targets)
    assert torch.allclose(targets.sum(1), torch.ones(50, dtype=torch.float64))
    own = targets[torch.arange(50), LABELS]
    assert len(own[own < 1].unique()) == 1


def test_mixup_draws_its_weight_from_the_beta_distribution() -> None:
    from scipy import stats

    images, labels = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1), torch.tensor([0, 1])
    weights = []
    for i in range(1500):
        mixed = transforms.mixup(images, labels, 2, 0.4, generator("beta", i))[0].flatten()
        if mixed[0] != 0.0 or mixed[1] != 1.0:  # the permutation swapped them: the second is λ
            weights.append(float(mixed[1]))
    assert len(weights) > 500
    assert stats.kstest(np.array(weights), stats.beta(0.4, 0.4).cdf).pvalue > 1e-3


@pytest.mark.parametrize("alpha", [0.0, -0.5, float("nan")])
def test_mixup_refuses_an_alpha_that_is_not_positive(alpha: float) -> None:
    with pytest.raises(InputError, match="mixup alpha"):
        transforms.mixup(IMAGES, LABELS, 10, alpha, generator(0))


@pytest.mark.parametrize(
    "act",
    [
        lambda g: transforms.random_crop(IMAGES, 1, g),
        lambda g: transforms.random_flip(IMAGES, g),
        lambda g: transforms.cutout(IMAGES, 4, g),
        lambda g: transforms.mixup(IMAGES, LABELS, 10, 1.0, g)[0],
    ],
    ids=["crop", "flip", "cutout", "mixup"],
)
def test_same_key_same_result_other_key_other_result_and_input_untouched(act) -> None:  # type: ignore[no-untyped-def]
    before = IMAGES.clone()
    assert torch.equal(act(generator("a")), act(generator("a")))
    assert not torch.equal(act(generator("a")), act(generator("b")))
    assert torch.equal(IMAGES, before)
