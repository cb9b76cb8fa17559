"""Options with and without weights compete apart, so that skips and pools do not crowd out operations that learn.

After StacNAS (Li et al. 2019, section 3.2: similar operations compete within their group) and PR-DARTS (Zhou et al.
2020, section 4.2: skips are gated apart from parameterised operations).
"""

import torch
from torch import Tensor

from nastricks.policies.alpha import AlphaPolicy
from nastricks.spaces import Choice


class GroupedSoftmax(AlphaPolicy):
    """Two softmaxes a choice, one over the options that learn and one over the others; all options run.

    A group's weights sum to its share of the options, so that a choice's weights sum to one and options of unequal
    groups can be compared: an option is strong if it has more than its equal share of its group.
    """

    def strength(self, choice: Choice, alpha: Tensor) -> Tensor:
        options = self.allowed[choice.name]
        learns = torch.tensor([choice.options[i].learns for i in options], device=alpha.device)
        weights = torch.zeros_like(alpha)
        for group in (learns, ~learns):
            share = float(group.sum()) / len(options)
            weights = weights + share * torch.softmax(alpha.masked_fill(~group, -torch.inf), 0) if share else weights
        return weights
