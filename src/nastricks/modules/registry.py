"""Finds tricks by scanning: one file a trick in `callbacks/`, and the entry-point group ``nastricks.tricks``."""

import importlib
import pkgutil
from functools import cache
from importlib.metadata import entry_points

from nastricks.errors import InputError
from nastricks.modules.trick import Trick


@cache
def tricks() -> dict[str, type[Trick]]:
    """Every trick by its name.

    Raises:
        InputError: a file without exactly one trick, or two tricks with one name.
    """
    package = importlib.import_module("nastricks.callbacks")
    found: dict[str, type[Trick]] = {}
    for info in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"nastricks.callbacks.{info.name}")
        own = [c for c in vars(module).values() if _is_trick(c) and c.__module__ == module.__name__]
        if len(own) != 1:
            raise InputError(f"callbacks/{info.name}.py defines {len(own)} tricks: expected one a file")
        found[own[0].name] = own[0]
    for entry in entry_points(group="nastricks.tricks"):
        loaded = entry.load()
        if not _is_trick(loaded):
            raise InputError(f"entry point {entry.name} of group nastricks.tricks is no Trick: {entry.value}")
        if entry.name in found:
            raise InputError(f"two tricks are called {entry.name}: {found[entry.name].__module__} and {entry.value}")
        loaded.name = entry.name
        found[entry.name] = loaded
    return dict(sorted(found.items()))


def _is_trick(thing: object) -> bool:
    return isinstance(thing, type) and issubclass(thing, Trick) and thing is not Trick
