"""The one exception that means "what you gave is wrong": the command line prints it as a sentence and exits with 2."""

import difflib
from collections.abc import Iterable

MOST_LISTED = 15


class InputError(ValueError):
    """Input that cannot work: names the value, says what was expected, and how to mend it, in one sentence."""


def unknown(kind: str, name: str, known: Iterable[str]) -> InputError:
    """The refusal of a name that does not exist, with the nearest one that does.

    >>> unknown("trick", "samm", ["sam", "mixup"]).args[0]
    "unknown trick 'samm': did you mean 'sam'? (known: mixup, sam)"
    """
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f": did you mean {near[0]!r}?" if near else ""
    listed = f" (known: {', '.join(names)})" if len(names) <= MOST_LISTED or not near else ""
    return InputError(f"unknown {kind} {name!r}{hint}{listed}")


class DeadTrickError(RuntimeError):
    """A trick was configured and changed nothing."""
