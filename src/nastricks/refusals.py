"""What a parser or a constructor refused, as one sentence.

Constructors' own refusals come wrapped in the parser's account of every type that it tried, and the parser's own ones
name Python's types.
"""

import importlib
import inspect
import re
from collections.abc import Callable, Sequence

from nastricks.errors import InputError, unknown
from nastricks.shapes import NAMES
from nastricks.spaces import Space


def in_a_sentence(error: Exception, keys: Callable[[], Sequence[str]]) -> InputError:
    """The refusal behind an error; `keys` are those that the parser knows, for one that it does not."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, InputError):
            return cause
        cause = cause.__cause__ or cause.__context__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    tried = [
        line for line in lines if not line.startswith(("Does not validate", "Subtypes:", "Errors:", "Given value"))
    ]
    told = [line.removeprefix("- ") for line in tried if "<class 'NoneType'>" not in line]
    given = next((line.removeprefix("Given value: ") for line in lines if line.startswith("Given value: ")), None)
    sentence = " ".join(told).replace("Parser key ", "key ")
    unrecognised = re.search(r"unrecognized arguments: --([\w.]+)", sentence, re.IGNORECASE)
    if unrecognised is not None:
        return unknown("key", unrecognised.group(1), keys())
    for attempt in (_not_taken, _no_such_class, _lacking, _of_another_type):
        found = attempt(sentence, given)
        if found is not None:
            return found
    short = given is not None and len(given) < 80 and "(" not in given
    return InputError(f"{sentence}, and it was given {given!r}" if short else sentence)


def _key(sentence: str) -> str:
    """The key of which the parser speaks, without its ``init_args``."""
    return ".".join(re.findall(r'key "([\w.]+)": ', sentence))


def _not_taken(sentence: str, given: str | None) -> InputError | None:
    """An argument that a class does not take; for the depth of a space, that it has none to change."""
    told = re.search(r"Problem with given class_path '([\w.]+)': Option '(\w+)' is not accepted", sentence)
    if told is None:
        turned = re.search(r"Option '(\w+)' is not accepted\. Got value: Namespace\(class_path='([\w.]+)'", sentence)
        class_path, argument = (turned.group(2), turned.group(1)) if turned is not None else ("", "")
    else:
        class_path, argument = told.groups()
    if not class_path:
        return None
    module, _, name = class_path.rpartition(".")
    made = getattr(importlib.import_module(module), name)
    if argument == "cells" and issubclass(made, Space):
        return InputError(f"{name} takes no cells: it has no depth that could change, take a space such as darts")
    return unknown(f"argument of {name}:", argument, inspect.signature(made).parameters)


def _no_such_class(sentence: str, given: str | None) -> InputError | None:
    """A class that its module does not hold."""
    told = re.search(r"module '(nastricks\.[\w.]+)' has no attribute '(\w+)'", sentence)
    if told is None:
        return None
    module = importlib.import_module(told.group(1))
    names = [name for name, value in vars(module).items() if inspect.isclass(value) and not name.startswith("_")]
    return unknown(f"class of {told.group(1)}:", told.group(2), names)


def _lacking(sentence: str, given: str | None) -> InputError | None:
    """An argument that is needed."""
    told = re.search(r"the following arguments are required: ([\w, ]+)", sentence)
    return InputError(f"{_key(sentence)} lacks {told.group(1)}: give it a value") if told and _key(sentence) else None


def _of_another_type(sentence: str, given: str | None) -> InputError | None:
    """A value that is none of the types that its argument takes."""
    wanted = re.findall(r"Expected an? (?:<class '([\w.]+)'>|typing\.(Literal\[[^]]*\]))", sentence)
    values = re.findall(r"Got value: (.*?)(?=\. Got value: | Not a valid subclass| Expected an? |$)", sentence)
    value = values[0] if values else None if given is None else given.partition(". Got value: ")[0]
    if not _key(sentence) or not wanted or value is None:
        return None
    kinds = {kind.__name__: words for kind, words in NAMES.items()}
    kinds |= {"Sequence": kinds["list"], "tuple": kinds["list"], "Mapping": kinds["dict"]}
    told = [
        f"one of {literal[8:-1]}" if literal else kinds.get(kind.rpartition(".")[2], f"a {kind}")
        for kind, literal in wanted
    ]
    quoted = " (digits that are a text stand in quotes)" if value.isdigit() and NAMES[str] in told else ""
    return InputError(f"{_key(sentence)} is {value}: expected {' or '.join(dict.fromkeys(told))}{quoted}")
