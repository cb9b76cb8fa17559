"""Policies without parameters that remember what earlier paths earned, and prefer what earned more."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from nastricks.policies.uniform import UniformPath
from nastricks.spaces import Architecture


class RewardedPolicy(UniformPath):
    """One path a step, drawn by what was earned before; the estimator `LossReward` tells what a path earned.

    While nothing was earned, its paths are those of `UniformPath`.
    """

    keepable: ClassVar[bool] = False

    @property
    def learns(self) -> bool:
        """It does, without parameters."""
        return True

    @abstractmethod
    def observe(self, architecture: Architecture, reward: float) -> None:
        """Remember what a path earned; rewards are around 1, higher is better."""

    def odds(self, prefix: Architecture) -> Mapping[int, float]:
        """The options that may come after `prefix`, each with how likely it is, up to a common factor.

        Raises:
            InputError: no option is both legal and allowed.
        """
        return self._odds(prefix)

    def uniform_odds(self, prefix: Architecture) -> Mapping[int, float]:
        """As `odds`, every architecture alike."""
        return super()._odds(prefix)

    @abstractmethod
    def recall(self, memory: Mapping[str, Tensor]) -> None:
        """Take on what `memory` gave."""

    def get_extra_state(self) -> dict[str, Any]:
        return {"allowed": super().get_extra_state(), "memory": self.memory()}

    def set_extra_state(self, state: Any) -> None:
        super().set_extra_state(state["allowed"])
        self.recall(state["memory"])
