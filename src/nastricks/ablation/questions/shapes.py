"""Whether a value out of a YAML file has the shape that a question's field declares, and that shape in words."""

from collections.abc import Mapping, Sequence
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin


def fits(value: Any, wanted: Any) -> bool:
    """Whether `value` is a `wanted`: a plain type, or mappings, sequences, tuples and unions of such types."""
    origin, inner = get_origin(wanted), get_args(wanted)
    if wanted is Any:
        return True
    if origin in (Union, UnionType):
        return any(fits(value, one) for one in inner)
    if origin is Mapping:
        return isinstance(value, Mapping) and all(fits(item, inner[1]) for item in value.values())
    if origin in (Sequence, tuple):
        if not isinstance(value, list | tuple):
            return False
        each = inner if origin is tuple else inner * len(value)
        return len(value) == len(each) and all(fits(item, one) for item, one in zip(value, each, strict=True))
    if wanted in (int, float):
        return isinstance(value, int | wanted) and not isinstance(value, bool)
    return isinstance(value, wanted)


def words(wanted: Any) -> str:
    """What a type asks for, in words."""
    origin, inner = get_origin(wanted), get_args(wanted)
    if origin in (Union, UnionType):
        return " or ".join(words(one) for one in inner)
    if origin is Mapping:
        return f"names, each with {words(inner[1])}"
    if origin is Sequence:
        return f"a list of {words(inner[0])}"
    if origin is tuple:
        return f"[{', '.join(words(one) for one in inner)}]"
    return {str: "a text", int: "a whole number", float: "a number", NoneType: "null"}.get(wanted, "a value")
