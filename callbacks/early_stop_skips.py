"""Stop before the search collapses to skip connections: DARTS+ (Liang et al. 2019, criterion 1)."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import pytorch_lightning as pl

from nastricks.derivations import Derivation, Trained
from nastricks.errors import InputError
from nastricks.modules import SupernetModule
from nastricks.modules.measures import strengths_of
from nastricks.modules.trick import Change, Need, Trick
from nastricks.moment import Moment
from nastricks.policies import Policy
from nastricks.spaces import Architecture, Space
from nastricks.spaces.legality import cell_choices, has_skip, skips_of

if TYPE_CHECKING:
    from nastricks.modules import TrainingModule


def count_skips(space: Space, architecture: Architecture, cell: str | None = None) -> int:
    """Skip connections in a cell of an architecture; None is the normal cell where the space names it, else all."""
    return len(skips_of(space, architecture, cell_choices(space, cell)))


class EarlyStopSkips(Trick):
    """Ends the search at the start of an epoch where the architecture that would be derived has too many skips.

    A policy that has not moved since the start of the run, such as during a weight warm-up, does not stop it.

    Args:
        skips: Skip connections at which the search ends, at least 1; 2 in the paper.
        cell: The cell in which they are counted; None is the normal cell where the space names its cells, else the
            whole network.

    Raises:
        InputError: `skips` is below 1.
    """

    changes: ClassVar[Change] = "length of training"
    needs: ClassVar[tuple[Need, ...]] = ("supernet", "policy that learns")
    order: ClassVar[int] = 50  # after what restricts options
    guard: ClassVar[bool] = True

    def __init__(self, skips: int = 2, cell: str | None = None) -> None:
        super().__init__()
        if skips < 1:
            raise InputError(f"early_stop_skips.skips is {skips}: expected at least 1")
        self.skips, self.cell = skips, cell
        self.counted: int | None = None
        self._start: Mapping[str, Mapping[int, float]] = {}

    def refusal(self, module: "TrainingModule") -> str | None:
        reason = super().refusal(module)
        if reason is not None:
            return reason
        assert isinstance(module, SupernetModule), "only supernets have choices"
        if not has_skip(module.space, module.policy.allowed, cell_choices(module.space, self.cell)):
            return f"trick early_stop_skips counts skip connections, and {module.space.name} has no skip"
        derivation = module.derivation
        if derivation.needs_ranking or derivation.needs_network:
            return (
                f"trick early_stop_skips derives an architecture every epoch, and {type(derivation).__name__} measures "
                "networks for that: derive with Argmax or BestEdges"
            )
        return None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        assert isinstance(pl_module, SupernetModule), "others were refused"
        self._start = strengths_of(pl_module.policy)  # a run that goes on gets its checkpoint's policy after this

    def on_epoch(self, module: "TrainingModule", at: Moment) -> bool:
        assert isinstance(module, SupernetModule), "others were refused"
        derived = derived_now(module.derivation, module.space, module.policy)
        if derived is None:
            return False
        self.counted = count_skips(module.space, derived, self.cell)
        self.act()
        return self.counted >= self.skips and strengths_of(module.policy) != self._start

    def first_active_step(self, module: "TrainingModule") -> int:
        return module.steps_per_epoch

    def measured(self) -> str:
        return "no architecture yet" if self.counted is None else f"{self.counted} skip connections"

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "counted": self.counted}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.counted = state_dict["counted"]


def derived_now(derivation: Derivation, space: Space, policy: Policy) -> Architecture | None:
    """The architecture of a derivation that measures no network; None while the rule finds none."""
    try:
        return derivation.derive(Trained(space, policy, dict))
    except InputError:
        return None
