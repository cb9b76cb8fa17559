"""Keyed randomness: every random number is a pure function of a key, never of what was drawn before.

A key names who draws and when, for instance ``(seed, step, set_of_gates, "drop_path")``. Two passes that use the
same key see the same sample, an interrupted run that is resumed sees what the straight run saw, and two arms of an
ablation see the same batches and paths.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def key_seed(*key: object) -> int:
    """A 63-bit seed from any key of ints, floats, strings and tuples of them; the same on every machine."""
    return int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=8).digest(), "big") >> 1


def generator(*key: object, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh generator on `device`, seeded from `key`."""
    return torch.Generator(device).manual_seed(key_seed(*key))


def inherited_seed(seed: int | None) -> int:
    """The seed given, or one drawn from torch's global generator, which a run keys by its own seed while it builds."""
    return int(torch.randint(2**62, ())) if seed is None else seed


@contextmanager
def forked_rng(*key: object, device: torch.device | str = "cpu") -> Iterator[None]:
    """Seed torch's global generators from `key` inside the block, and put them back after it.

    For code that takes no generator (``nn.Dropout``, weight initialisation, torchvision).
    """
    device = torch.device(device)
    generators = [torch.default_generator]
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        generators.append(torch.cuda.default_generators[index])
    states = [g.get_state() for g in generators]
    seed = key_seed(*key)
    for g in generators:
        g.manual_seed(seed)
    try:
        yield
    finally:
        for g, state in zip(generators, states, strict=True):
            g.set_state(state)
