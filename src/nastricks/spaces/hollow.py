"""Networks without values, for their sizes and names, or to be given another network's weights."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

INITIALISERS = (nn.init.kaiming_uniform_, nn.init.uniform_, Tensor.fill_, Tensor.zero_)  # of layers as torch has them


@contextmanager
def hollow() -> Iterator[None]:
    """Modules made inside the block hold tensors without memory (on the device ``meta``), and skip initialisation.

    Initialising such tensors computes nothing, but calls so much that it takes a quarter of the time.
    """
    with torch.device("meta"), _Uninitialised():
        yield


class _Uninitialised(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in INITIALISERS:
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))
