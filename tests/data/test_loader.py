"""A Lightning trainer sees every epoch whole, and a resumed run sees what the straight run saw."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from nastricks.data import Batch, Digits, KeyedLoader

pytestmark = [
    # Lightning 2.6.6 asks torch's pytrees in a way that torch 2.15 deprecates.
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning"),
]


class Recorder(pl.LightningModule):
    """Learns a little, and writes down the images and labels it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(64, 10)
        self.seen: list[float] = []
        self.validated = 0

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        self.seen.append(float((batch.images.flatten().double() * torch.arange(batch.images.numel())).sum()))
        return torch.nn.functional.cross_entropy(self.layer(batch.images.flatten(1)), batch.labels)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.validated += len(batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Save(pl.Callback):
    """Saves after so many batches, or at the end of so many epochs, as ModelCheckpoint does, but has no state."""

    def __init__(self, path: Path, *, batches: int = 0, epochs: int = 0) -> None:
        self.path, self.batches, self.epochs = path, batches, epochs

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == self.batches:
            trainer.save_checkpoint(self.path)

    def on_train_epoch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.current_epoch + 1 == self.epochs:
            trainer.save_checkpoint(self.path)


def trainer(folder: Path, **settings: Any) -> pl.Trainer:
    return pl.Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        **{"max_epochs": 3, **settings},
    )


def fit(folder: Path, resume: Path | None = None, **settings: Any) -> Recorder:
    torch.manual_seed(0)
    model = Recorder()
    trainer(folder, **settings).fit(model, datamodule=Digits(train_size=300), ckpt_path=resume, weights_only=True)
    return model


def counting(length: int, position: int = 0) -> KeyedLoader:
    return KeyedLoader(lambda i: i, length, position)  # type: ignore[arg-type, return-value]


def test_exactly_len_batches_taken_leave_no_epoch_empty() -> None:
    loader = counting(3)
    epochs = [list(itertools.islice(iter(loader), len(loader))) for _ in range(4)]
    assert epochs == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]


def test_an_iterator_that_nobody_reads_takes_nothing() -> None:
    loader = counting(3)
    iter(loader)
    assert list(loader) == [0, 1, 2]


def test_an_epoch_left_early_is_followed_by_the_next_whole_one() -> None:
    loader = counting(3)
    next(iter(loader))
    assert list(loader) == [3, 4, 5]


@pytest.mark.parametrize("taken", range(1, 6))
def test_restored_state_continues_exactly(taken: int) -> None:
    straight, saved, resumed = counting(3), counting(3), counting(3)
    expected = [i for _ in range(3) for i in straight]
    source = itertools.chain.from_iterable(iter(saved) for _ in range(3))
    first = [next(source) for _ in range(taken)]
    resumed.load_state_dict(saved.state_dict())
    rest = [i for _ in range(3) for i in resumed]
    assert (first + rest)[: len(expected)] == expected  # type: ignore[operator]


def test_every_epoch_of_a_fit_is_whole_and_has_an_order_of_its_own(tmp_path: Path) -> None:
    model = fit(tmp_path)
    data = Digits(train_size=300)
    data.setup()
    assert len(model.seen) == len(set(model.seen)) == 3 * data.batches("train")
    assert model.validated == 300 * 3 + 300  # the sanity check sees the one validation batch too


@pytest.mark.parametrize(("steps", "limit"), [(3, {}), (5, {}), (7, {"limit_val_batches": 0}), (10, {})])
def test_resumed_in_the_middle_or_at_the_end_of_an_epoch_equals_the_straight_run(
    tmp_path: Path, steps: int, limit: dict[str, int]
) -> None:
    """An epoch has five batches: 3 and 7 lie in the middle of one, 5 and 10 at an end."""
    straight = fit(tmp_path, **limit)
    save = Save(tmp_path / "stop.ckpt", batches=steps)
    first = fit(tmp_path, max_steps=steps, callbacks=[save], **limit)
    second = fit(tmp_path, resume=tmp_path / "stop.ckpt", **limit)
    assert len(first.seen) == steps
    assert first.seen + second.seen == straight.seen
    assert torch.equal(second.layer.weight, straight.layer.weight)


def test_resumed_after_a_checkpoint_of_the_epochs_end_equals_the_straight_run(tmp_path: Path) -> None:
    straight = fit(tmp_path)
    save = Save(tmp_path / "end.ckpt", epochs=2)
    first = fit(tmp_path, max_epochs=2, callbacks=[save])
    second = fit(tmp_path, resume=tmp_path / "end.ckpt")
    assert first.seen + second.seen == straight.seen


@pytest.mark.parametrize("steps", [2, 3, 4])
def test_resuming_is_exact_where_lightning_takes_a_part_of_each_epoch(tmp_path: Path, steps: int) -> None:
    straight = fit(tmp_path, limit_train_batches=3)
    save = Save(tmp_path / "stop.ckpt", batches=steps)
    first = fit(tmp_path, limit_train_batches=3, max_steps=steps, callbacks=[save])
    second = fit(tmp_path, resume=tmp_path / "stop.ckpt", limit_train_batches=3)
    assert first.seen + second.seen == straight.seen


def test_an_empty_validation_split_is_no_validation(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Recorder()
    trainer(tmp_path, max_epochs=1).fit(model, datamodule=Digits(validation_size=0))
    assert (model.validated, len(model.seen)) == (0, 10)


def test_the_loader_of_each_rank_takes_its_own_slice() -> None:
    """Two ranks, played one after the other: Lightning's own sampler replacement never touches the loader."""
    data = Digits(crop_padding=0)
    data.setup()
    seen = []
    for rank in range(2):
        data.trainer = type("Trainer", (), {"global_rank": rank, "world_size": 2, "limit_train_batches": 1.0})()  # type: ignore[assignment]
        loader = data.train_dataloader()
        assert len(loader) == 5
        assert not isinstance(loader, torch.utils.data.DataLoader)
        seen += [tuple(i.flatten().tolist()) for batch in loader for i in batch.images]
    everything = [tuple(i.flatten().tolist()) for b in data.evaluation_batches("train") for i in b.images]
    assert sorted(seen) == sorted(everything)
