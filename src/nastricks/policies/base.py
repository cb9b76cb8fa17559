"""How gates are proposed (DESIGN idea 2): a policy owns its parameters and the mask of allowed options."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from nastricks.errors import InputError
from nastricks.moment import Moment
from nastricks.spaces import Allowed, Architecture, Gates, Space


class Policy(nn.Module, ABC):
    """Proposes sets of gates for a step.

    The mask of allowed options (`allowed`) is part of the checkpoint; proposing, log-probabilities and derivation
    obey it [pruning, shrinking, few-shot, DARTS-PT]. It lives on the host, so that reading it waits for no device.

    Args:
        space: The space whose choices are gated.

    Attributes:
        weighted: Whether the gates that it proposes for its own learning carry weights that are differentiable in its
            parameters.
        mixed: Whether several options run at once, by weight, when the network's weights learn.
        largest_first: Whether a step has several paths, of which the first is the largest child [sandwich rule].
        keepable: Whether it can keep to a list of architectures [pruned spaces].
        kept: The architectures that are left of those with allowed options, in lexicographic order; None for all. It is
            a part of the mask: checkpointed, and obeyed by proposing, log-probability and derivation.
    """

    weighted: ClassVar[bool] = False
    keepable: ClassVar[bool] = False
    mixed: bool = False
    largest_first: bool = False

    def __init__(self, space: Space) -> None:
        super().__init__()
        self.space = space
        self.options_of = {choice.name: choice.options for choice in space.choices}
        self.allowed: dict[str, tuple[int, ...]] = space.all_options()
        self.kept: tuple[Architecture, ...] | None = None
        self._kept_known: tuple[object, frozenset[Architecture]] = (None, frozenset())

    @property
    def derivable(self) -> dict[str, tuple[int, ...]]:
        """The options that an architecture may take at the end."""
        return self.derivable_of(self.allowed)

    def derivable_of(self, allowed: Allowed) -> dict[str, tuple[int, ...]]:
        """The options that an architecture may take at the end where these are allowed: just these."""
        return {name: tuple(options) for name, options in allowed.items()}

    @property
    def learns(self) -> bool:
        """Whether there is anything for an estimator to update."""
        return any(p.requires_grad for p in self.parameters())

    @abstractmethod
    def propose(self, moment: Moment) -> Sequence[Gates]:
        """The sets of gates of one step; their gradients are added up before the weights move.

        One set for SPOS and DARTS, several for FairNAS and the sandwich rule (largest first). Draw from
        ``moment.generator(purpose)`` alone.
        """

    def check(self) -> None:
        """Refuse a space whose choices this policy cannot gate.

        Raises:
            InputError: it weighs options, and a choice is a size, of which a network has one at a time.
        """
        size = next((choice.name for choice in self.space.choices if choice.kind == "nested"), None)
        if size is not None and (self.mixed or self.weighted):
            raise InputError(
                f"policy {type(self).__name__} weighs options, and {size} of {self.space.name} is a size, of which a "
                "network has one at a time: use a policy that runs one option a choice, such as UniformPath or Sandwich"
            )

    def log_prob(self, architecture: Architecture) -> Tensor:
        """Log-probability () of an architecture, differentiable in the policy's parameters.

        Raises:
            InputError: the policy defines none.
        """
        raise InputError(f"{type(self).__name__} gives architectures no probability: choose another estimator")

    def strengths(self) -> dict[str, Tensor]:
        """How strong each allowed option is (allowed,) for each choice, differentiable; {} if it knows no such thing.

        Without noise, at least 0, and comparable within a choice [penalties, pruning, derivation].
        """
        return {}

    def preferences(self) -> dict[str, Tensor]:
        """A score an option (options,) for each choice, higher is better, -inf where not allowed; {} if none."""
        scores: dict[str, Tensor] = {}
        with torch.no_grad():
            for name, strength in self.strengths().items():
                scores[name] = torch.full((len(self.options_of[name]),), -torch.inf, dtype=strength.dtype)
                scores[name][list(self.allowed[name])] = strength.cpu()
        return scores

    def memory(self) -> dict[str, Tensor]:
        """What it has learnt beside its parameters, by name; {} where there is no such thing."""
        return {}

    def updated(self, moment: Moment) -> None:
        """What follows a step of the policy's optimizer [ProxylessNAS keeps the other paths' probabilities]."""

    def restrict(self, choice: str, options: Sequence[int]) -> None:
        """Allow only `options` of `choice` from now on.

        Raises:
            InputError: an unknown choice, no option, or one that was not allowed before.
        """
        if choice not in self.allowed:
            raise InputError(f"unknown choice {choice!r}: {self.space.name} has {', '.join(self.allowed)}")
        kept = tuple(sorted(set(options)))
        if not kept or not set(kept) <= set(self.allowed[choice]):
            raise InputError(f"options {kept} of {choice}: expected some of {self.allowed[choice]}")
        self.allowed[choice] = kept
        if self.kept is not None:
            self.keep(self.kept)

    def keep(self, architectures: Iterable[Architecture]) -> None:
        """Propose only these of the architectures that are left, from now on.

        Raises:
            InputError: this policy cannot, or none of them is left.
        """
        if not self.keepable:
            raise InputError(
                f"policy {type(self).__name__} cannot keep to a list of architectures: use UniformPath or Sweep"
            )
        left = [a for a in sorted(set(architectures)) if self.leaves(a)]
        if not left:
            raise InputError("none of the architectures to keep is allowed: keep some of those that are left")
        self.kept = tuple(left)

    def leaves(self, architecture: Architecture) -> bool:
        """Whether an architecture is left by the mask."""
        allowed = all(i in own for i, own in zip(architecture, self.allowed.values(), strict=True))
        return allowed and (self.kept is None or architecture in self._kept_set)

    @property
    def _kept_set(self) -> frozenset[Architecture]:
        if self._kept_known[0] is not self.kept:
            self._kept_known = (self.kept, frozenset(self.kept or ()))
        return self._kept_known[1]

    def allow(self, choice: str, options: Sequence[int]) -> None:
        """Allow these options of `choice` too from now on; the network has to hold them [progressive shrinking].

        Raises:
            InputError: an unknown choice or option.
        """
        if choice not in self.allowed:
            raise InputError(f"unknown choice {choice!r}: {self.space.name} has {', '.join(self.allowed)}")
        count = len(self.options_of[choice])
        if not all(0 <= index < count for index in options):
            raise InputError(f"options {tuple(options)} of {choice}: expected some from 0 to {count - 1}")
        self.allowed[choice] = tuple(sorted({*self.allowed[choice], *options}))

    def settle(self, choice: str, option: int) -> None:
        """Leave a choice one option alone, also one that was given up before [DARTS-PT: an edge becomes none]."""
        self.allowed[choice] = (option,)

    def get_extra_state(self) -> dict[str, Any]:
        kept = None if self.kept is None else [list(architecture) for architecture in self.kept]
        return {"allowed": {name: list(options) for name, options in self.allowed.items()}, "kept": kept}

    def set_extra_state(self, state: Any) -> None:
        if "allowed" not in state:  # a checkpoint of before there were lists of architectures
            state = {"allowed": state, "kept": None}
        self.allowed = {name: tuple(options) for name, options in state["allowed"].items()}
        self.kept = None if state["kept"] is None else tuple(map(tuple, state["kept"]))
