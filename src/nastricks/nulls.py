"""Refuses null where a class takes none: the parser lets it pass, and a constructor would stumble over it."""

import functools
import inspect
from collections.abc import Mapping
from pydoc import locate
from typing import Any, get_type_hints

from jsonargparse import Namespace

from nastricks.errors import InputError
from nastricks.shapes import takes_none, words

LINKED = ("model.space", "model.spec")  # the parser fills them in where it builds the module


def refuse_nulls(config: Any, key: str = "") -> None:
    """Walk a resolved configuration.

    Raises:
        InputError: an argument of a class is null, and neither its type nor its default is.
    """
    for number, item in enumerate(config if isinstance(config, list) else ()):
        refuse_nulls(item, f"{key}.{number}")
    if not isinstance(config, Namespace):
        return
    arguments = config.get("init_args") if config.get("class_path") else config
    if not isinstance(arguments, Namespace):
        return
    wanted = _wanted(str(config.class_path)) if config.get("class_path") else {}
    for name, value in vars(arguments).items():
        own = f"{key}.{name}" if key else name
        if value is None and name in wanted and own not in LINKED:
            raise InputError(f"{own} is null: expected {wanted[name]}")
        refuse_nulls(value, own)


@functools.cache
def _wanted(class_path: str) -> Mapping[str, str]:
    """Argument -> what it takes, in words, for each that a class does not take null for."""
    made: Any = locate(class_path)
    try:
        hints = get_type_hints(made.__init__)
    except (AttributeError, NameError):  # a function, or types that are only imported for type checkers
        return {}
    told = {}
    for name, parameter in inspect.signature(made).parameters.items():
        if name in hints and parameter.default is not None and not takes_none(hints[name]):
            default = parameter.default
            least = "" if default is parameter.empty else f", or leave it out for its default {default!r}"
            told[name] = words(hints[name]) + least
    return told
