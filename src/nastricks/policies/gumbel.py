"""Relaxed samples of one option a choice: softmax((log p + Gumbel noise) / temperature), soft or hard.

The concrete distribution (Maddison et al. 2017; Jang et al. 2017) in architecture search: SNAS (Xie et al. 2019,
equation 5), FBNet (Wu et al. 2019, equation 8), GDAS (Dong & Yang 2019, equations 5 to 7).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from nastricks.moment import Moment
from nastricks.policies.softmax import Softmax
from nastricks.policies.temperature import LinearTemperature, Temperature
from nastricks.spaces import Gate, Gates, Space


class GumbelSoftmax(Softmax):
    """All allowed options run, weighted by one relaxed sample a choice; the policy's and the weights' pass draw apart.

    Args:
        space: The space whose choices are gated.
        temperature: Of the relaxation; None falls from 10 to 0.1 along a line.
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
        self.temperature = temperature or LinearTemperature()

    def relaxed(self, moment: Moment) -> dict[str, Tensor]:
        """A relaxed sample (allowed,) of each choice."""
        temperature, draws = self.temperature.at(moment), self.uniforms(moment, "gumbel")
        samples: dict[str, Tensor] = {}
        for choice in self.space.choices:
            noise = -torch.log(-torch.log(draws[choice.name]))
            logits = torch.log_softmax(self.allowed_alpha(choice), dim=0) + noise
            samples[choice.name] = torch.softmax(logits / temperature, dim=0)
        return samples

    def propose(self, moment: Moment) -> Sequence[Gates]:
        return [{name: Gate(self.allowed[name], sample) for name, sample in self.relaxed(moment).items()}]


class GumbelHard(GumbelSoftmax):
    """Only the option with the largest relaxed sample runs, weighted 1, with the relaxed sample's gradient.

    The straight-through estimator of GDAS. The options that do not run get no gradient of their own, only through the
    softmax: what their outputs would have said is not known. (The released code adds the other gates' zeros to the
    output as numbers, which gives each of them the summed gradient of the output; that is not in the paper.)
    """

    mixed = False

    def propose(self, moment: Moment) -> Sequence[Gates]:
        samples = self.relaxed(moment)
        # One transfer for all choices: the host must know which option runs.
        picked = torch.stack([sample.detach().argmax() for sample in samples.values()]).tolist()
        gates: dict[str, Gate] = {}
        for (name, sample), place in zip(samples.items(), picked, strict=True):
            chosen = sample[place : place + 1]
            gates[name] = Gate((self.allowed[name][place],), 1 + (chosen - chosen.detach()))
        return [gates]
