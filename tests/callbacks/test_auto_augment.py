"""Learned augmentation: pixels in, pixels out, one draw a sample, keyed."""

from collections.abc import Callable

import pytest
import torch
from torchvision.transforms import v2

from nastricks.callbacks.auto_augment import AUGMENTATIONS, augment
from nastricks.run import Run

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
]

MEAN, DEVIATION = torch.tensor([[[120.0]], [[60.0]]]), torch.tensor([[[50.0]], [[70.0]]])


def images(n: int = 6) -> torch.Tensor:
    pixels = torch.randint(256, (n, 2, 8, 8), generator=torch.Generator().manual_seed(1)).float()
    return (pixels - MEAN) / DEVIATION


def test_the_identity_keeps_eight_bit_images() -> None:
    torch.testing.assert_close(augment(images(), MEAN, DEVIATION, v2.Identity()), images(), atol=1e-5, rtol=0)


def test_each_image_goes_through_the_transform_as_pixels() -> None:
    found = augment(images(), MEAN, DEVIATION, v2.RandomInvert(p=1.0))
    expected = (255 - (images() * DEVIATION + MEAN) - MEAN) / DEVIATION
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", AUGMENTATIONS)
def test_images_are_changed_apart_and_the_same_seed_changes_them_alike(kind: str) -> None:
    same = images(1)[:, :1].expand(16, 3, 8, 8)
    mean, deviation = MEAN[:1], DEVIATION[:1]
    torch.manual_seed(3)
    first = augment(same, mean, deviation, AUGMENTATIONS[kind]())
    torch.manual_seed(3)
    assert torch.equal(augment(same, mean, deviation, AUGMENTATIONS[kind]()), first)
    assert len({tuple(image.flatten().tolist()) for image in first}) > 4


def test_only_batches_that_train_the_weights_are_changed(make: Callable[..., Run]) -> None:
    run = make("darts", {"auto_augment": {"kind": "rand_augment"}})
    run.fit()
    (trick,) = run.tricks
    assert trick.acts == 8  # steps; the policy's batches are not counted
    moment = run.module.moment("policy")
    batch = run.data.batch("search", 0)
    assert trick.on_batch(batch, moment) is batch
    assert not torch.equal(trick.on_batch(batch, moment.at(role="weights")).images, batch.images)
