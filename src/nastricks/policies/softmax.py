"""Mixed operations weighted by a softmax over alpha: DARTS (Liu et al. 2019, equation 2)."""

import torch
from torch import Tensor

from nastricks.policies.alpha import AlphaPolicy
from nastricks.spaces import Architecture, Choice


class Softmax(AlphaPolicy):
    """All allowed options of a choice run, weighted by softmax(alpha)."""

    def strength(self, choice: Choice, alpha: Tensor) -> Tensor:
        return torch.softmax(alpha, dim=0)

    def log_prob(self, architecture: Architecture) -> Tensor:
        """Log-probability of drawing each choice from its softmax."""
        terms = []
        for choice, index in zip(self.space.choices, architecture, strict=True):
            options = self.allowed[choice.name]
            if index not in options:
                return torch.tensor(-torch.inf)
            terms.append(torch.log_softmax(self.allowed_alpha(choice), dim=0)[options.index(index)])
        return torch.stack(terms).sum()
