"""Who may import whom (docs/decisions.md): a room imports from those below it, and nobody imports `callbacks`."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "src" / "nastricks"
FLOORS = (
    ("chart", "errors", "files", "memory", "rng", "shapes", "table_files"),
    ("nulls",),
    ("moment",),
    ("data",),
    ("spaces",),
    ("policies", "sharing"),
    ("estimators", "derivations"),
    ("modules",),
    ("refusals", "stacking"),
    ("recipe", "run"),
    ("ranking",),
    ("search",),
    ("stages",),
    ("ablation",),
    ("commands",),
    ("cli",),
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
CALLBACKS_MAY = FLOOR["ranking"]


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """The rooms of nastricks that a file imports, `TYPE_CHECKING` blocks apart."""
    tree = ast.parse(path.read_text())
    guarded = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for inner in ast.walk(node)
    }
    names = []
    for node in ast.walk(tree):
        if id(node) in guarded:
            continue
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return {name.split(".")[1] for name in names if name.startswith("nastricks.")}


CALLBACKS = PACKAGE / "callbacks"  # a link, which rglob does not follow
FILES = sorted(p for p in PACKAGE.rglob("*.py") if p.parent != PACKAGE or p.name != "__init__.py")
FILES += sorted(CALLBACKS.glob("*.py"))


def test_every_file_was_found() -> None:
    assert len(FILES) > 50
    assert {room_of(p) for p in FILES} == set(FLOOR) | {"callbacks"}, "name a new room in FLOORS"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_come_from_below(path: Path) -> None:
    room = room_of(path)
    highest = CALLBACKS_MAY if room == "callbacks" else FLOOR[room]
    for other in imports(path):
        assert other != "callbacks", f"{path} imports callbacks: tricks are found by scanning"
        assert other == room or FLOOR[other] <= highest, f"{path} imports {other}, which stands above {room}"
