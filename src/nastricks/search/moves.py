"""From one architecture to others: mutation, crossover, neighbours, and the repair that keeps them legal.

Where `Space.legal` depends on the choices before, a change can make later choices illegal. All moves then follow one
rule: the choices are walked in order, an option that is still legal stays, another is drawn anew among the legal ones.
"""

from collections.abc import Callable, Collection, Iterator, Sequence

import torch

from nastricks.rng import generator
from nastricks.spaces import Architecture, Space
from nastricks.spaces.base import LISTED

TRIES = 100  # uniform draws before `unseen` looks for what is left


def pick(options: Sequence[int], rng: torch.Generator) -> int:
    """One of the options, each as likely."""
    return options[int(torch.randint(len(options), (), generator=rng))]


def repair(space: Space, wanted: Sequence[int], rng: torch.Generator) -> Architecture:
    """The architecture that keeps the wanted option wherever it is legal after those before it."""
    repaired: Architecture = ()
    for index in wanted:
        legal = space.legal(repaired)
        repaired += (index if index in legal else pick(legal, rng),)
    return repaired


def neighbours(space: Space, architecture: Architecture) -> list[Architecture]:
    """All architectures one change away, each once, always in the same order.

    What a repair draws is keyed by the change, so an architecture has the same neighbours whenever it is met.
    """
    found: dict[Architecture, None] = {}
    for position, current in enumerate(architecture):
        for index in space.legal(architecture[:position]):
            if index != current:
                wanted = (*architecture[:position], index, *architecture[position + 1 :])
                found[repair(space, wanted, generator("neighbours", space.name, position, wanted))] = None
    return list(found)


def mutate(
    space: Space, architecture: Architecture, rng: torch.Generator, probability: float | None = None
) -> Architecture:
    """The architecture with changed choices; each change goes to another legal option.

    `probability`: None changes one choice [Real et al. 2019]; a number in [0, 1] changes each choice with it [SPOS],
    and one where none was drawn, so that a mutant is never its parent. Where no choice has another option the
    architecture itself comes back.
    """
    movable = [p for p in range(len(architecture)) if len(space.legal(architecture[:p])) > 1]
    if not movable:
        return architecture
    drawn = torch.rand(len(movable), generator=rng).tolist() if probability is not None else []
    changed = {p for p, u in zip(movable, drawn, strict=False) if u < (probability or 0)} or {pick(movable, rng)}
    mutant: Architecture = ()
    for position, current in enumerate(architecture):
        legal = space.legal(mutant)
        others = [index for index in legal if index != current]
        stays = current in legal and (position not in changed or not others)
        mutant += (current if stays else pick(others, rng),)
    return mutant


def crossover(space: Space, first: Architecture, second: Architecture, rng: torch.Generator) -> Architecture:
    """Uniform crossover: each choice from either parent as likely, from the other where that alone is legal."""
    child: Architecture = ()
    for options in zip(first, second, strict=True):
        legal = space.legal(child)
        inherited = [index for index in options if index in legal]
        child += (pick(inherited or legal, rng),)
    return child


def unseen(
    space: Space,
    seen: Collection[Architecture],
    rng: torch.Generator,
    draw: Callable[[torch.Generator], Architecture] | None = None,
    admits: Callable[[Architecture], bool] = lambda architecture: True,
) -> Architecture | None:
    """A random architecture that is not among those seen; None where every one was.

    After 100 draws in vain it walks through the space in random order, which visits no more than what was seen, or
    what is not admitted: then it walks through spaces of at most 100,000 architectures alone.

    Args:
        space: The space.
        seen: What is not wanted.
        rng: Generator of the draws.
        draw: Gives an architecture that is admitted; None for `Space.sample`.
        admits: Whether an architecture may come back.
    """
    for _ in range(TRIES):
        architecture = space.sample(rng) if draw is None else draw(rng)
        if architecture not in seen:
            return architecture
    if draw is not None and space.size > LISTED:
        return None
    return next((a for a in _walk(space, (), rng) if a not in seen and admits(a)), None)


def _walk(space: Space, prefix: Architecture, rng: torch.Generator) -> Iterator[Architecture]:
    """Every legal architecture that begins with `prefix`, in random order."""
    if len(prefix) == len(space.choices):
        yield prefix
        return
    legal = space.legal(prefix)
    for position in torch.randperm(len(legal), generator=rng).tolist():
        yield from _walk(space, (*prefix, legal[position]), rng)
