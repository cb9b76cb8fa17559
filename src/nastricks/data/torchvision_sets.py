"""MNIST, Fashion-MNIST, CIFAR-10 and CIFAR-100 as torchvision reads them, downloaded only where they are absent."""

import contextlib
import io
import shutil
import tempfile
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torchvision import datasets

from nastricks.data.batch import ImageSpec
from nastricks.data.module import Description, TensorDataModule
from nastricks.data.store import RawImages
from nastricks.errors import InputError


def _tensors(dataset: Any) -> tuple[Tensor, Tensor]:
    """Images as uint8 (N, C, H, W) and labels as int64 (N,) of one of torchvision's in-memory data sets."""
    images = torch.as_tensor(np.asarray(dataset.data))
    images = images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2)
    return images.contiguous(), torch.as_tensor(dataset.targets).long()


def read_or_download(dataset: Any, title: str, root: Path) -> RawImages:
    """Read torchvision's class `dataset` below `root`, after downloading it there where it is absent.

    A download goes to a folder beside its destination and moves there when it is whole, so that an interrupted one
    leaves nothing behind.

    Raises:
        InputError: the data set is absent and the download fails.
    """
    with contextlib.suppress(RuntimeError):  # what torchvision raises where files are absent or damaged
        return RawImages(*_tensors(dataset(root, train=True)), *_tensors(dataset(root, train=False)))
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root, prefix=".download-") as aside:
            with contextlib.redirect_stdout(io.StringIO()):
                raw = RawImages(
                    *_tensors(dataset(aside, train=True, download=True)), *_tensors(dataset(aside, train=False))
                )
            for entry in Path(aside).iterdir():
                if entry.is_dir():  # the archives are of no more use
                    shutil.copytree(entry, root / entry.name, dirs_exist_ok=True)
        return raw
    except (OSError, RuntimeError) as error:  # OSError includes URLError and time-outs
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        raise InputError(
            f"{title} is not in {root.resolve()} and could not be downloaded ({reason}): connect to the network, "
            f"or set root to the folder that holds it"
        ) from error


class MNIST(TensorDataModule):
    """70,000 grey 28×28 digits (LeCun et al. 1998).

    By default 30,000 of the official training images train, 25,000 search and 5,000 validate; the official test
    images test. Training images are neither shifted nor mirrored.
    """

    name: str = "mnist"
    description: ClassVar[Description] = Description(ImageSpec(1, 28, 10), (30_000, 25_000, 5_000, None), 0, False)

    @staticmethod
    def load(root: Path) -> RawImages:
        """Read ``root/MNIST``, downloaded where absent."""
        return read_or_download(datasets.MNIST, "MNIST", root)


class FashionMNIST(TensorDataModule):
    """70,000 grey 28×28 pictures of clothes (Xiao et al. 2017, arXiv:1708.07747), split as `MNIST`."""

    name: str = "fashion_mnist"
    description: ClassVar[Description] = MNIST.description

    @staticmethod
    def load(root: Path) -> RawImages:
        """Read ``root/FashionMNIST``, downloaded where absent."""
        return read_or_download(datasets.FashionMNIST, "Fashion-MNIST", root)


class CIFAR10(TensorDataModule):
    """60,000 colour 32×32 photographs of 10 classes (Krizhevsky 2009).

    By default 25,000 of the official training images train (half of them, as in DARTS), 20,000 search and 5,000
    validate; the official test images test. Training images are cropped after 4 pixels of padding, and mirrored.
    """

    name: str = "cifar10"
    description: ClassVar[Description] = Description(ImageSpec(3, 32, 10), (25_000, 20_000, 5_000, None), 4, True)

    @staticmethod
    def load(root: Path) -> RawImages:
        """Read ``root/cifar-10-batches-py``, downloaded where absent."""
        return read_or_download(datasets.CIFAR10, "CIFAR-10", root)


class CIFAR100(TensorDataModule):
    """60,000 colour 32×32 photographs of 100 classes (Krizhevsky 2009), split and augmented as `CIFAR10`."""

    name: str = "cifar100"
    description: ClassVar[Description] = Description(ImageSpec(3, 32, 100), (25_000, 20_000, 5_000, None), 4, True)

    @staticmethod
    def load(root: Path) -> RawImages:
        """Read ``root/cifar-100-python``, downloaded where absent."""
        return read_or_download(datasets.CIFAR100, "CIFAR-100", root)
