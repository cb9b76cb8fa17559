"""Gradual elimination: the weakest options of each choice are taken away while the search goes on.

To the k strongest, one after another, as P-DARTS (Chen et al. 2019) does between its stages and CP-NAS (Zhuo et al.
2020) within one search, by a measure of its own. Below a threshold, as in ASAP (Noy et al. 2020) and GOLD-NAS (Bi et
al. 2020), whose thresholds and numbers were not found.
"""

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from nastricks.errors import InputError
from nastricks.modules.measures import strengths_of
from nastricks.modules.trick import Change, Need, Trick
from nastricks.moment import Moment
from nastricks.spaces import Allowed, Network
from nastricks.spaces.legality import first_legal

if TYPE_CHECKING:
    from nastricks.modules import TrainingModule

Strengths = Mapping[str, Mapping[int, float]]
"""How strong each allowed option of each choice is."""


def options_left(part: float, options: int, k: int) -> int:
    """How many of `options` are left at `part` of the schedule, in [0, 1]: from all to `k`, one after another."""
    going = max(0, options - k)
    return options - math.floor(min(1.0, max(0.0, part)) * going + 1e-9)


def prune(
    strengths: Strengths,
    keep: Mapping[str, int],
    legal: Callable[[Allowed], bool],
    below: float = math.inf,
    most: int | None = None,
) -> dict[str, tuple[int, ...]]:
    """The options that stay when the weakest go, the weakest of all choices first; of equals the first goes first.

    Args:
        strengths: Of the options that are there.
        keep: How many of each choice stay at least.
        legal: Whether an architecture is left of some options; an option without which there is none stays.
        below: Only options weaker than this go.
        most: How many options go at most; None sets no limit.
    """
    left = {name: tuple(own) for name, own in strengths.items()}
    weakest = sorted((value, name, index) for name, own in strengths.items() for index, value in own.items())
    gone = 0
    for value, name, index in weakest:
        if value >= below or gone == most:
            break
        rest = tuple(i for i in left[name] if i != index)
        if len(rest) >= keep[name] and legal({**left, name: rest}):
            left[name] = rest
            gone += 1
    return left


