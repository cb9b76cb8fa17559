"""torchvision's data sets: read where they lie, one sentence where they are absent and the network is too."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch

from nastricks.data import CIFAR10, CIFAR100, MNIST, SPLITS, FashionMNIST, ImageSpec, TensorDataModule
from nastricks.data.torchvision_sets import read_or_download
from nastricks.errors import InputError

DATA = os.environ.get("NASTRICKS_DATA")


@pytest.mark.parametrize(
    ("module", "title"),
    [(MNIST, "MNIST"), (FashionMNIST, "Fashion-MNIST"), (CIFAR10, "CIFAR-10"), (CIFAR100, "CIFAR-100")],
)
@pytest.mark.parametrize("error", [URLError("no route to host"), TimeoutError(), RuntimeError("File not found")])
def test_absent_and_offline_is_one_sentence_and_leaves_nothing_behind(
    module: type[TensorDataModule], title: str, error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(url: str, download_root: str, *args: Any, **kwargs: Any) -> None:
        Path(download_root).mkdir(parents=True, exist_ok=True)
        (Path(download_root) / "half.tar.gz").write_bytes(b"half")
        raise error

    for place in ("cifar", "mnist"):
        monkeypatch.setattr(f"torchvision.datasets.{place}.download_and_extract_archive", offline)
    root = tmp_path / "data"
    with pytest.raises(InputError) as refusal:
        module(root=str(root)).setup()
    sentence = str(refusal.value)
    assert sentence.startswith(f"{title} is not in {root}")
    assert "set root to the folder" in sentence
    assert "\n" not in sentence
    assert list(root.iterdir()) == []


def test_a_download_arrives_whole_and_is_read_from_then_on(tmp_path: Path) -> None:
    downloads = []

    def small(root: str | Path, train: bool, download: bool = False) -> SimpleNamespace:
        folder = Path(root) / "small"
        if download:
            downloads.append(root)
            folder.mkdir()
            np.save(folder / "images.npy", np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3))
            (Path(root) / "small.tar.gz").write_bytes(b"")
        if not folder.exists():
            raise RuntimeError("Dataset not found")
        return SimpleNamespace(data=np.load(folder / "images.npy"), targets=[0, 1])

    raw = read_or_download(small, "Small", tmp_path / "data")
    again = read_or_download(small, "Small", tmp_path / "data")
    assert len(downloads) == 1
    assert [p.name for p in (tmp_path / "data").iterdir()] == ["small"]
    assert raw.images.shape == (2, 3, 4, 4)
    assert raw.images[0, :, 0, 0].tolist() == [0, 1, 2]
    assert torch.equal(raw.images, again.images)
    assert raw.labels.tolist() == [0, 1]


@pytest.mark.skipif(DATA is None, reason="NASTRICKS_DATA is not set: the folder that holds CIFAR-10")
def test_cifar10_has_its_official_sizes_and_stays_in_bytes() -> None:
    data = CIFAR10(root=str(DATA), batch_size=256)
    data.setup()
    assert data.spec == ImageSpec(3, 32, 10)
    assert [len(data.indices(s)) for s in SPLITS] == [25_000, 20_000, 5_000, 10_000]
    assert int(data.indices("test").min()) == 50_000
    assert data._ready().images.dtype == torch.uint8
    batch = data.batch("train", 0)
    assert batch.images.shape == (256, 3, 32, 32)
    assert batch.images.dtype == torch.float32
    # The published mean and deviation of the whole training set, which a half of it meets within a percent.
    published = torch.tensor([[0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]])
    ours = torch.stack([data.mean.flatten(), data.deviation.flatten()]) / 255
    assert torch.allclose(ours, published, rtol=0.01)
    assert torch.cat([b.labels for b in data.evaluation_batches("test")]).bincount().tolist() == [1000] * 10
