"""CSV files of ground truth, as text: where one is, its rows, and its column of architectures."""

import warnings
from importlib.resources import files
from pathlib import Path

import pandas as pd

from nastricks.errors import InputError

ARCHITECTURE_COLUMNS = ("architecture", "arch", "child")
SHIPPED = Path(str(files("nastricks"))) / "tables"


def locate_table(table: str | Path) -> Path:
    """The file, or the shipped table of that name, such as ``tiny64_digits``.

    Raises:
        InputError: there is neither.
    """
    path, shipped = Path(table), SHIPPED / f"{table}.csv"
    if path.is_file():
        return path
    if shipped.is_file():
        return shipped
    known = ", ".join(sorted(p.stem for p in SHIPPED.glob("*.csv")))
    raise InputError(
        f"the table {str(table)!r} does not exist: give the path of a CSV file, or a shipped table ({known})"
    )


def read_rows(path: Path) -> pd.DataFrame:
    """Every cell as text: "000" keeps its zeros, and an architecture may be called "NA".

    Raises:
        InputError: the file is missing or no CSV with a header.
    """
    if not path.is_file():
        raise InputError(f"the table {str(path)!r} does not exist: give the path of a CSV file")
    try:
        with warnings.catch_warnings():
            # pandas only warns when a row is longer than the header, and then drops the rest of the row.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            frame = pd.read_csv(path, dtype=str, keep_default_na=False, index_col=False, encoding="utf-8-sig")
    except (pd.errors.ParserError, pd.errors.ParserWarning, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"the table {str(path)!r} is not a CSV file with a header ({reason}): mend the file"
        ) from error
    frame.columns = frame.columns.str.strip()
    return frame.fillna("")  # a row that is too short


def architectures_of(frame: pd.DataFrame, path: Path, column: str | None = None) -> list[str]:
    """The architectures in `column`, by default `architecture`, else `arch`, else `child`.

    Raises:
        InputError: the column is missing.
    """
    for name in ARCHITECTURE_COLUMNS if column is None else (column,):
        if name in frame.columns:
            return frame[name].str.strip().tolist()
    expected = repr(column or ARCHITECTURE_COLUMNS[0])
    raise InputError(f"the table {str(path)!r} has no column {expected}, only {', '.join(frame.columns)}: name one so")
