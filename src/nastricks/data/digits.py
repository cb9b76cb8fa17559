"""The 8×8 digits of scikit-learn: nothing to download, and a child trains in a second."""

from pathlib import Path
from typing import ClassVar

import torch

from nastricks.data.batch import ImageSpec
from nastricks.data.module import Description, TensorDataModule
from nastricks.data.store import RawImages


class Digits(TensorDataModule):
    """1,797 grey 8×8 digits (the test set of UCI's optical digits, Alpaydin & Kaynak 1998).

    By default 600 images train, 300 search, 300 validate and the other 597 test; training images are shifted by up
    to one pixel and never mirrored. `root` is not used: the images come with scikit-learn.
    """

    name: str = "digits"
    description: ClassVar[Description] = Description(ImageSpec(1, 8, 10), (600, 300, 300, 597), 1, False)

    @staticmethod
    def load(root: Path) -> RawImages:
        """All images, stretched from 0 … 16 to 0 … 255 and rounded, so that they share the pipeline of the others."""
        from sklearn.datasets import load_digits  # a second of import that other data sets need not pay

        images, labels = load_digits(return_X_y=True)
        scaled = torch.from_numpy(images).mul(255 / 16).round().to(torch.uint8)
        return RawImages(scaled.view(-1, 1, 8, 8), torch.from_numpy(labels).long())
