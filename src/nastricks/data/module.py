"""Lightning data modules whose images live in memory as tensors, and whose batches are pure functions of a key."""

from abc import abstractmethod
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytorch_lightning as pl
import torch
from torch import Tensor

from nastricks.data.batch import Batch, ImageSpec
from nastricks.data.loader import EvaluationLoader, KeyedLoader
from nastricks.data.splits import SPLITS, Split, split_indices
from nastricks.data.store import RAW, STORES, ImageStore, JoinedImages, RawImages, cached
from nastricks.errors import InputError, unknown
from nastricks.rng import generator


@dataclass(frozen=True)
class Description:
    """What is known of a data set without reading it: its shape, and the sizes and augmentation it gets by default.

    `sizes` are those of the train, search and validation splits, and of the test split where the data set has no
    official one (None: all official test images).
    """

    spec: ImageSpec
    sizes: tuple[int, int, int, int | None]
    crop_padding: int
    flip: bool


def _side(resolution: int | float | None, native: int) -> int:
    """The side in pixels that a `resolution` asks for."""
    if resolution is None:
        return native
    if 0 < resolution < 1:
        return max(1, round(native * resolution))
    if resolution != int(resolution):
        raise InputError(f"resolution {resolution} is no number of pixels: choose a whole one, or a part below 1")
    return int(resolution)


