"""A frozen prefix: the first segments of a network stay as they are, and their outputs are computed once and stored.

For weights that an earlier run has trained (`model.weights`), or from some epoch on. A frozen prefix is a function of
the image alone: it runs in eval mode, without gradients, and a step with the cache equals one without it.
"""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils import _pytree

from nastricks.data.batch import Batch, ImageSpec
from nastricks.data.output_cache import OutputCache
from nastricks.errors import InputError
from nastricks.memory import free_memory
from nastricks.modules.trick import Change, Trick
from nastricks.moment import Moment
from nastricks.spaces import Gate, Gates, Network, Segment

if TYPE_CHECKING:
    from nastricks.modules import TrainingModule

PLACES = ("memory", "disk")
FLOAT = 4  # bytes


def prefix_length(network: Network, blocks: int) -> int:
    """How many segments the stem and the first `blocks` blocks are; a block is a segment that reads a choice.

    What stands between two blocks belongs to the earlier one, as in `PrefixSharing`.

    Raises:
        InputError: there are fewer blocks, or nothing would be left behind them.
    """
    count, passed = 0, 0
    for segment in network.segments.values():
        passed += bool(isinstance(segment, Segment) and segment.choices)
        count += passed <= blocks
    if blocks > passed:
        raise InputError(f"freeze_prefix_cache.blocks is {blocks} and the network has {passed} blocks: freeze fewer")
    return min(count, len(network.segments) - 1)  # the classifier trains


def prefix_outputs(network: Network, images: Tensor, gates: Gates, length: int) -> Any:
    """images (N, C, H, W) -> what the first `length` segments make of them, in eval mode and without gradients."""
    segments = list(network.segments.values())[:length]
    state: Any = images
    with torch.no_grad(), evaluated(segments):
        for segment in segments:
            state = segment(state, gates)
    return state


@contextmanager
def evaluated(segments: list[nn.Module]) -> Iterator[None]:
    """Eval mode inside the block; each module's own mode is put back."""
    modes = {module: module.training for segment in segments for module in segment.modules()}
    for segment in segments:
        segment.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


