"""Path dropout of one-shot models: whole paths are left out for a batch, so that the others do without them.

Bender et al. 2018, "Understanding and Simplifying One-Shot Architecture Search", section 3.2: a path into a node is
dropped with rate r^(1/k), k being the number of paths into it, so that all of them would go at rate r whatever k is; r
rises linearly over the run.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import torch

from nastricks.errors import InputError
from nastricks.modules.trick import Change, Need, Trick
from nastricks.moment import Moment
from nastricks.spaces import Gate, Gates, Space

if TYPE_CHECKING:
    from nastricks.modules import TrainingModule


def stays(paths: int, rate: float, rng: torch.Generator) -> list[bool]:
    """Which of k `paths` stay: each is dropped at rate^(1/k) on its own, given that not all of them are.

    So a path stays with probability (1 - rate^(1/k)) / (1 - rate).

    Args:
        paths: k, at least 1.
        rate: In [0, 1): of dropping all of them, were that allowed.
        rng: One number a path is drawn from it.
    """
    dropped = rate ** (1 / paths)
    kept: list[bool] = []
    for place, draw in enumerate(torch.rand(paths, generator=rng, dtype=torch.float64).tolist()):
        # Given that none has stayed so far, one of this and the later ones must: 1 - dropped^(how many are left).
        given = 1.0 if any(kept) else 1.0 - dropped ** (paths - place)
        kept.append(draw * given < 1.0 - dropped)
    return kept


def thinned(gates: Gates, kept: Mapping[str, Sequence[bool]]) -> dict[str, Gate]:
    """The gates of the choices into one node without the paths that are dropped.

    Where all gates have weights, those that stay are scaled so that the node's sum of weights, each times its edge's
    own, is what it was; paths without weights are added up as before.

    Args:
        gates: At least those of the choices that `kept` names.
        kept: For each choice, which of its active options stay.
    """
    scale: torch.Tensor | None = None
    if all(gates[name].weights is not None for name in kept):
        weights = [gates[name].scaled().weights for name in kept]  # an edge's own weight counts [PC-DARTS]
        pairs = [(w, _places(kept[name])) for name, w in zip(kept, weights, strict=True) if w is not None]
        left = torch.stack([w[places].sum(0) for w, places in pairs]).sum(0)
        scale = torch.stack([w.sum(0) for w, _ in pairs]).sum(0) / left
    return {name: _without(gates[name], _places(kept[name]), scale) for name in kept}


def _without(gate: Gate, places: list[int], scale: torch.Tensor | None) -> Gate:
    if len(places) == len(gate.active) and scale is None:
        return gate
    active = tuple(gate.active[place] for place in places)
    weights = gate.weights if gate.weights is None or not places else gate.weights[places]
    if weights is not None and scale is not None:
        weights = weights * scale
    if active:
        return replace(gate, active=active, weights=weights)
    # Nothing of this choice runs: another one into the node does. Its input passes with weight 0.
    device = None if gate.weights is None else gate.weights.device
    bypass = torch.zeros((), device=device) if gate.bypass is None else gate.bypass
    return replace(gate, active=(), weights=None, bypass=bypass)


def _places(kept: Sequence[bool]) -> list[int]:
    return [place for place, stay in enumerate(kept) if stay]


def nodes_of(space: Space) -> list[list[str]]:
    """The choices of a space by the node that they lead into; a choice without one is its own."""
    nodes: dict[str, list[str]] = {}
    for choice in space.choices:
        nodes.setdefault(f"choice {choice.name}" if choice.node is None else f"node {choice.node}", []).append(
            choice.name
        )
    return list(nodes.values())


class PathDropout(Trick):
    """Leaves paths out of the weights' passes, for a whole batch at a time; what is dropped does not run.

    Args:
        rate: r at the end of the run, in [0, 1); it rises from 0 along a line.

    Raises:
        InputError: `rate` is out of its range.
    """

    changes: ClassVar[Change] = "gates"
    needs: ClassVar[tuple[Need, ...]] = ("mixture of options",)
    order = 5  # first: what is shifted, bypassed or dropped for single samples afterwards is what runs
    neutral = {"rate": 0.0}

    def __init__(self, rate: float = 0.5) -> None:
        super().__init__()
        if not 0 <= rate < 1:
            raise InputError(f"path_dropout.rate is {rate}: expected a number in [0, 1), such as 0.5")
        self.rate = rate
        self._nodes: list[list[str]] = []
        self._absent: dict[str, frozenset[int]] = {}

    def refusal(self, module: "TrainingModule") -> str | None:
        self._nodes = nodes_of(module.space)
        self._absent = {c.name: frozenset(i for i, o in enumerate(c.options) if o.absent) for c in module.space.choices}
        return super().refusal(module)

    def on_gates(self, gates: Gates, at: Moment) -> Gates:
        rate = self.rate * at.progress
        if at.role != "weights" or rate == 0.0:
            return gates
        rng = at.generator("path_dropout")
        made = dict(gates)
        for names in self._nodes:
            paths = sum(self._is_path(name, index) for name in names for index in gates[name].active)
            if paths < 2:
                continue
            drawn = iter(stays(paths, rate, rng))
            # No connection is no path: it stays, and costs nothing.
            kept = {n: [not self._is_path(n, i) or next(drawn) for i in gates[n].active] for n in names}
            if not all(stay for own in kept.values() for stay in own):
                made.update(thinned(gates, kept))
        if all(made[name] is gate for name, gate in gates.items()):
            return gates
        self.act()
        return made

    def _is_path(self, name: str, index: int) -> bool:
        return index not in self._absent[name]

    def first_active_step(self, module: "TrainingModule") -> int:
        """The last step, where the ramp is highest."""
        return max(1, round(module.epochs * module.steps_per_epoch) - 1)