class TensorDataModule(pl.LightningDataModule):
    """A classification data set of square images in memory, split into train, search, validation and test.

    A batch is a pure function of (seed, split, batch counter), so resuming is exact, a second pass sees the same
    sample, and no ``DataLoader`` and no worker is needed. The splits depend on `split_seed` alone: trials with
    different `seed` share them. Images are normalised by the mean and deviation of the train split (`mean`,
    `deviation`: tensors (C, 1, 1) on the scale 0 to 255, set by `setup`).
    Subclasses set `name` and `description` and implement `load`.
    """

    name: str
    description: ClassVar[Description]

    def __init__(
        self,
        root: str = "data",
        batch_size: int = 64,
        eval_batch_size: int = 512,
        train_size: int | None = None,
        search_size: int | None = None,
        validation_size: int | None = None,
        test_size: int | None = None,
        stratified: bool = False,
        fraction: float = 1.0,
        resolution: int | float | None = None,
        crop_padding: int | None = None,
        flip: bool | None = None,
        seed: int = 0,
        split_seed: int = 0,
        batches_seed: int | None = None,
    ) -> None:
        """Say what to read and how to cut it; nothing is read before `setup`.

        Args:
            root: the folder that holds the data set, or that it is downloaded to.
            batch_size: images of a training batch on each device, at least 1.
            eval_batch_size: images of an evaluation batch, at least 1.
            train_size: images that train the weights, at least 1; None takes the data set's default, here and below.
            search_size: images that train the policy.
            validation_size: images that children are ranked by.
            test_size: images for the last word.
            stratified: whether each split holds the classes in proportion.
            fraction: the part of the train and search splits that is used, in (0, 1]; a smaller one is contained in
                a larger one, and the other splits stay as they are.
            resolution: the side in pixels that images are resized to, or below 1 a part of the native side (0.5: half
                of it, rounded); None keeps the native one.
            crop_padding: training images are shifted by up to this many pixels, 0 for none.
            flip: whether training images are mirrored at random.
            seed: keys the order of the batches and the augmentation.
            split_seed: keys which image is in which split.
            batches_seed: keys the order and the augmentation in place of `seed`; None takes `seed`.

        Raises:
            InputError: a value is out of its range.
        """
        super().__init__()
        default = self.description
        sizes = (train_size, search_size, validation_size, test_size)
        self.root = root
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.sizes = {s: d if n is None else n for s, n, d in zip(SPLITS, sizes, default.sizes, strict=True)}
        self.stratified = stratified
        self.fraction = fraction
        self.crop_padding = default.crop_padding if crop_padding is None else crop_padding
        self.flip = default.flip if flip is None else flip
        self.seed = seed if batches_seed is None else batches_seed
        self.split_seed = split_seed
        self._spec = ImageSpec(default.spec.channels, _side(resolution, default.spec.size), default.spec.classes)
        self._check()
        self._store: ImageStore | None = None
        self._orders: dict[Split, tuple[int, Tensor]] = {}
        self._position = 0
        self._loader: KeyedLoader | None = None

    @staticmethod
    @abstractmethod
    def load(root: Path) -> RawImages:
        """Read the data set below `root`, after downloading it where it is absent.

        Raises:
            InputError: it is absent and cannot be downloaded.
        """

    def _check(self) -> None:
        for field, least in {"batch_size": 1, "eval_batch_size": 1, "crop_padding": 0}.items():
            if (value := getattr(self, field)) < least:
                raise InputError(f"{field} {value} is too small: choose {least} or more")
        if self.spec.size < 1:
            raise InputError(f"resolution {self.spec.size} is too small: choose 1 pixel or more")
        if self.sizes["train"] == 0:
            raise InputError("train_size 0 leaves nothing to train on: choose 1 or more")
        for split, size in self.sizes.items():
            if size is not None and size < 0:
                raise InputError(f"{split}_size {size} is negative: choose 0 or more")
        if not 0 < self.fraction <= 1:
            raise InputError(f"fraction {self.fraction} lies outside (0, 1]: choose for instance 0.5")

    @property
    def spec(self) -> ImageSpec:
        """What a network needs to know; known before anything is read."""
        return self._spec

    @property
    def mean(self) -> Tensor:
        """Mean of the train split, (C, 1, 1), on the scale 0 to 255."""
        return self._ready().mean

    @property
    def deviation(self) -> Tensor:
        """Standard deviation of the train split, (C, 1, 1), on the scale 0 to 255."""
        return self._ready().deviation

    def indices(self, split: Split) -> Tensor:
        """Which images the split holds, (n,) int64; official test images are counted after all training images."""
        if split not in SPLITS:
            raise unknown("split", split, SPLITS)
        return self._ready().index[split]

    def prepare_data(self) -> None:
        """Download where needed: Lightning calls this in one process a machine only."""
        self._raw()

    def setup(self, stage: str | None = None) -> None:
        """Read, split and normalise, once a process and setting; move to the trainer's device if there is a trainer.

        An empty validation split turns validation within `fit` off.
        """
        device = torch.device("cpu") if self.trainer is None else self.trainer.strategy.root_device
        if self._store is None or self.trainer is not None:
            self.to(device)
        if stage == "fit" and self.trainer is not None and len(self.indices("validation")) == 0:
            self.trainer.limit_val_batches = 0  # Lightning warns at a loader without batches

    def to(self, device: torch.device | str) -> None:
        """Hold all images on `device` from now on; they are copied once a process."""
        device = torch.device(device)
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", torch.cuda.current_device())
        if self._store is not None and self._store.device == device:
            return
        cut = (*self.sizes.values(), self.stratified, self.fraction, self.split_seed)
        key = (self._source(), cut, self.spec.size, self.crop_padding)
        store = cached(STORES, (key, "cpu"), self._build)
        self._store = cached(STORES, (key, str(device)), lambda: store.to(device))
        self._orders.clear()

    def _source(self) -> Hashable:
        return type(self), str(Path(self.root).resolve())

    def _raw(self) -> JoinedImages:
        return cached(RAW, self._source(), lambda: JoinedImages.of(self.load(Path(self.root))))

    def _build(self) -> ImageStore:
        images, labels, training = self._raw()
        key = ("split", self.name, self.split_seed)
        index = split_indices(
            labels, training, self.sizes, self.fraction, *key, stratified=self.stratified, name=self.name
        )
        return ImageStore.build(images, labels, index, self.spec.size, self.crop_padding)

    def _ready(self) -> ImageStore:
        if self._store is None:
            raise RuntimeError(f"{type(self).__name__} has read no data yet: call setup() first")
        return self._store

    def _members(self, split: Split) -> Tensor:
        index = self.indices(split)
        if len(index) == 0:
            raise InputError(f"the {split} split of {self.name} is empty: set {split}_size above 0")
        return index

    def batches(self, split: Split, world: int = 1) -> int:
        """How many batches an epoch of the split has over `world` ranks; a short last batch is kept."""
        return -(-len(self._members(split)) // (self.batch_size * world))

    def batch(self, split: Split, index: int, *, rank: int = 0, world: int = 1) -> Batch:
        """Batch number `index` since the start: a pure function of (seed, split, index, rank, world).

        The epoch is ``index // batches(split, world)`` and has an order of its own. Images of the train and search
        splits are augmented; those of validation and test come in a fixed order, as they are. Each of `world` ranks
        gets `batch_size` images of its own; the ranks divide a short last batch, and share an image only where it
        has fewer images than there are ranks, since no rank may go without.
        """
        store = self._ready()
        epoch, step = divmod(index, self.batches(split, world))
        order = self._order(split, epoch)
        start = step * self.batch_size * world
        count = min(self.batch_size * world, len(order) - start)
        if count < world:
            low, high = rank % count, rank % count + 1
        else:
            low, high = rank * count // world, (rank + 1) * count // world
        chosen = order[start + low : start + high]
        if split in ("train", "search") and (self.crop_padding or self.flip):
            keyed = generator(self.seed, "augment", split, index, rank)
            images = store.read_augmented(chosen, self.flip, keyed)
        else:
            images = store.read(chosen)
        return Batch(images, store.labels[chosen], indices=chosen)

    def _order(self, split: Split, epoch: int) -> Tensor:
        """The images of an epoch in their order, (n,); kept while the epoch lasts."""
        if (kept := self._orders.get(split)) is not None and kept[0] == epoch:
            return kept[1]
        order = self._members(split)
        if split in ("train", "search"):
            shuffle = torch.randperm(len(order), generator=generator(self.seed, "order", split, epoch))
            order = order[shuffle.to(order.device)]
        self._orders[split] = (epoch, order)
        return order

    def evaluation_batches(self, split: Split, limit: int | None = None) -> list[Batch]:
        """The split in a fixed order without augmentation, in batches of `eval_batch_size`; at most `limit` of them."""
        store = self._ready()
        if limit is not None and limit < 1:
            raise InputError(f"limit {limit} leaves nothing to evaluate: choose 1 batch or more, or none for all")
        pieces = torch.split(self._members(split), self.eval_batch_size)[:limit]
        return [Batch(store.read(i), store.labels[i]) for i in pieces]

    def calibration_batches(self, count: int) -> list[Batch]:
        """The first `count` training batches as training sees them, augmentation included, for BN statistics.

        With un-augmented images the statistics fit what is scored, but not what the weights were trained on: the
        ranking gets worse (docs/tricks/bn_calibration.md).
        """
        if count < 1:
            raise InputError(f"{count} calibration batches are nothing: choose 1 or more")
        return [self.batch("train", index) for index in range(count)]

    def train_dataloader(self) -> KeyedLoader:
        """The train split, this rank's share, from where a restored checkpoint stood."""
        trainer = self.trainer
        rank, world = (0, 1) if trainer is None else (trainer.global_rank, trainer.world_size)
        length = self.batches("train", world)
        # Lightning's option is a number of batches or, as a float, a part of the epoch.
        limit = 1.0 if trainer is None else trainer.limit_train_batches
        taken = int(limit * length) if isinstance(limit, float) else limit

        def batch(index: int) -> Batch:
            return self.batch("train", index, rank=rank, world=world)

        self._loader = KeyedLoader(batch, length, self._position, taken)
        self._position = 0
        return self._loader

    def val_dataloader(self) -> EvaluationLoader:
        """The whole validation split, on every rank."""
        return EvaluationLoader(self.evaluation_batches("validation"))

    def test_dataloader(self) -> EvaluationLoader:
        """The whole test split, on every rank."""
        return EvaluationLoader(self.evaluation_batches("test"))

    # Lightning restores a loader's own state in mid-epoch only; after an epoch's end it would start at epoch 0 again.
    def state_dict(self) -> dict[str, Any]:
        """How many training batches were handed out."""
        return {"position": self._position if self._loader is None else self._loader.position}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Let the next `train_dataloader` start at the epoch that follows."""
        self._position = state_dict["position"]
