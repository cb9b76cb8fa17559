"""Space pruning: while a supernet trains, the children that rank worst are dropped, part after part.

Paper: Zhang et al. 2020, "Deeper Insights into Weight Sharing in Neural Architecture Search" (2001.01431), which prunes
children by their ranking under shared weights and trains on with those that are left. What part goes how often is a
setting here; pruning by chance and by a table of truth stand beside it, to tell what the ranking adds.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

import torch

from nastricks.errors import InputError
from nastricks.modules.trick import Calibration, Change, Need, Trick
from nastricks.moment import Moment
from nastricks.ranking.rank import find_table, scored
from nastricks.ranking.tables import Table
from nastricks.spaces import Architecture

if TYPE_CHECKING:
    from nastricks.modules import TrainingModule

RULES = ("accuracy", "loss", "chance", "truth")


def best_part(values: Mapping[Architecture, float], part: float, least: int) -> list[Architecture]:
    """What stays when the lowest `part` of the architectures goes, at least `least` of them.

    Values are the higher the better; of equals the first in lexicographic order stays. At least one goes where more
    than `least` are there.
    """
    stay = max(least, min(len(values) - 1, math.ceil(len(values) * (1 - part) - 1e-9)))
    return sorted(sorted(values, key=lambda architecture: (-values[architecture], architecture))[:stay])


class SpacePruning(Trick):
    """Ranks the children that are left every so many epochs, and drops the worst part of them for the rest of the run.

    Children are scored on the validation split as they are after training, with the calibration of the run's other
    tricks. Those dropped are neither trained nor derived any more.

    Args:
        epochs: How many epochs lie between two prunings, at least 1.
        part: What part of the children goes each time, in (0, 1).
        least: How many stay at least, 1 or more.
        first: The epoch, counted from 0, before which the first pruning comes, at least 1; None for `epochs`.
        by: ``accuracy`` or ``loss`` of the children under shared weights, ``chance`` (a keyed draw), or ``truth``.
        table: Ground truth for ``truth``; None takes the one shipped for the space and data.

    Raises:
        InputError: a value outside its range, or a table that the rule does not read.
    """

    changes: ClassVar[Change] = "options"
    needs: ClassVar[tuple[Need, ...]] = ("supernet",)

    def __init__(
        self,
        epochs: int = 20,
        part: float = 0.5,
        least: int = 4,
        first: int | None = None,
        by: Literal["accuracy", "loss", "chance", "truth"] = "accuracy",
        table: str | None = None,
    ) -> None:
        super().__init__()
        for name, value in {"epochs": epochs, "least": least, "first": first}.items():
            if value is not None and value < 1:
                raise InputError(f"space_pruning.{name} is {value}: expected at least 1")
        if not 0 < part < 1:
            raise InputError(f"space_pruning.part is {part}: expected a number in (0, 1), such as 0.5")
        if by not in RULES:
            raise InputError(f"space_pruning.by is {by!r}: expected one of {', '.join(RULES)}")
        if table is not None and by != "truth":
            raise InputError(f"space_pruning.table is {table}, which pruning by {by} does not read: leave it out")
        self.epochs, self.part, self.least, self.by, self.table = epochs, part, least, by, table
        self.first = epochs if first is None else first

    def refusal(self, module: "TrainingModule") -> str | None:
        reason = super().refusal(module)
        if reason is not None:
            return reason
        if not module.policy.keepable:
            return (
                f"trick {self.name} leaves a list of architectures, and {type(module.policy).__name__} cannot keep to "
                "one: use UniformPath or Sweep"
            )
        tricks = [t for t in module.trainer.callbacks if isinstance(t, Trick) and t is not self]  # type: ignore[attr-defined]
        other = next((t.name for t in tricks if t.changes == "options"), None)
        if other is not None:
            return f"tricks {self.name} and {other} both say which architectures are left: leave one of them out"
        epochs = module.trainer.max_epochs
        if epochs is not None and 0 < epochs <= self.first:
            return (
                f"{self.name}.first is {self.first}, and the last of {epochs} epochs is number {epochs - 1}: prune "
                "earlier, or train longer"
            )
        try:
            children = module.space.within(module.policy.allowed)
            if self.by == "truth":
                self._truth(module).require(_names(module, children))
        except InputError as error:
            return f"trick {self.name} cannot rank the children: {error}"
        if len(children) <= self.least:
            return f"{self.name}.least is {self.least}, and there are {len(children)} children: keep fewer"
        return None

    def on_epoch(self, module: "TrainingModule", at: Moment) -> bool:
        epoch = at.step // at.steps_per_epoch
        if epoch < self.first or (epoch - self.first) % self.epochs:
            return False
        left = self._left(module)
        if len(left) > self.least:
            module.policy.keep(best_part(self._values(module, left, at), self.part, self.least))
            self.act()
            module.note({"space_pruning/children": float(len(self._left(module)))})
        return False

    def first_active_step(self, module: "TrainingModule") -> int:
        return self.first * module.steps_per_epoch

    def _left(self, module: "TrainingModule") -> Sequence[Architecture]:
        kept = module.policy.kept
        return module.space.within(module.policy.allowed) if kept is None else kept

    def _values(
        self, module: "TrainingModule", children: Sequence[Architecture], at: Moment
    ) -> dict[Architecture, float]:
        if self.by == "chance":
            order = torch.randperm(len(children), generator=at.generator(self.name)).tolist()
            return {child: float(place) for child, place in zip(children, order, strict=True)}
        if self.by == "truth":
            return dict(zip(children, self._truth(module).truth(_names(module, children)).tolist(), strict=True))
        scores = scored(module, module.trainer.datamodule, children, _calibration(module))  # type: ignore[attr-defined]
        return {child: scores[child].accuracy if self.by == "accuracy" else -scores[child].loss for child in children}

    def _truth(self, module: "TrainingModule") -> Table:
        data = module.trainer.datamodule  # type: ignore[attr-defined]
        found = find_table(module.space, data, self.table)
        if found is None:
            raise InputError(f"no table ships for {module.space.name} on {data.name}: name one as {self.name}.table")
        return found


def _names(module: "TrainingModule", children: Sequence[Architecture]) -> list[str]:
    """How a table calls them: one that counts each network once has the canonical spellings."""
    return [module.space.format(module.space.counted(child)) for child in children]


def _calibration(module: "TrainingModule") -> Calibration | None:
    """What the other tricks of the run ask for."""
    return next((found for t in module.points.tricks if (found := t.calibration()) is not None), None)
