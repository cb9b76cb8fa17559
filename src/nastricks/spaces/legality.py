"""What is legal where options are restricted, and what an architecture keeps of its nodes and skips."""

from collections.abc import Sequence

from nastricks.errors import InputError
from nastricks.spaces.base import Space
from nastricks.spaces.choices import Allowed, Architecture, Choice


def is_legal(space: Space, architecture: Sequence[int]) -> bool:
    """Whether an architecture is one of the space."""
    try:
        space.check(architecture)
    except InputError:
        return False
    return True


def first_legal(space: Space, allowed: Allowed) -> Architecture | None:
    """The first legal architecture of the allowed options, each choice's in the order given; None where none is.

    Options of each choice may stand in any order, such as the strongest first: an option is passed over only where
    nothing legal follows from it. Spaces that name nodes are taken to have rules within a node alone: where an edge
    has no legal option, what is changed is an earlier edge into the same node.
    """
    waiting: list[list[int]] = []  # options that are still to be tried, for each choice that was reached
    picked: list[int] = []
    while len(picked) < len(space.choices):
        place = len(picked)
        if place == len(waiting):
            odds = space.odds(picked, allowed)
            waiting.append([index for index in allowed[space.choices[place].name] if index in odds])
        if waiting[place]:
            picked.append(waiting[place].pop(0))
            continue
        back = _reason(space.choices, place)
        if back is None:
            return None
        del waiting[back + 1 :], picked[back:]
    return tuple(picked)


def _reason(choices: Sequence[Choice], place: int) -> int | None:
    """The last choice before `place` that can be why it has no legal option."""
    node = choices[place].node
    earlier = [p for p in range(place) if node is None or choices[p].node == node]
    return earlier[-1] if earlier else None


def edges_of_nodes(space: Space) -> dict[str, list[int]]:
    """The places of the choices that are edges into each node; choices without a node are left out."""
    nodes: dict[str, list[int]] = {}
    for place, choice in enumerate(space.choices):
        if choice.node is not None:
            nodes.setdefault(choice.node, []).append(place)
    return nodes


def absent_option(choice: Choice) -> int | None:
    """The index of the option that is no connection at all, or None."""
    return next((index for index, option in enumerate(choice.options) if option.absent), None)


def fewest_and_most_inputs(space: Space, allowed: Allowed, places: Sequence[int]) -> tuple[int, int]:
    """How many of the edges at `places`, which enter one node, must and can be there at once.

    Raises:
        InputError: nothing legal is left of the allowed options.
    """
    counts = []
    for absent_first in (True, False):
        order = {name: list(options) for name, options in allowed.items()}
        for place in places:
            choice = space.choices[place]
            order[choice.name].sort(key=lambda i: choice.options[i].absent, reverse=absent_first)
        found = first_legal(space, order)
        if found is None:
            raise InputError(f"the allowed options leave no architecture of {space.name}: allow more")
        counts.append(sum(not space.choices[place].options[found[place]].absent for place in places))
    return counts[0], counts[1]


def cell_choices(space: Space, cell: str | None) -> list[int]:
    """The places of the choices of a kind of cell; None is the normal cell where the space names it, else all choices.

    Raises:
        InputError: the space has no such cell.
    """
    cells = sorted({choice.cell for choice in space.choices if choice.cell is not None})
    wanted = "normal" if cell is None and "normal" in cells else cell
    places = [place for place, choice in enumerate(space.choices) if wanted is None or choice.cell == wanted]
    if not places:
        known = f"it has {', '.join(cells)}" if cells else "its choices belong to none, take null"
        raise InputError(f"{space.name} has no cell {wanted!r}: {known}")
    return places


def has_skip(space: Space, allowed: Allowed, places: Sequence[int]) -> bool:
    """Whether some choice at these places may become a skip connection."""
    chosen = [space.choices[place] for place in places]
    return any(choice.options[index].skip for choice in chosen for index in allowed[choice.name])


def skips_of(space: Space, architecture: Architecture, places: Sequence[int]) -> list[int]:
    """Those of the places at which an architecture has a skip connection."""
    return [place for place in places if space.choices[place].options[architecture[place]].skip]
