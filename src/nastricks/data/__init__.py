"""Data sets in memory as tensors: batches, splits, augmentations and the Lightning data modules."""

from nastricks.data.batch import Batch, ImageSpec
from nastricks.data.digits import Digits
from nastricks.data.loader import EvaluationLoader, KeyedLoader
from nastricks.data.module import Description, TensorDataModule
from nastricks.data.splits import SPLITS, Split
from nastricks.data.store import RawImages
from nastricks.data.torchvision_sets import CIFAR10, CIFAR100, MNIST, FashionMNIST

__all__ = [
    "Batch",
    "CIFAR10",
    "CIFAR100",
    "Description",
    "Digits",
    "EvaluationLoader",
    "FashionMNIST",
    "ImageSpec",
    "KeyedLoader",
    "MNIST",
    "RawImages",
    "SPLITS",
    "Split",
    "TensorDataModule",
]
