"""Mixed operations weighted by a softmax over alpha: DARTS (Liu et al. 2019, equation 2)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nastricks.errors import InputError
from nastricks.moment import Moment
from nastricks.policies.base import Policy
from nastricks.rng import generator
from nastricks.spaces import Architecture, Gate, Gates, Space


class Softmax(Policy):
    """All allowed options of a choice run, weighted by softmax(alpha).

    Args:
        space: The space whose choices are gated.
        init_std: Standard deviation of alpha's start, which is keyed by `seed`; the official code uses 1e-3.
        seed: Key of alpha's start.
    """

    def __init__(self, space: Space, init_std: float = 1e-3, seed: int = 0) -> None:
        super().__init__(space)
        if init_std < 0:
            raise InputError(f"policy.init_std is {init_std}: expected at least 0")
        rng = generator(seed, "alpha")
        self.alpha = nn.ParameterDict(
            {c.name: nn.Parameter(init_std * torch.randn(len(c.options), generator=rng)) for c in space.choices}
        )

    def propose(self, moment: Moment) -> Sequence[Gates]:
        gates: dict[str, Gate] = {}
        for choice in self.space.choices:
            options = self.allowed[choice.name]
            gates[choice.name] = Gate(active=options, weights=self._log_weights(choice.name).exp())
        return [gates]

    def log_prob(self, architecture: Architecture) -> Tensor:
        """Log-probability of drawing each choice from its softmax."""
        terms = []
        for choice, index in zip(self.space.choices, architecture, strict=True):
            options = self.allowed[choice.name]
            if index not in options:
                return torch.tensor(-torch.inf)
            terms.append(self._log_weights(choice.name)[options.index(index)])
        return torch.stack(terms).sum()

    def preferences(self) -> dict[str, Tensor]:
        scores: dict[str, Tensor] = {}
        for choice in self.space.choices:
            full = torch.full((len(choice.options),), -torch.inf)
            full[list(self.allowed[choice.name])] = self._log_weights(choice.name).detach().cpu().exp()
            scores[choice.name] = full
        return scores

    def _log_weights(self, choice: str) -> Tensor:
        """Log of the softmax over the allowed options, (allowed,)."""
        options, alpha = self.allowed[choice], self.alpha[choice]
        return torch.log_softmax(alpha if len(options) == len(alpha) else alpha[list(options)], dim=0)
