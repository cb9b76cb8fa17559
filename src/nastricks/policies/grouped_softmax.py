"""Options with and without weights compete apart, so that skips and pools do not crowd out operations that learn.

After StacNAS (Li et al. 2019, section 3.2: similar operations compete within their group) and PR-DARTS (Zhou et al.
2020, section 4.2: skips are gated apart from parameterised operations).
"""

import torch
from torch import Tensor

from nastricks.errors import InputError
from nastricks.policies.alpha import AlphaPolicy
from nastricks.spaces import Choice, Space


class GroupedSoftmax(AlphaPolicy):
    """Two softmaxes a choice, one over the options that learn and one over the others; all options run.

    A group's weights sum to its share of the options, so that a choice's weights sum to one and options of unequal
    groups can be compared: an option is strong if it has more than its equal share of its group.

    Args:
        space: The space whose choices are gated.
        init_std: Standard deviation of alpha's normal start around zero, at least 0.
        seed: Key of alpha's start; None takes the run's own.

    Raises:
        InputError: a choice has one option with weights and one without, whose alpha could never learn.
    """

    def __init__(self, space: Space, init_std: float = 1e-3, seed: int | None = None) -> None:
        super().__init__(space, init_std, seed)
        for choice in space.choices:
            options = self.allowed[choice.name]
            if len(options) == 2 and len({choice.options[i].learns for i in options}) == 2:
                with_weights, without = sorted(options, key=lambda i: not choice.options[i].learns)
                raise InputError(
                    f"policy GroupedSoftmax lets options with weights and those without compete apart, and "
                    f"{choice.name} of {space.name} has one of each ({choice.options[with_weights].name}, "
                    f"{choice.options[without].name}), so that nothing competes: use Softmax"
                )

    def strength(self, choice: Choice, alpha: Tensor) -> Tensor:
        options = self.allowed[choice.name]
        learns = torch.tensor([choice.options[i].learns for i in options], device=alpha.device)
        weights = torch.zeros_like(alpha)
        for group in (learns, ~learns):
            share = float(group.sum()) / len(options)
            weights = weights + share * torch.softmax(alpha.masked_fill(~group, -torch.inf), 0) if share else weights
        return weights
