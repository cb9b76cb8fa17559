"""Progressive shrinking: the largest network is trained first, then smaller sizes join, a dimension after another.

Once-for-all (Cai et al. 2020, 1908.09791, section 3.3): resolution is elastic from the start, then come kernel sizes,
then depths, then widths; before widths, channels are sorted by importance.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

from torch import nn

from nastricks.errors import InputError, unknown
from nastricks.modules.trick import Change, Need, Trick
from nastricks.moment import Moment
from nastricks.spaces import Allowed, Choice, Network
from nastricks.spaces.reordering import Reorderable, by_importance, reorder

if TYPE_CHECKING:
    from nastricks.modules import TrainingModule

ORDER = ("resolution", "kernel", "depth", "expansion", "width")
AT_ONCE = ("resolution", "kernel")  # other dimensions open one size after another (the released code)


@dataclass(frozen=True)
class Phase:
    """From the part `start` of the run on, these options of each choice of a dimension may be sampled too."""

    dimension: str
    start: float
    opened: Mapping[str, tuple[int, ...]]


def portions(options: Sequence[int], count: int) -> list[tuple[int, ...]]:
    """The options but the largest in `count` portions of nearly equal size, from large to small."""
    smaller = sorted(options)[-2::-1]
    ends = [math.ceil(part * len(smaller) / count) for part in range(count + 1)]
    return [tuple(smaller[a:b]) for a, b in pairwise(ends)]


def default_starts(phases: Sequence[str]) -> list[float]:
    """Resolution opens at once; the others begin at equal parts of the run, the first of which has none of them."""
    count, later = sum(name != "resolution" for name in phases), 0
    starts = []
    for name in phases:
        later += name != "resolution"
        starts.append(later / (count + 1))
    return starts


def smaller_sizes(choices: Sequence[Choice], held: Allowed) -> dict[str, int]:
    """How many sizes each dimension has below its largest, in the order in which they open."""
    found = dict.fromkeys(ORDER, 0)
    for choice in choices:
        if choice.dimension is not None:
            found[choice.dimension] = max(found.get(choice.dimension, 0), len(held[choice.name]) - 1)
    return {name: count for name, count in found.items() if count > 0}


class ProgressiveShrinking(Trick):
    """Opens the sizes of one dimension after another; no size is sampled before its phase.

    Channels inside a block are sorted by importance, with their momentum, before a phase lets paths run fewer of them.
    What an earlier phase has opened computes the same after it.

    Args:
        phases: Dimensions in the order in which they open, such as ``[resolution, kernel, depth, depth]``; one that is
            named several times opens in so many portions, from large to small. None: resolution and kernel at once,
            then depth, expansion and width one size after another, as far as the space has them. Dimensions that are
            named neither here nor as `closed` are open from the start.
        starts: The part of the run at which each phase begins, in [0, 1), never falling; it begins with an epoch. None:
            resolution at 0, the others at equal parts of the run, the first of which trains the largest alone.
        closed: Dimensions that stay at their largest, None for none [a stage that leaves them to a later one].

    Raises:
        InputError: a value is out of its range.
    """

    changes: ClassVar[Change] = "options"
    needs: ClassVar[tuple[Need, ...]] = ("supernet",)

    def __init__(
        self,
        phases: Sequence[str] | None = None,
        starts: Sequence[float] | None = None,
        closed: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        told = "progressive_shrinking"
        if starts is not None and not all(0 <= start < 1 for start in starts):
            raise InputError(f"{told}.starts are {list(starts)}: expected parts of the run in [0, 1)")
        if starts is not None and any(a > b for a, b in pairwise(starts)):
            raise InputError(f"{told}.starts are {list(starts)}: expected numbers that never fall")
        if phases is not None and starts is not None and len(phases) != len(starts):
            raise InputError(f"{told} has {len(phases)} phases and {len(starts)} starts: give one for each")
        if phases is not None and not phases and not closed:
            raise InputError(f"{told}.phases is empty and nothing is closed, so nothing would shrink: name dimensions")
        both = sorted(set(phases or ()) & set(closed or ()))
        if both:
            raise InputError(f"{told}.closed has {both[0]}, which is one of its phases: leave it out of one of them")
        self.phases, self.starts, self.closed = phases, starts, tuple(closed or ())
        self.opened = 0

    def refusal(self, module: "TrainingModule") -> str | None:
        reason = None if self.name in module.operated else super().refusal(module)
        if reason is not None:
            return reason
        others = [t.name for t in module.trainer.callbacks if isinstance(t, Trick)]  # type: ignore[attr-defined]
        if "space_pruning" in others:
            return (
                "tricks progressive_shrinking and space_pruning cannot both say which children are left: use one after "
                "the other, in stages"
            )
        sizes = smaller_sizes(module.space.choices, _held(module))
        if not sizes:
            return (
                f"trick progressive_shrinking opens sizes, and {module.space.name} has none: use one such as elastic, "
                "or leave it out"
            )
        for key, names in (("phases", self.phases or ()), ("closed", self.closed)):
            for name in names:
                if name not in sizes:
                    return str(unknown(f"progressive_shrinking.{key}: dimension of {module.space.name}", name, sizes))
        names = self._names(sizes)
        for name in names:
            if names.count(name) > sizes[name]:
                return (
                    f"progressive_shrinking.phases has {name} {names.count(name)} times, and {module.space.name} has "
                    f"{sizes[name]} smaller sizes of it: name it at most so often"
                )
        if self.starts is not None and len(self.starts) != len(names):
            return (
                f"progressive_shrinking has {len(names)} phases ({', '.join(names)}) and {len(self.starts)} starts: "
                "give one for each"
            )
        return self._late(module, names)

    def _late(self, module: "TrainingModule", names: Sequence[str]) -> str | None:
        """Why the last phase never begins, or None."""
        epochs, starts = module.trainer.max_epochs, self._starts(names)
        if not starts or epochs is None or epochs < 1 or starts[-1] <= (last := (epochs - 1) / epochs) + 1e-9:
            return None
        return (
            f"progressive_shrinking opens {names[-1]} at {starts[-1]:.3g} of the run, and the last of {epochs} epochs "
            f"begins at {last:.3g}: start earlier, or train longer"
        )

    def _names(self, sizes: Mapping[str, int]) -> list[str]:
        if self.phases is not None:
            return list(self.phases)
        own = [name for name in sizes if name not in self.closed]
        return [name for name in own for _ in range(1 if name in AT_ONCE else sizes[name])]

    def _starts(self, names: Sequence[str]) -> list[float]:
        return default_starts(names) if self.starts is None else list(self.starts)

    def plan(self, module: "TrainingModule") -> list[Phase]:
        """The phases of a run, in their order."""
        held = _held(module)
        names = self._names(smaller_sizes(module.space.choices, held))
        found, seen = [], dict.fromkeys(names, 0)
        for name, start in zip(names, self._starts(names), strict=True):
            own = [choice.name for choice in module.space.choices if choice.dimension == name]
            opened = {choice: portions(held[choice], names.count(name))[seen[name]] for choice in own}
            seen[name] += 1
            found.append(Phase(name, start, opened))
        return found

    def surgery(self, module: "TrainingModule") -> None:
        phases, held = self.plan(module), _held(module)
        shrinking = {phase.dimension for phase in phases} | set(self.closed)
        for choice in module.space.choices:
            if choice.dimension in shrinking:
                module.policy.restrict(choice.name, held[choice.name][-1:])
        self.act()
        # Fresh weights are not worth sorting; those of an earlier stage are.
        self._open(module, 0.0, {}, sort=module.starts_from is not None)

    def on_epoch(self, module: "TrainingModule", at: Moment) -> bool:
        optimizers: Any = module.optimizers(use_pl_optimizer=False)
        first = optimizers[0] if isinstance(optimizers, list) else optimizers
        self._open(module, at.progress, first.state, sort=True)
        return False

    def _open(self, module: "TrainingModule", part: float, state: Mapping[Any, Any], *, sort: bool) -> None:
        """Let every phase begin that is due at a part of the run."""
        policy = module.policy
        for phase in self.plan(module)[self.opened :]:
            if phase.start > part + 1e-9:
                break
            before = dict(policy.allowed)
            for choice, options in phase.opened.items():
                policy.allow(choice, options)
            if sort:
                for block in narrowing(module.networks, before, policy.allowed):
                    order = by_importance(block.importance(), block.hidden_sizes(before))
                    assert isinstance(block, nn.Module), "blocks of a network are modules"
                    reorder(block, block.hidden_axes(), order, state)
            self.opened += 1
            self.act()

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "opened": self.opened}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.opened = int(state_dict["opened"])


def narrowing(networks: nn.Module, before: Allowed, after: Allowed) -> Iterator[Reorderable]:
    """The blocks of which paths run fewer channels under the options `after` than under those `before`."""
    for block in networks.modules():
        if isinstance(block, Reorderable) and set(block.hidden_sizes(after)) != set(block.hidden_sizes(before)):
            yield block


def _held(module: "TrainingModule") -> Allowed:
    """The options that the networks hold."""
    network = module.networks[0]
    assert isinstance(network, Network)
    return network.allowed
