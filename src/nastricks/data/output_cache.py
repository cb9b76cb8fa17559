"""What a part of a network makes of each image, stored in memory or on disk [frozen prefix]."""

import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree


class OutputCache:
    """The outputs of a part of a network for some images, one row an image, in memory or in a file without a name.

    Args:
        indices: The numbers of the images in the data set (n,), in any order, each once.
        folder: Where the file is; None keeps rows in memory, on the device of the first outputs.
    """

    def __init__(self, indices: Tensor, folder: Path | None = None) -> None:
        self.rows = torch.full((int(indices.max()) + 1,), -1, dtype=torch.int64)
        self.rows[indices.cpu()] = torch.arange(len(indices))
        self.size = len(indices)
        self._folder = folder
        self._leaves: list[Tensor] = []
        self._structure: Any = None

    def put(self, indices: Tensor, state: Any) -> None:
        """Store the state of images (N,)."""
        leaves, self._structure = _pytree.tree_flatten(state)
        if not self._leaves:
            self._leaves = [self._empty(number, leaf) for number, leaf in enumerate(leaves)]
        for own, leaf in zip(self._leaves, leaves, strict=True):
            own[self._of(indices, own)] = _last(leaf).to(own.device)

    def get(self, indices: Tensor) -> Any:
        """The state of images (N,), as it was put."""
        device = indices.device
        found = [_first(own[self._of(indices, own)]).to(device, non_blocking=True) for own in self._leaves]
        return _pytree.tree_unflatten(found, self._structure)

    def _of(self, indices: Tensor, leaf: Tensor) -> Tensor:
        if self.rows.device != indices.device:
            self.rows = self.rows.to(indices.device)
        return self.rows[indices].to(leaf.device)

    def _empty(self, number: int, leaf: Tensor) -> Tensor:
        """Room for all rows; channels stand last, so that what comes out is channels last without a copy."""
        shape = (self.size, *_last(leaf).shape[1:])
        if self._folder is None:
            return torch.empty(shape, dtype=leaf.dtype, device=leaf.device)
        handle, path = tempfile.mkstemp(dir=self._folder, prefix=f"prefix-{number}-")
        os.close(handle)
        count = int(torch.Size(shape).numel())
        mapped = torch.from_file(path, shared=True, size=count, dtype=leaf.dtype).view(shape)
        os.unlink(path)  # it lives as long as it is mapped, so that nothing is left of a run that is killed
        return mapped


def _last(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, H, W, C); others stay."""
    return x.permute(0, 2, 3, 1) if x.dim() == 4 else x


def _first(x: Tensor) -> Tensor:
    """The inverse of `_last`."""
    return x.permute(0, 3, 1, 2) if x.dim() == 4 else x
