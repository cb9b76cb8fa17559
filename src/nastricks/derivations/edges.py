"""Which edges into a node stay, and with which operation: what derivations over nodes have in common."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from nastricks.errors import InputError
from nastricks.spaces import Allowed, Architecture, Choice, Space
from nastricks.spaces.legality import absent_option, edges_of_nodes, fewest_and_most_inputs, is_legal

Passes = Callable[[Tensor, int, int], bool]
"""Whether an edge may stay: given the scores of its options, its strongest operation, and the index of its `none`."""


def check_edges(space: Space, allowed: Allowed, edges: int | None, derivation: str) -> None:
    """Refuse a space whose nodes cannot be left with `edges` edges each; None may leave all of them.

    Raises:
        InputError: no choice is an edge, a node's edges cannot be left out, or its inputs are more or fewer.
    """
    nodes = edges_of_nodes(space)
    if not nodes:
        raise InputError(f"derivation {derivation} needs edges into nodes, and {space.name} has none: use Argmax")
    for node, places in nodes.items():
        fewest, most = fewest_and_most_inputs(space, allowed, places)
        kept = len(places) if edges is None else min(edges, len(places))
        if kept > most:
            told = "null, which may keep all edges" if edges is None else str(edges)
            raise InputError(
                f"derivation.edges is {told}, and node {node} of {space.name} takes at most {most} inputs: set "
                f"derivation.edges {most}"
            )
        if edges is None or len(places) <= edges:
            continue
        if any(absent_option(space.choices[place]) is None for place in places):
            raise InputError(
                f"derivation {derivation} keeps {edges} of the {len(places)} edges into {node}, and an edge of "
                f"{space.name} cannot be left out: use Argmax, or set derivation.edges {len(places)}"
            )
        if edges < fewest:
            raise InputError(
                f"derivation.edges is {edges}, and node {node} of {space.name} takes at least {fewest} inputs"
            )


def strongest(scores: Tensor, options: Sequence[int]) -> int:
    """The option with the highest score; of equals the one that stands first."""
    return max(options, key=lambda index: float(scores[index]))


def strongest_edges(strengths: Sequence[float], edges: int | None, fixed: Sequence[bool] = ()) -> list[int]:
    """The places of the `edges` strongest, in order; ties go to the first. The `fixed` are always among them.

    `edges` None takes all.
    """
    ranked = sorted(range(len(strengths)), key=lambda i: (not (fixed and fixed[i]), -strengths[i]))
    must = sum(fixed)
    return sorted(ranked if edges is None else ranked[: max(edges, must)])


@dataclass(frozen=True)
class Reading:
    """What is read off an edge: its strongest operation, and whether it may stay, and whether it may go."""

    place: int
    operation: int
    strength: float
    passes: bool
    none: int | None

    @property
    def fixed(self) -> bool:
        """Whether the edge has no way to be absent."""
        return self.none is None


def read_edges(
    space: Space,
    allowed: Allowed,
    scores: Mapping[str, Tensor],
    edges: int | None,
    passes: Passes,
    *,
    at_least: Mapping[str, int] | None = None,
) -> Architecture:
    """An option for every choice: the strongest edges of each node that pass, with their strongest operation.

    `none` stands for an edge that goes; an edge that may not be absent stays. Where fewer pass than `at_least` says of
    the node, the strongest of the others stay too. A choice that is no edge takes its strongest option.
    """
    picked = [strongest(scores[choice.name], allowed[choice.name]) for choice in space.choices]
    for node, places in edges_of_nodes(space).items():
        read = [_read(space.choices[place], place, allowed, scores, passes) for place in places]
        there = [reading for reading in read if reading is not None]
        strong = [reading for reading in there if reading.passes]
        short = (at_least or {}).get(node, 0)
        if len(strong) < short:
            kept = strongest_edges([r.strength for r in there], short, [r.passes for r in there])
            strong = [there[i] for i in kept]
        kept = strongest_edges([r.strength for r in strong], edges, [r.fixed for r in strong])
        stay = {strong[i].place for i in kept}
        for reading in there:
            assert reading.place in stay or reading.none is not None, "an edge that may not be absent stays"
            picked[reading.place] = reading.operation if reading.place in stay else reading.none or 0
    return tuple(picked)


def _read(choice: Choice, place: int, allowed: Allowed, scores: Mapping[str, Tensor], passes: Passes) -> Reading | None:
    """What is read off an edge; None where it can only be absent."""
    own, none = scores[choice.name], _allowed_absent(choice, allowed)
    operations = [index for index in allowed[choice.name] if index != none]
    if not operations:
        return None
    best = strongest(own, operations)
    return Reading(place, best, float(own[best]), none is None or passes(own, best, none), none)


def _allowed_absent(choice: Choice, allowed: Allowed) -> int | None:
    none = absent_option(choice)
    return none if none in allowed[choice.name] else None


def legal_or_refused(space: Space, architecture: Architecture, advice: str) -> Architecture:
    """The architecture, where it is legal.

    Raises:
        InputError: it is not, for instance since a node is left without input; `advice` says how to mend it.
    """
    if is_legal(space, architecture):
        return architecture
    for node, places in edges_of_nodes(space).items():
        inputs = sum(not space.choices[place].options[architecture[place]].absent for place in places)
        fewest, most = fewest_and_most_inputs(space, space.all_options(), places)
        if not fewest <= inputs <= most:
            left = "without input" if inputs == 0 else f"with {inputs} of {len(places)} inputs"
            demanded = str(fewest) if fewest == most else f"{fewest} to {most}"
            raise InputError(f"the derivation leaves node {node} {left}, and {space.name} demands {demanded}: {advice}")
    raise InputError(f"the strongest options of all choices are no architecture of {space.name} together: {advice}")
