"""`nastricks ls` and `cp`: the shipped recipes. They read files, and import nothing heavy."""

import argparse
import ast
import shutil
from pathlib import Path

from nastricks.errors import InputError, unknown

PACKAGE = Path(__file__).parent.parent
RECIPES = PACKAGE / "recipes"
KINDS_OF_RECIPES = (
    "algorithms",
    "spaces",
    "data",
    "tricks",
    "stacks",
    "sharing",
    "child",
    "loggers",
    "search",
    "stages",
    "ablations",
)


def recipes() -> dict[str, Path]:
    """Every shipped recipe by its name, such as ``tricks/sam``."""
    return {str(p.relative_to(RECIPES).with_suffix("")): p for p in sorted(RECIPES.rglob("*.yaml"))}


def first_comment(path: Path) -> str:
    """The head line of a YAML file."""
    first = path.read_text().splitlines()[:1]
    return first[0].lstrip("# ").strip() if first and first[0].startswith("#") else ""


def first_docstring_line(path: Path) -> str:
    """The head line of a Python file's docstring."""
    return (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0]


def ls(arguments: argparse.Namespace) -> int:
    """Print a line each."""
    listed: dict[str, dict[str, str]] = {}
    for name, path in recipes().items():
        listed.setdefault(name.partition("/")[0], {})[name] = first_comment(path)
    for path in sorted((PACKAGE / "callbacks").glob("*.py")):
        if path.stem != "__init__":
            listed.setdefault("tricks", {}).setdefault(f"tricks/{path.stem}", first_docstring_line(path))
    if arguments.kind is not None and arguments.kind not in listed:
        raise unknown("kind", arguments.kind, listed)
    for kind in listed if arguments.kind is None else [arguments.kind]:
        print(f"{kind}:")
        for name, text in listed[kind].items():
            print(f"  {name:32} {text}")
    return 0


def cp(arguments: argparse.Namespace) -> int:
    """Copy one recipe to a file that does not exist yet."""
    known = recipes()
    name = arguments.name.removeprefix("recipes/").removesuffix(".yaml")
    if name not in known:
        raise unknown("recipe", name, known)
    target = Path(arguments.file)
    target = target / known[name].name if target.is_dir() else target
    if target.exists():
        raise InputError(f"{target} exists: name another file, or remove it")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(known[name], target)
    print(target)
    return 0
