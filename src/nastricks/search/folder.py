"""The folder of a search: whose it is, and the children that were trained into it before an interruption."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

from jsonargparse import Namespace

from nastricks.errors import InputError
from nastricks.files import write_json, write_text
from nastricks.search.algorithm import Proposal
from nastricks.search.recipe import dump_any
from nastricks.search.reward import Measured
from nastricks.spaces import Space


class KeptChildren:
    """What children were measured to be, a file each in ``children/``.

    Args:
        folder: Of the search.
        space: Names architectures.
        stamp: The reward's: what else the outcomes depend on.
    """

    def __init__(self, folder: Path, space: Space, stamp: str) -> None:
        self.folder, self.space, self.stamp = folder, space, stamp

    def keep(self, key: Proposal, found: Measured) -> None:
        """Write a child down."""
        named = {"architecture": self.space.format(key.architecture), "epochs": key.epochs}
        write_json(self._file(key), {**named, **asdict(found)})

    def recall(self, key: Proposal) -> Measured | None:
        """What was written of a child, None where nothing was."""
        if not self._file(key).is_file():
            return None
        kept = json.loads(self._file(key).read_text())
        return Measured(**{field: kept[field] for field in Measured.__dataclass_fields__})

    def _file(self, key: Proposal) -> Path:
        named = f"{self.space.format(key.architecture)} {key.epochs}{self.stamp}"
        return self.folder / "children" / f"{hashlib.sha256(named.encode()).hexdigest()[:20]}.json"


def claim(config: Namespace, folder: Path, stamp: str = "") -> None:
    """Write config.yaml, or see that the folder holds the same search (its budget may differ).

    `stamp` is the reward's: what else the outcomes depend on.

    Raises:
        InputError: the folder holds something else.
    """
    unbounded = config.clone()
    unbounded.search.evaluations = None
    fingerprint = hashlib.sha256((dump_any(unbounded) + stamp).encode()).hexdigest()
    path = folder / "search.json"
    if path.is_file():
        if json.loads(path.read_text()).get("fingerprint") != fingerprint:
            raise InputError(f"{folder} holds another search: choose another --out")
    elif folder.exists() and any(folder.iterdir()):
        raise InputError(f"{folder} is not empty and holds no search: choose another --out")
    write_text(folder / "config.yaml", dump_any(config))
    write_json(path, {"fingerprint": fingerprint})
