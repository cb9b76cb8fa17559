"""Tables of ground truth: architecture -> accuracy of the child trained alone, one column a replica."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nastricks.errors import InputError
from nastricks.files import write_csv
from nastricks.table_files import SHIPPED, architectures_of, read_rows

REPLICA_COLUMN = re.compile(r"(accuracy|acc|replica)[ _.=-]?((replica|run|seed|trial)[ _.=-]?)?\d*", re.IGNORECASE)
MEAN_COLUMNS = ("gt_mean", "mean", "accuracy_mean", "mean_accuracy", "acc_mean", "mean_acc")


@dataclass(frozen=True, eq=False)
class Table:
    """Ground truth of N ≥ 1 architectures: `replicas` (N, R) are accuracies in [0, 1], R ≥ 1 trainings of each.

    Raises InputError for shapes that do not fit, an architecture named twice or not at all, and an accuracy that is
    NaN or outside [0, 1]. `name` is used in messages.
    """

    architectures: list[str]
    replicas: NDArray[np.float64]
    name: str = "table"

    def __post_init__(self) -> None:
        replicas = np.array(self.replicas, dtype=np.float64)
        replicas.flags.writeable = False
        object.__setattr__(self, "replicas", replicas)
        size = len(self.architectures)
        if size == 0 or replicas.ndim != 2 or replicas.shape[0] != size or replicas.shape[1] == 0:
            raise InputError(
                f"{self.name} has {size} architectures and accuracies of shape {replicas.shape}: give at least one "
                "architecture, and a row of one or more replicas for each"
            )
        seen: set[str] = set()
        for architecture, row in zip(self.architectures, replicas, strict=True):
            if not architecture:
                raise InputError(f"{self.name} has a row without an architecture: name it or remove the row")
            if architecture in seen:
                raise InputError(f"{self.name} has two rows for {architecture!r}: keep one, with a column a replica")
            seen.add(architecture)
            if not ((row >= 0) & (row <= 1)).all():  # also false for NaN
                raise InputError(
                    f"{self.name} gives {architecture!r} the accuracies {row.tolist()}: each must be a number in "
                    "[0, 1], or in percent throughout the file"
                )

    @cached_property
    def row(self) -> dict[str, int]:
        """Architecture -> its row."""
        return {architecture: i for i, architecture in enumerate(self.architectures)}

    @cached_property
    def mean(self) -> NDArray[np.float64]:
        """The mean accuracy (N,) over replicas."""
        mean = self.replicas.mean(axis=1)
        mean.flags.writeable = False
        return mean

    @property
    def std(self) -> NDArray[np.float64]:
        """The standard deviation (N,) over replicas, divided by R − 1; NaN where there is one replica only."""
        if self.replicas.shape[1] == 1:
            return np.full(len(self.architectures), np.nan)
        return self.replicas.std(axis=1, ddof=1)

    def require(self, architectures: Iterable[str]) -> None:
        """Raise InputError unless the table holds every one of `architectures`."""
        missing = [a for a in architectures if a not in self.row]
        if missing:
            some = ", ".join(missing[:5]) + (", …" if len(missing) > 5 else "")
            raise InputError(f"{self.name} lacks {len(missing)} architectures of the space ({some}): add their rows")

    def truth(self, architectures: Sequence[str]) -> NDArray[np.float64]:
        """The mean accuracies (M,) of M `architectures`, in their order. Raises InputError where one is missing."""
        self.require(architectures)
        return self.mean[[self.row[a] for a in architectures]]  # a copy


def _accuracy_columns(path: Path, header: list[str], wanted: Sequence[str] | None) -> list[str]:
    if wanted is not None:
        missing = [name for name in wanted if name not in header]
        if missing or not wanted:
            asked = ", ".join(missing) or "none"
            raise InputError(
                f"the table {str(path)!r} has no such accuracy columns ({asked}): it has {', '.join(header)}"
            )
        return list(wanted)
    replicas = [name for name in header if REPLICA_COLUMN.fullmatch(name)]
    found = replicas or [name for name in header if name.lower() in MEAN_COLUMNS][:1]
    if not found:
        raise InputError(
            f"the table {str(path)!r} has no accuracy column, only {', '.join(header)}: call it accuracy, or "
            "accuracy_0, accuracy_1, … where there are replicas"
        )
    return found


def load_table(
    path: str | Path,
    parse: Callable[[str], object] | None = None,
    columns: Sequence[str] | None = None,
    architecture_column: str | None = None,
) -> Table:
    """Read a table from a CSV file, one row an architecture; other columns are ignored.

    Architectures stand in `architecture_column`, by default `architecture`, else `arch`, else `child`, and stay text
    ("000" keeps its zeros). Accuracies stand in `columns`, by default in every column called accuracy, acc or
    replica, alone or with a number (`accuracy_0`, `acc1`, `replica_seed=2`); where there is none, in the first column
    that is a mean (`gt_mean`, `mean`, `accuracy_mean`, …), which then counts as one replica. If any value is above 1,
    the whole file is taken to be in percent and divided by 100. `parse` is called on each architecture and raises
    InputError for a string that is none of the space's.

    Raises InputError for a file that is missing or no CSV, a column that is missing, an accuracy that is no number
    or out of range, two rows for one architecture, and an architecture that `parse` refuses.
    """
    path = Path(path)
    frame = read_rows(path)
    header = list(frame.columns)
    architectures = architectures_of(frame, path, architecture_column)
    found = _accuracy_columns(path, header, columns)
    replicas = np.empty((len(frame), len(found)))
    for j, column in enumerate(found):
        values = pd.to_numeric(frame[column].str.strip(), errors="coerce").to_numpy(dtype=np.float64)
        replicas[:, j] = values
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            raise InputError(
                f"the table {str(path)!r} gives {architectures[bad[0]]!r} the {column} {frame[column].iloc[bad[0]]!r}, "
                "which is not a number: train that architecture again or remove its row"
            )
    if replicas.size and replicas.max() > 1:
        replicas /= 100
    table = Table(architectures, replicas, name=f"the table {str(path)!r}")
    for architecture in table.architectures if parse is not None else ():
        try:
            parse(architecture)  # type: ignore[misc]
        except InputError as error:
            raise InputError(f"{table.name} holds a row that is not of this space: {error}") from error
    return table


def write_table(path: str | Path, table: Table) -> None:
    """Write `table` as CSV: `architecture,accuracy_0,…`, every digit kept; the file appears whole or not at all."""
    frame = pd.DataFrame(table.replicas, columns=[f"accuracy_{j}" for j in range(table.replicas.shape[1])])
    frame.insert(0, "architecture", table.architectures)
    write_csv(Path(path), frame)


def shipped_table(space: str, data: str) -> Path | None:
    """The table that ships with the package for `space` trained on `data` (`tiny64_digits.csv`), or None."""
    path = SHIPPED / f"{space}_{data}.csv"
    return path if path.is_file() else None
