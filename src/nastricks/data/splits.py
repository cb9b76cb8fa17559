"""Which images belong to which split: explicit, seeded and disjoint."""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from nastricks.errors import InputError
from nastricks.rng import generator

Split = Literal["train", "search", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "search", "validation", "test")


def shuffled(labels: Tensor, stratified: bool, *key: object) -> Tensor:
    """A keyed order of the samples (N,); where `stratified`, every stretch of it holds the classes in proportion.

    Stratified, the k-th of a class's n samples stands at (k + 1/2)/n of the way, so that a stretch is at most one or
    two samples of a class away from its share.
    """
    order = torch.randperm(len(labels), generator=generator(*key))
    if not stratified:
        return order
    place = torch.empty(len(order), dtype=torch.float64)
    mixed = labels[order]
    for label in range(int(labels.max()) + 1):
        members = (mixed == label).nonzero().squeeze(1)
        place[members] = (torch.arange(len(members), dtype=torch.float64) + 0.5) / len(members)
    return order[place.argsort(stable=True)]


def carve(labels: Tensor, sizes: Mapping[Split, int], *key: object, stratified: bool, what: str) -> dict[Split, Tensor]:
    """Cut disjoint index sets of the given sizes out of the samples with `labels` (N,).

    Raises:
        InputError: a size is negative, or together they exceed N; `what` names the images in the sentence.
    """
    for split, size in sizes.items():
        if size < 0:
            raise InputError(f"{split}_size {size} is negative: choose 0 or more")
    if (total := sum(sizes.values())) > len(labels):
        asked = " + ".join(f"{split} {size}" for split, size in sizes.items() if size)
        raise InputError(f"{asked} = {total} images exceed the {len(labels)} {what}: ask for fewer")
    order = shuffled(labels, stratified, *key)
    return dict(zip(sizes, torch.split(order[:total], list(sizes.values())), strict=True))


def part(index: Tensor, fraction: float) -> Tensor:
    """The first `fraction` of a split, at least one image: a smaller fraction is contained in a larger one.

    Raises:
        InputError: `fraction` lies outside (0, 1].
    """
    if not 0 < fraction <= 1:
        raise InputError(f"fraction {fraction} lies outside (0, 1]: choose for instance 0.5 for half of the images")
    return index[: max(1, round(fraction * len(index)))]


def split_indices(
    labels: Tensor,
    training: int,
    sizes: Mapping[Split, int | None],
    fraction: float,
    *key: object,
    stratified: bool,
    name: str,
) -> dict[Split, Tensor]:
    """The indices of each split; official test images are the test split, otherwise it is cut out like the others.

    Args:
        labels: (N,) of all images.
        training: how many of them, from the first on, are to be cut up; the others are the official test images.
        sizes: of each split; None, for official test images, takes them all.
        fraction: the part of the train and search splits that is used, in (0, 1].
        key: of the draws.
        stratified: whether each split holds the classes in proportion.
        name: of the data set, for the refusals.

    Raises:
        InputError: a size exceeds what there is, or a value is out of its range.
    """
    official = labels[training:]
    cut = {s: n for s, n in sizes.items() if n is not None and (s != "test" or len(official) == 0)}
    index = carve(labels[:training], cut, *key, stratified=stratified, what=f"training images of {name}")
    if len(official):
        size = sizes["test"]
        test: dict[Split, int] = {"test": len(official) if size is None else size}
        what = f"test images of {name}"
        index["test"] = training + carve(official, test, *key, "test", stratified=stratified, what=what)["test"]
    for split in ("train", "search"):
        index[split] = part(index[split], fraction)
    return index
