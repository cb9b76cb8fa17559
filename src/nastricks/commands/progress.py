"""A progress bar with the time left."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from nastricks.errors import InputError


@contextmanager
def progress(label: str, total: int) -> Iterator[tuple[Progress, TaskID]]:
    """A bar on stderr, and its task's number."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        try:
            yield bar, bar.add_task(label, total=total)
        except InputError:
            bar.live.transient = True  # where stderr is no terminal, the sentence stands alone
            raise
