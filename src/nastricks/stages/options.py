"""Which options a stage keeps of those that an earlier one searched (P-DARTS, Chen et al. 2019, section 3.2)."""

from collections.abc import Mapping

from torch import Tensor

from nastricks.errors import InputError
from nastricks.policies import Policy
from nastricks.spaces import Allowed, Space
from nastricks.spaces.legality import first_legal


def strongest_options(
    space: Space, allowed: Allowed, scores: Mapping[str, Tensor], keep: int
) -> dict[str, tuple[int, ...]]:
    """The `keep` strongest of each choice's allowed options, ties to the first; one with fewer keeps them all.

    An option that is no connection (`Option.absent`) counts and always stays, whatever its strength: without it an edge
    could not be left out in the end. P-DARTS lets it compete, in its code, as edges leave by another rule there.
    """
    kept: dict[str, tuple[int, ...]] = {}
    for choice in space.choices:
        own = scores[choice.name]
        ranked = sorted(allowed[choice.name], key=lambda i: (not choice.options[i].absent, -float(own[i])))
        kept[choice.name] = tuple(sorted(ranked[:keep]))
    return kept


def kept_of(space: Space, policy: Policy, keep: int) -> dict[str, tuple[int, ...]]:
    """As `strongest_options`, by the preferences of a trained policy.

    Raises:
        InputError: nothing legal is left.
    """
    kept = strongest_options(space, policy.allowed, policy.preferences(), keep)
    if first_legal(space, policy.derivable_of(kept)) is None:
        raise InputError(
            f"the {keep} strongest options of each choice leave no architecture of {space.name}: keep more"
        )
    return kept
