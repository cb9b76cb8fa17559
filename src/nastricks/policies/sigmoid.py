"""Gates that do not compete: a sigmoid an option (FairDARTS, Chu et al. 2020, section 4.1), with or without noise."""

from collections.abc import Sequence

import torch
from torch import Tensor

from nastricks.moment import Moment
from nastricks.policies.alpha import AlphaPolicy
from nastricks.policies.temperature import ConstantTemperature, Temperature
from nastricks.spaces import Choice, Gate, Gates, Space


class Sigmoid(AlphaPolicy):
    """All allowed options of a choice run, each weighted by sigmoid(alpha) on its own."""

    def strength(self, choice: Choice, alpha: Tensor) -> Tensor:
        return torch.sigmoid(alpha)


class BinaryConcrete(Sigmoid):
    """Sigmoid gates with logistic noise, one draw an option: sigmoid((alpha + log u - log(1 - u)) / temperature).

    The binary concrete relaxation of independent on/off variables whose probabilities are sigmoid(alpha) (Maddison et
    al. 2017, appendix B; Louizos et al. 2018, equation 10).

    Args:
        space: The space whose choices are gated.
        temperature: Of the relaxation; None is 1 throughout.
        init_std: Standard deviation of alpha's normal start around zero, at least 0.
        seed: Key of alpha's start; None takes the run's own.
    """

    def __init__(
        self,
        space: Space,
        temperature: Temperature | None = None,
        init_std: float = 1e-3,
        seed: int | None = None,
    ) -> None:
        super().__init__(space, init_std, seed)
        self.temperature = temperature or ConstantTemperature()

    def propose(self, moment: Moment) -> Sequence[Gates]:
        temperature, draws = self.temperature.at(moment), self.uniforms(moment, "logistic")
        gates: dict[str, Gate] = {}
        for choice in self.space.choices:
            noisy = self.allowed_alpha(choice) + torch.logit(draws[choice.name])
            gates[choice.name] = Gate(self.allowed[choice.name], torch.sigmoid(noisy / temperature))
        return [gates]
