"""Mixup by hand, from the same keyed draws."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from nastricks.callbacks.mixup import Mixup
from nastricks.data.batch import Batch
from nastricks.errors import InputError
from nastricks.moment import Moment

CLASSES = 4


def batch(n: int = 8) -> Batch:
    rng = torch.Generator().manual_seed(0)
    return Batch(torch.randn(n, 1, 3, 3, generator=rng), torch.randint(CLASSES, (n,), generator=rng))


def mixed(alpha: float, step: int, n: int = 8) -> Batch:
    trick = Mixup(alpha=alpha)
    trick._classes = CLASSES
    return trick.on_batch(batch(n), Moment(role="weights", seed=3, step=step))


@pytest.mark.parametrize("alpha", [0.2, 1.0])
@pytest.mark.parametrize("step", [0, 5])
def test_equals_the_mix_by_hand(alpha: float, step: int) -> None:
    plain, found = batch(), mixed(alpha, step)
    rng = Moment(role="weights", seed=3, step=step).generator("mixup", per_sample=True)
    share = np.random.default_rng(int(torch.randint(2**62, (1,), generator=rng))).beta(alpha, alpha)
    partners = torch.randperm(8, generator=rng).tolist()
    assert found.targets is not None
    for i, j in enumerate(partners):
        pixels = share * plain.images[i] + (1 - share) * plain.images[j]
        torch.testing.assert_close(found.images[i], pixels)
        target = [0.0] * CLASSES
        target[int(plain.labels[i])] += share
        target[int(plain.labels[j])] += 1 - share
        torch.testing.assert_close(found.targets[i], torch.tensor(target))


def test_labels_stay_hard_and_targets_sum_to_one() -> None:
    found = mixed(1.0, 0)
    assert found.targets is not None
    assert torch.equal(found.labels, batch().labels)
    torch.testing.assert_close(found.targets.sum(1), torch.ones(8))


def test_the_loss_is_the_mix_of_both_losses() -> None:
    found, plain = mixed(1.0, 0), batch()
    rng = Moment(role="weights", seed=3, step=0).generator("mixup", per_sample=True)
    share = np.random.default_rng(int(torch.randint(2**62, (1,), generator=rng))).beta(1.0, 1.0)
    partner = plain.labels[torch.randperm(8, generator=rng)]
    logits = torch.randn(8, CLASSES, generator=torch.Generator().manual_seed(2))
    expected = share * F.cross_entropy(logits, plain.labels) + (1 - share) * F.cross_entropy(logits, partner)
    torch.testing.assert_close(F.cross_entropy(logits, found.targets), expected)


def test_weights_follow_beta() -> None:
    """The mean of lambda (1 - lambda) is alpha / (2 (2 alpha + 1)): seen in the targets' squares."""
    alpha, shares = 0.5, []
    for step in range(400):
        targets = mixed(alpha, step, n=16).targets
        assert targets is not None
        mixed_rows = targets[(targets > 0).sum(1) == 2]
        if len(mixed_rows):
            shares.append(float(mixed_rows[0].prod() if CLASSES == 2 else mixed_rows[0][mixed_rows[0] > 0].prod()))
    error = np.std(shares) / len(shares) ** 0.5
    assert abs(np.mean(shares) - alpha / (2 * (2 * alpha + 1))) < 3 * error


def test_batches_that_teach_the_policy_are_left_alone() -> None:
    trick, plain = Mixup(), batch()
    assert trick.on_batch(plain, Moment(role="policy", seed=3)) is plain
    assert trick.acts == 0


@pytest.mark.parametrize("alpha", [0.0, -1.0])
def test_alpha_not_above_zero_is_refused(alpha: float) -> None:
    with pytest.raises(InputError, match=rf"mixup.alpha is {alpha}: expected a number above 0"):
        Mixup(alpha=alpha)