class FreezePrefixCache(Trick):
    """Freezes the stem and the first blocks, and starts every training pass from their stored outputs.

    Args:
        blocks: How many blocks, segments that read a choice, are frozen behind the stem, at least 0.
        from_epoch: The epoch, counted from 0, from which on they are frozen; before it they train.
        cache: Whether outputs are stored; false computes them in every step.
        where: ``memory`` (the device's) or ``disk``.
        folder: Where the file is on disk; None takes the system's folder for temporary files.

    Raises:
        InputError: a value outside its range, or a folder that is not read.
    """

    changes: ClassVar[Change] = "weights"

    def __init__(
        self,
        blocks: int = 0,
        from_epoch: int = 0,
        cache: bool = True,
        where: Literal["memory", "disk"] = "memory",
        folder: str | None = None,
    ) -> None:
        super().__init__()
        for name, value in {"blocks": blocks, "from_epoch": from_epoch}.items():
            if value < 0:
                raise InputError(f"freeze_prefix_cache.{name} is {value}: expected at least 0")
        if where not in PLACES:
            raise InputError(f"freeze_prefix_cache.where is {where!r}: expected memory or disk")
        if folder is not None and (where != "disk" or not cache):
            raise InputError(f"freeze_prefix_cache.folder is {folder}, and nothing is stored on disk: leave it out")
        if folder is not None and not Path(folder).is_dir():
            raise InputError(f"freeze_prefix_cache.folder is {folder}: expected a folder that exists")
        self.blocks, self.from_epoch, self.caches, self.where = blocks, from_epoch, cache, where
        self.folder = Path(tempfile.gettempdir() if folder is None else folder)
        self._module: TrainingModule | None = None
        self._length = 0
        self._cache: OutputCache | None = None
        self._stopped: list[nn.Parameter] = []

    def refusal(self, module: "TrainingModule") -> str | None:
        reason = super().refusal(module)
        if reason is not None:
            return reason
        try:
            length = prefix_length(_network(module), self.blocks)
        except InputError as error:
            return str(error)
        return self._refused_network(module, length) or self._refused_run(module, length)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if stage == "fit" and self.caches:  # a finished run can be ranked with less memory
            assert self._module is not None, "surgery came first"
            self._check_size(self._module)

    def _refused_network(self, module: "TrainingModule", length: int) -> str | None:
        network = _network(module)
        names = list(network.segments)[:length]
        sampled = [c for c in _choices(network, length) if len(module.policy.allowed[c]) > 1]
        if sampled:
            return (
                f"freeze_prefix_cache.blocks is {self.blocks}, and paths are sampled inside the prefix, at "
                f"{sampled[0]}: a stored output would be that of another path, so freeze fewer blocks, or allow one "
                "option there"
            )
        if _choices(network, length) and (module.policy.weighted or module.policy.mixed):
            return (
                f"freeze_prefix_cache.blocks is {self.blocks}, and {type(module.policy).__name__} weighs the options "
                "inside the prefix: freeze fewer blocks"
            )
        if network.auxiliary_reads in names:
            return f"the auxiliary head reads {network.auxiliary_reads}, inside the frozen prefix: freeze fewer blocks"
        for other in module.networks:
            if any(other.segments[name] is not network.segments[name] for name in names):  # type: ignore[index]
                return (
                    f"sharing {type(module.sharing).__name__} gives architectures prefixes of their own, and one is "
                    "stored: use ShareAll, or PrefixSharing with as many blocks"
                )
        return None

    def _refused_run(self, module: "TrainingModule", length: int) -> str | None:
        data = module.trainer.datamodule  # type: ignore[attr-defined]
        if data.crop_padding or data.flip:
            told = f"shifted by up to {data.crop_padding} pixels" if data.crop_padding else "mirrored"
            return (
                f"training images are {told} at random, so that outputs of the prefix differ from epoch to epoch: set "
                "data.crop_padding 0 and data.flip false, or leave freeze_prefix_cache out"
            )
        tricks = [t for t in module.trainer.callbacks if isinstance(t, Trick) and t is not self]  # type: ignore[attr-defined]
        changing = next((t.name for t in tricks if t.changes == "batch"), None)
        if changing is not None:
            return (
                f"tricks {self.name} and {changing}: the latter changes the images, and outputs of the prefix are "
                "stored for the images as they are, so leave one of them out"
            )
        gating = next((t.name for t in tricks if t.changes == "gates"), None)
        if gating is not None and _choices(_network(module), length):
            return (
                f"tricks {self.name} and {gating}: the latter changes gates, inside the frozen prefix too, so freeze "
                "fewer blocks, or leave one of them out"
            )
        epochs = module.trainer.max_epochs
        if epochs is not None and 0 < epochs <= self.from_epoch:
            return f"{self.name}.from_epoch is {self.from_epoch}, and there are {epochs} epochs: freeze earlier"
        return None

    def _check_size(self, module: "TrainingModule") -> None:
        images = len(module.trainer.datamodule.indices("train"))  # type: ignore[attr-defined]
        needed = images * bytes_an_image(module, module.spec, self._length)
        if self.where == "disk":
            free, what = shutil.disk_usage(self.folder).free, f"free on the disk of {self.folder}"
        else:
            free, what = free_memory(module.trainer.strategy.root_device), "of free memory"
        if needed > free:
            instead = "where disk" if self.where == "memory" else "a folder on a larger disk"
            raise InputError(
                f"{self.name} would store {needed / 2**20:,.1f} MiB for {images:,} images, and there are "
                f"{free / 2**20:,.1f} MiB {what}: freeze at a place with smaller outputs, or set {instead}"
            )

    def surgery(self, module: "TrainingModule") -> None:
        self._module, self._length = module, prefix_length(_network(module), self.blocks)

    def first_active_step(self, module: "TrainingModule") -> int:
        return self.from_epoch * module.steps_per_epoch

    def on_batch(self, batch: Batch, at: Moment) -> Batch:
        """A frozen prefix stands still, also where the policy learns."""
        if self._frozen(at):
            assert self._module is not None, "surgery came first"
            for segment in list(_network(self._module).segments.values())[: self._length]:
                if segment.training:
                    segment.eval()
                    self._stopped += [p for p in segment.parameters() if p.requires_grad]
                    segment.requires_grad_(False)  # for estimators that look a step of all weights ahead
        return batch

    def on_forward(self, batch: Batch, at: Moment) -> tuple[Any, int] | None:
        if not self._frozen(at):
            return None
        self.act()
        assert self._module is not None, "surgery came first"
        if not self.caches:
            return self._outputs(batch), self._length
        if self._cache is None:
            self._cache = self._filled()
        assert batch.indices is not None, "nothing changes the images"
        return self._cache.get(batch.indices), self._length

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._cache = None
        for parameter in self._stopped:
            parameter.requires_grad_(True)
        super().on_fit_end(trainer, pl_module)

    def _frozen(self, at: Moment) -> bool:
        return at.role == "weights" and at.step >= self.from_epoch * at.steps_per_epoch

    def _outputs(self, batch: Batch) -> Any:
        module = self._module
        assert module is not None
        images = batch.images.to(module.dtype, memory_format=torch.channels_last)
        return prefix_outputs(_network(module), images, _fixed_gates(module, self._length), self._length)

    def _filled(self) -> OutputCache:
        """The outputs for all training images."""
        assert self._module is not None
        data = self._module.trainer.datamodule  # type: ignore[attr-defined]
        cache = OutputCache(data.indices("train"), self.folder if self.where == "disk" else None)
        for number in range(data.batches("train")):  # an epoch: every image once
            batch = data.batch("train", number)
            cache.put(batch.indices, self._outputs(batch))
        return cache


def bytes_an_image(module: "TrainingModule", spec: ImageSpec, length: int) -> int:
    """How many bytes the outputs of the first segments take for one image, in single precision."""
    with torch.device("meta"):
        network = module.space.build(spec, _network(module).allowed).eval()
        image = torch.empty(1, spec.channels, spec.size, spec.size)
    leaves, _ = _pytree.tree_flatten(prefix_outputs(network, image, _fixed_gates(module, length), length))
    return FLOAT * sum(leaf.numel() for leaf in leaves)


def _network(module: "TrainingModule") -> Network:
    network = module.networks[0]
    assert isinstance(network, Network)
    return network


def _choices(network: Network, length: int) -> list[str]:
    """The choices that the first segments read."""
    segments = list(network.segments.values())[:length]
    return list(dict.fromkeys(name for segment in segments if isinstance(segment, Segment) for name in segment.choices))


def _fixed_gates(module: "TrainingModule", length: int) -> Gates:
    """The gates of the choices inside the prefix, of which each has one option."""
    return {name: Gate(active=module.policy.allowed[name]) for name in _choices(_network(module), length)}