class OpPruning(Trick):
    """Takes the weakest options of each choice away at the start of epochs.

    Args:
        rule: "top_k" keeps the strongest of each choice, first all of them and in the end `k`; "threshold" takes away
            what is weaker than `threshold`.
        k: Options of a choice that are left in the end, at least 1; None is 1. For "top_k".
        threshold: Strength below which options go, in (0, 1); None is 0.01. For "threshold".
        most: Most options that go at the start of an epoch, over all choices, at least 1; None sets no limit. For
            "threshold".
        start: Part of the run from which on options go, in [0, 1).
        end: Part of the run up to which options go, above `start`, at most 1; "top_k" has come to `k` there, or at the
            start of the last epoch.

    Raises:
        InputError: a value is out of its range, or of the other rule.
    """

    changes: ClassVar[Change] = "options"
    needs: ClassVar[tuple[Need, ...]] = ("supernet", "policy that learns")

    def __init__(
        self,
        rule: Literal["top_k", "threshold"] = "top_k",
        k: int | None = None,
        threshold: float | None = None,
        most: int | None = None,
        start: float = 0.0,
        end: float = 1.0,
    ) -> None:
        super().__init__()
        if rule not in ("top_k", "threshold"):
            raise InputError(f"op_pruning.rule is {rule!r}: expected 'top_k' or 'threshold'")
        foreign = {"threshold": threshold, "most": most} if rule == "top_k" else {"k": k}
        for name, value in foreign.items():
            if value is not None:
                raise InputError(f"op_pruning.{name} is {value}, which the rule {rule!r} does not read: leave it out")
        if k is not None and k < 1:
            raise InputError(f"op_pruning.k is {k}: expected at least 1")
        if threshold is not None and not 0 < threshold < 1:
            raise InputError(f"op_pruning.threshold is {threshold}: expected a number in (0, 1)")
        if most is not None and most < 1:
            raise InputError(f"op_pruning.most is {most}: expected at least 1, or null")
        if not 0 <= start < end <= 1:
            raise InputError(f"op_pruning.start is {start} and end {end}: expected 0 <= start < end <= 1")
        self.rule, self.start, self.end = rule, start, end
        self.k = 1 if k is None else k
        self.threshold = 0.01 if threshold is None else threshold
        self.most = most
        # A threshold waits for options to become weak: it is alive where it looks for them.
        self.guard = rule == "threshold"  # type: ignore[misc]
        self._seen = "nothing yet"

    def refusal(self, module: "TrainingModule") -> str | None:
        reason = super().refusal(module)
        if reason is not None:
            return reason
        if not strengths_of(module.policy):
            return (
                f"trick op_pruning goes by the strengths of options, and {type(module.policy).__name__} has none: use "
                "another algorithm"
            )
        if self.rule == "top_k" and all(len(options) <= self.k for options in module.policy.allowed.values()):
            return f"op_pruning.k is {self.k}, and no choice of {module.space.name} has more options: prune to fewer"
        epochs = module.trainer.max_epochs
        if epochs is not None and epochs > 0 and self.start > _last(epochs):
            return (
                f"op_pruning.start is {self.start}, and the last of {epochs} epochs begins at {_last(epochs):.3g} of "
                "the run: start earlier"
            )
        return None

    def on_epoch(self, module: "TrainingModule", at: Moment) -> bool:
        if not self.start - 1e-9 <= at.progress <= self._end(at.epochs) + 1e-9:
            return False
        policy = module.policy
        strengths = strengths_of(policy)
        left = prune(
            strengths,
            self._keep(module, at),
            lambda allowed: first_legal(module.space, policy.derivable_of(allowed)) is not None,
            self.threshold if self.rule == "threshold" else math.inf,
            self.most,
        )
        gone = sum(len(own) - len(left[name]) for name, own in strengths.items())
        for name, options in left.items():
            if len(options) < len(strengths[name]):
                policy.restrict(name, options)
        if gone or self.guard:
            self.act()
        self._seen = f"{gone} options " + (f"below {self.threshold:.3g}" if self.guard else "too many")
        return False

    def _keep(self, module: "TrainingModule", at: Moment) -> dict[str, int]:
        """How many options of each choice stay at least."""
        held = _held(module)
        if self.rule == "threshold":
            return dict.fromkeys(module.policy.allowed, 1)
        return {name: options_left(self._part(at.progress, at.epochs), len(held[name]), self.k) for name in held}

    def _part(self, progress: float, epochs: float) -> float:
        """Part of the schedule at a part of the run; it is over where no epoch begins any more."""
        length = self._end(epochs) - self.start
        return 1.0 if length <= 1e-9 else (progress - self.start) / length

    def _end(self, epochs: float) -> float:
        return min(self.end, max(self.start, _last(epochs)))

    def first_active_step(self, module: "TrainingModule") -> int:
        """The start of the first epoch at which an option goes; with a threshold, at which one may go."""
        most = max(len(options) for options in _held(module).values())
        for epoch in range(1, math.ceil(module.epochs)):
            progress = epoch / module.epochs
            goes = self.rule == "threshold" or options_left(self._part(progress, module.epochs), most, self.k) < most
            if progress >= self.start - 1e-9 and goes:
                return epoch * module.steps_per_epoch
        return module.steps_per_epoch

    def measured(self) -> str:
        return self._seen

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "seen": self._seen}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._seen = str(state_dict["seen"])


def _held(module: "TrainingModule") -> dict[str, tuple[int, ...]]:
    """The options that the run started with: those that its network holds."""
    network = module.networks[0]
    assert isinstance(network, Network)
    return network.allowed


def _last(epochs: float) -> float:
    """The part of a run at which its last epoch begins."""
    return (math.ceil(epochs) - 1) / epochs
