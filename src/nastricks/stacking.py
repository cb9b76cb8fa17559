"""How a later file or override of a stack replaces a class that an earlier one named: with all its arguments.

jsonargparse alone keeps those arguments of the earlier class that the later one happens to accept, so that CIFAR-10
after digits would be cut into the splits of digits.
"""

import json
import pydoc
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ActionConfigFile, Namespace  # type: ignore[attr-defined]

from nastricks.errors import InputError

CLASSES = ("space", "data", "model", "search.algorithm", "search.reward")
"""The keys of a recipe that name a class; what stands below them are its arguments, classes among them."""


class RecipeFile(ActionConfigFile):
    """The option of recipe files: a file first makes the stack forget the arguments of the classes that it replaces."""

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:
        text = str(values)
        content = json.loads(text) if text.startswith("{") else yaml.safe_load(Path(text).read_text())
        if isinstance(content, Mapping):
            _forget_replaced(cfg, content)
        super().__call__(parser, cfg, values, option_string)  # type: ignore[no-untyped-call]


def _forget_replaced(before: Namespace, content: Mapping[str, Any]) -> None:
    """Drop the arguments of every class in `before` in whose place `content` names another class."""
    for key, value in content.items():
        old = before.get(key)
        if not isinstance(old, Namespace):
            continue
        known = old.get("class_path")
        if isinstance(value, str) and known is not None:
            value = {"class_path": value}  # a class may be named without arguments, by its name alone
        if not isinstance(value, Mapping):
            continue
        named = value.get("class_path")
        if named is not None and known is not None and not _same_class(named, known):
            before[key] = Namespace({"class_path": known})  # type: ignore[no-untyped-call]
        else:
            _forget_replaced(old, value)


def _same_class(named: str, known: str) -> bool:
    if named == known or ("." not in named and known.endswith(f".{named}")):
        return True
    try:
        return "." in named and pydoc.locate(named) is pydoc.locate(known)
    except pydoc.ErrorDuringImport:
        return False  # the parser says what is wrong with it


def classes_as_files(args: Sequence[str]) -> list[str]:
    """Arguments in which an override that names a class is a recipe file of its own, given as text: `RecipeFile` acts.

    ``--model.policy.class_path=X``, ``--model.policy={"class_path": "X", …}`` and ``--data=X`` name one; an argument's
    class by its name alone (``--model.policy=X``) is not told from other values, and is left to the parser.
    """
    made: list[str] = []
    waiting = list(args)
    while waiting:
        argument = waiting.pop(0)
        option, equals, value = argument.partition("=")
        if not equals and waiting:
            value = waiting[0]
        content = _naming(option.removeprefix("--"), value) if option.startswith("--") else None
        if content is None:
            made.append(argument)
        else:
            made += ["-c", json.dumps(content)]
            if not equals:
                waiting.pop(0)
    return made


def _naming(key: str, value: str) -> dict[str, Any] | None:
    """What a recipe file would hold in place of an override; None where the parser takes it as it is.

    A file is needed where the override names a class, and where it makes an argument of an argument null, which the
    parser reads as a text where the class is built later.
    """
    root = next((root for root in CLASSES if key == root or key.startswith(f"{root}.")), None)
    if root is None or not value:
        return None
    names = [name for name in key.removeprefix(root).split(".") if name not in ("", "init_args")]
    try:
        spec: Any = yaml.safe_load(value) if value.startswith("{") else value
    except yaml.YAMLError as error:
        raise InputError(f"--{key} is {value}, which is no YAML: {' '.join(str(error).split())}") from error
    if value == "null" and len(names) > 1:
        spec = None
    elif names and names[-1] == "class_path":
        spec = {"class_path": names.pop() and value}
    elif isinstance(spec, str) and not names and spec != "null":
        spec = {"class_path": spec}
    if spec is not None and (not isinstance(spec, Mapping) or "class_path" not in spec):
        return None
    for name in reversed(names):
        spec = {"init_args": {name: spec}}
    for name in reversed(root.split(".")):
        spec = {name: spec}
    return dict(spec)
