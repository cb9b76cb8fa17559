"""Policies whose parameters are one number an option, alpha, and whose gates are weighted by a function of it."""

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nastricks.errors import InputError
from nastricks.moment import Moment
from nastricks.policies.base import Policy
from nastricks.rng import generator, inherited_seed
from nastricks.spaces import Allowed, Choice, Gate, Gates, Space


class AlphaPolicy(Policy):
    """One alpha an option; a subclass says how strong the options are, and which gates come of that.

    Args:
        space: The space whose choices are gated.
        init_std: Standard deviation of alpha's normal start around zero, at least 0; the official DARTS code uses 1e-3.
        seed: Key of alpha's start; None takes the run's own.

    Attributes:
        alpha: (options,) for each choice.

    Raises:
        InputError: `init_std` is below 0.
    """

    weighted = True
    mixed = True

    def __init__(self, space: Space, init_std: float = 1e-3, seed: int | None = None) -> None:
        super().__init__(space)
        self.allowed = {c.name: tuple(i for i, o in enumerate(c.options) if o.mixed) for c in space.choices}
        if not 0 <= init_std < float("inf"):
            raise InputError(f"policy.init_std is {init_std}: expected at least 0")
        rng = generator(inherited_seed(seed), "alpha")
        self.alpha = nn.ParameterDict(
            {c.name: nn.Parameter(init_std * torch.randn(len(c.options), generator=rng)) for c in space.choices}
        )

    def derivable_of(self, allowed: Allowed) -> dict[str, tuple[int, ...]]:
        """These, and those that only an architecture can take (`Option.mixed`)."""
        apart = {c.name: tuple(i for i, o in enumerate(c.options) if not o.mixed) for c in self.space.choices}
        return {name: tuple(sorted((*options, *apart[name]))) for name, options in allowed.items()}

    @abstractmethod
    def strength(self, choice: Choice, alpha: Tensor) -> Tensor:
        """How strong each allowed option is (allowed,), without noise, given their alpha (allowed,)."""

    def strengths(self) -> dict[str, Tensor]:
        return {choice.name: self.strength(choice, self.allowed_alpha(choice)) for choice in self.space.choices}

    def propose(self, moment: Moment) -> Sequence[Gates]:
        """One set: all allowed options run, weighted by their strength."""
        return [{name: Gate(self.allowed[name], weights) for name, weights in self.strengths().items()}]

    def allowed_alpha(self, choice: Choice) -> Tensor:
        """Alpha of the allowed options (allowed,)."""
        options, alpha = self.allowed[choice.name], self.alpha[choice.name]
        return alpha if len(options) == len(alpha) else alpha[list(options)]

    def uniforms(self, moment: Moment, purpose: str) -> dict[str, Tensor]:
        """A number (allowed,) in (0, 1) for each allowed option, keyed by the moment, its role and `purpose`."""
        rng = moment.generator(f"{purpose} {moment.role}")
        sizes = [len(self.allowed[choice.name]) for choice in self.space.choices]
        like = next(iter(self.alpha.values()))
        draws = torch.rand(sum(sizes), generator=rng, dtype=torch.float64).clamp_(1e-12, 1 - 1e-12)
        parts = torch.split(draws.to(device=like.device, dtype=torch.promote_types(like.dtype, torch.float32)), sizes)
        return {choice.name: part for choice, part in zip(self.space.choices, parts, strict=True)}
