"""Files that others read appear whole or not at all: write aside, then rename."""

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


LONGEST_NAME = 100
_SAFE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")


def safe_name(text: str) -> str:
    """The text where it can be the name of a file or folder on every system, else the start of its SHA-256."""
    if len(text) <= LONGEST_NAME and _SAFE_NAME.fullmatch(text):
        return text
    return hashlib.sha256(text.encode()).hexdigest()[:20]


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; it takes the place of `path` when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        yield Path(aside)
        os.chmod(aside, 0o644)
        os.replace(aside, path)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    with written_aside(path) as aside:
        aside.write_text(text, encoding="utf-8")


def write_csv(path: Path, frame: "pd.DataFrame") -> None:
    """Every digit kept, no index."""
    with written_aside(path) as aside:
        frame.to_csv(aside, index=False, lineterminator="\n")


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, allow_nan=True) + "\n")
