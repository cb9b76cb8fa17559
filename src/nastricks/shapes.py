"""What a type asks of a value out of a YAML file: whether the value fits, and the type in words."""

from collections.abc import Mapping, Sequence
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

NAMES = {
    float: "a number",
    int: "a whole number",
    str: "a text",
    bool: "true or false",
    NoneType: "null",
    list: "a list",
    dict: "keys and values",
}


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


def takes_none(wanted: Any) -> bool:
    """Whether None is a value of a type, as far as the type says."""
    return wanted in (Any, None, NoneType) or (
        get_origin(wanted) in (Union, UnionType) and any(takes_none(one) for one in get_args(wanted))
    )


def words(wanted: Any) -> str:
    """What a type asks for, in words."""
    origin, inner = get_origin(wanted), get_args(wanted)
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(words(one) for one in inner))
    if origin is Literal:
        return f"one of {', '.join(map(str, inner))}"
    if origin in (Mapping, dict):
        return f"names, each with {words(inner[1])}"
    if origin in (Sequence, list):
        return f"a list of {words(inner[0])}"
    if origin is tuple:
        return f"[{', '.join(words(one) for one in inner)}]"
    return NAMES.get(wanted, "a value")
