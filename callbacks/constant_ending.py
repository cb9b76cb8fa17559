"""The learning rate falls exponentially, and is constant at the end.

BigNAS (Yu et al. 2020, 2003.11142, section 3.1): from 5 % of the first rate on it falls no further, so that small
children, which converge late, go on learning.
"""

from typing import TYPE_CHECKING, ClassVar

from nastricks.errors import InputError
from nastricks.modules.trick import Change, Trick
from nastricks.moment import Moment

if TYPE_CHECKING:
    from nastricks.modules import TrainingModule


def falling(part: float, ending: float, start: float) -> float:
    """The factor of the rate at `part` of the run: exponentially from 1 to `ending` at `start`, and constant then."""
    return ending ** min(1.0, part / start)


class ConstantEnding(Trick):
    """Replaces the schedule of the weights' learning rate by an exponential decay with a constant end.

    Args:
        ending: The part of the first rate at which it stays, in (0, 1).
        start: The part of the run at which it gets there, in (0, 1).

    Raises:
        InputError: a value is out of its range.
    """

    changes: ClassVar[Change] = "learning rate"

    def __init__(self, ending: float = 0.05, start: float = 0.67) -> None:
        super().__init__()
        if not 0 < ending < 1:
            raise InputError(f"constant_ending.ending is {ending}: expected a number in (0, 1), such as 0.05")
        if not 0 < start < 1:
            raise InputError(f"constant_ending.start is {start}: expected a part of the run in (0, 1), such as 0.67")
        self.ending, self.start = ending, start

    def refusal(self, module: "TrainingModule") -> str | None:
        others = [t.name for t in module.trainer.callbacks if isinstance(t, Trick)]  # type: ignore[attr-defined]
        if "sgdr" in others:
            return "tricks constant_ending and sgdr both set the learning rate: leave one of them out"
        return super().refusal(module)

    def on_learning_rate(self, rate: float, base: float, at: Moment) -> float:
        self.act()
        return base * falling(at.progress, self.ending, self.start)

    def first_active_step(self, module: "TrainingModule") -> int:
        """The second step: at the first one the rate is the optimizer's own."""
        return 1
