"""A space without a network: the architectures of a table of ground truth, such as NAS-Bench-MACRO's."""

import itertools
import math
from typing import ClassVar

from nastricks.data.batch import ImageSpec
from nastricks.errors import InputError
from nastricks.spaces.base import Space
from nastricks.spaces.choices import Allowed, Architecture, Choice, Option
from nastricks.spaces.network import Network
from nastricks.table_files import architectures_of, locate_table, read_rows


class Tabular(Space):
    """The strings of a table's column ``architecture`` (else ``arch``, else ``child``), a choice a character.

    All strings have one length; the options of position i are the characters that stand there in some row, sorted,
    and every combination of them has a row. Architectures are written as in the table.

    Args:
        table: Path of a CSV file with a header, or the bare name of a table that ships with nastricks, such as
            ``tiny64_digits``. `path` is where it was found.

    Raises:
        InputError: no such table, no such column, strings of different lengths, or a combination that has no row.
    """

    name: ClassVar[str] = "tabular"

    def __init__(self, table: str) -> None:
        self.path = locate_table(table)
        rows = architectures_of(read_rows(self.path), self.path)
        lengths = sorted({len(row) for row in rows})
        if len(lengths) != 1 or lengths == [0]:
            raise InputError(
                f"the table {table!r} has architectures of {' and '.join(map(str, lengths)) or 'no'} characters: "
                "expected rows whose architectures have one length of at least 1"
            )
        self._symbols = tuple("".join(sorted(set(column))) for column in zip(*rows, strict=True))
        self.choices = tuple(
            Choice(f"position{position}", tuple(Option(symbol, learns=False) for symbol in symbols))
            for position, symbols in enumerate(self._symbols, start=1)
        )
        known = set(rows)
        if len(known) < math.prod(map(len, self._symbols)):
            missing = next(m for m in map("".join, itertools.product(*self._symbols)) if m not in known)
            raise InputError(
                f"the table {table!r} has no row for {missing!r}: a search may ask for every combination of its "
                "characters, so add the rows that are missing"
            )

    def build(self, spec: ImageSpec, allowed: Allowed) -> Network:
        raise InputError(
            "space tabular has no network to build: search it with `nastricks search`, which scores it by its table"
        )

    def format(self, architecture: Architecture) -> str:
        """As in the table."""
        return "".join(symbols[index] for symbols, index in zip(self._symbols, architecture, strict=True))

    def parse(self, text: str) -> Architecture:
        if len(text) == len(self._symbols):
            pairs = list(zip(text, self._symbols, strict=True))
            if all(character in symbols for character, symbols in pairs):
                return tuple(symbols.index(character) for character, symbols in pairs)
        raise InputError(
            f"{text!r} is no architecture of the table {str(self.path)!r}: expected {len(self._symbols)} characters, "
            f"such as {self.format((0,) * len(self._symbols))!r}"
        )
