"""A training step behind a frozen prefix of half the network: from its stored outputs, against computing them."""

import torch

from benchmarks.darts_tricks import Steps
from benchmarks.measure import CPU, Result, alternate, compared, ratios
from benchmarks.training_step import image_arguments
from nastricks.recipe import resolve

SAME = 1e-4  # the largest relative difference between the weights of both sides that is rounding


def frozen_prefix(rounds: int = 12, batch_size: int = 16, train_size: int = 256) -> Result:
    """A child of `weight_sharing_64`, whose stem and first two cells of four are frozen: cached against uncached.

    The cache is filled before the first step is timed.

    Raises:
        RuntimeError: both sides, after as many steps, have different weights.
    """
    images, told = image_arguments(batch_size, train_size)
    files = ["spaces/weight_sharing_64.yaml", "data/cifar10.yaml", "child/weight_sharing_64.yaml"]
    fixed = ["--data.init_args.crop_padding", "0", "--data.init_args.flip", "false"]
    sides = []
    for cached in ("true", "false"):
        own = ["--tricks.freeze_prefix_cache.blocks", "2", "--tricks.freeze_prefix_cache.cache", cached]
        sides.append(Steps(resolve(files, [*CPU, *images, *fixed, *own])))
    times = alternate(sides[0].take, sides[1].take, rounds)
    one, other = (torch.cat([p.detach().flatten() for p in side.run.module.parameters()]) for side in sides)
    if sides[0].run.module.steps_seen == sides[1].run.module.steps_seen and (one - other).norm() > SAME * other.norm():
        raise RuntimeError("benchmark frozen_prefix: a step with the cache differs from one without")
    return Result.of("frozen_prefix", ratios(*times), 0.85, f"weight_sharing_64, {told}: a step {compared(*times)}")
