"""Stop where the operations that learn have found their order: DARTS+ (Liang et al. 2019, criterion 1*)."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from nastricks.errors import InputError
from nastricks.modules.measures import strengths_of
from nastricks.modules.trick import Change, Need, Trick
from nastricks.moment import Moment
from nastricks.spaces import Space

if TYPE_CHECKING:
    from nastricks.modules import TrainingModule

Strengths = dict[str, dict[int, float]]
"""How strong each option that learns is, for choices with several of them."""


def learnable(space: Space, strengths: Mapping[str, Mapping[int, float]]) -> Strengths:
    """The strengths of options that learn, of choices that have two or more of them."""
    found: Strengths = {}
    for choice in space.choices:
        own = {index: value for index, value in strengths[choice.name].items() if choice.options[index].learns}
        if len(own) > 1:
            found[choice.name] = own
    return found


def ranking(strengths: Strengths) -> dict[str, list[int]]:
    """The options of each choice from the strongest to the weakest; of equals the first stands first."""
    return {name: sorted(own, key=lambda index, own=own: -own[index]) for name, own in strengths.items()}  # type: ignore[misc]


def stable_epochs(before: Strengths, now: Strengths, stable: int) -> int:
    """For how many epochs the ranking has been the same, given that it was for `stable` at the epoch before.

    An epoch in which no strength moved says nothing, so that a frozen policy is not taken for a settled one: 0.
    """
    return stable + 1 if ranking(before) == ranking(now) and before != now else 0


class EarlyStopRanking(Trick):
    """Ends the search where the ranking of the options that learn was the same over some epochs, in every choice.

    Rankings are compared at the starts of epochs; one in which the policy is frozen starts the count anew.

    Args:
        epochs: Epochs over which the ranking is the same, at least 1; 10 in the paper.

    Raises:
        InputError: `epochs` is below 1.
    """

    changes: ClassVar[Change] = "length of training"
    needs: ClassVar[tuple[Need, ...]] = ("supernet", "policy that learns")
    order: ClassVar[int] = 50  # after what restricts options
    guard: ClassVar[bool] = True

    def __init__(self, epochs: int = 10) -> None:
        super().__init__()
        if epochs < 1:
            raise InputError(f"early_stop_ranking.epochs is {epochs}: expected at least 1")
        self.epochs = epochs
        self.stable = 0
        self._before: Strengths = {}

    def refusal(self, module: "TrainingModule") -> str | None:
        reason = super().refusal(module)
        if reason is not None:
            return reason
        strengths = strengths_of(module.policy)
        if not strengths:
            return (
                f"trick early_stop_ranking ranks options by strength, and {type(module.policy).__name__} has none: use "
                "another algorithm"
            )
        if not learnable(module.space, strengths):
            return f"trick early_stop_ranking ranks options that learn, and no choice of {module.space.name} has two"
        return None

    def on_epoch(self, module: "TrainingModule", at: Moment) -> bool:
        now = learnable(module.space, strengths_of(module.policy))
        self.stable = stable_epochs(self._before, now, self.stable)
        self._before = now
        self.act()
        return self.stable >= self.epochs

    def first_active_step(self, module: "TrainingModule") -> int:
        return module.steps_per_epoch

    def measured(self) -> str:
        return f"a ranking that is stable for {self.stable} epochs"

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "stable": self.stable, "before": self._before}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.stable, self._before = state_dict["stable"], state_dict["before"]
