"""How a policy learns: an estimator sees the whole step and leaves gradients on the policy's parameters."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn

from nastricks.data.batch import Batch
from nastricks.errors import InputError
from nastricks.moment import Moment, Role
from nastricks.policies import Policy
from nastricks.spaces import Architecture, Cost, Gates

Order = Literal["before", "after", "joined"]


class Updater(Protocol):
    """Whoever applies an estimator's gradients: a training step, or a loop that trains children."""

    def average(self, gradients: Sequence[Tensor]) -> list[Tensor]:
        """The mean over ranks of gradients that were taken outside `manual_backward`."""

    def advance(self) -> None:
        """Step the optimizers of the policy and of the estimator with the gradients left so far, then clear them.

        For estimators that take several steps an update [the epochs of PPO]; the last gradients are left as they are.
        """


class Step(Updater, Protocol):
    """One training step, as an estimator sees it."""

    moment: Moment
    train: Batch
    weight_optimizer: torch.optim.Optimizer

    @property
    def search(self) -> Batch:
        """The step's batch of the search split."""

    @property
    def weights(self) -> Sequence[nn.Parameter]:
        """The network's parameters [second order, MiLeNAS]."""

    def propose(self) -> Sequence[Gates]:
        """The policy's gates for this step, differentiable in its parameters, after the tricks that act on gates."""

    def loss(self, gates: Gates, batch: Batch, *, role: Role = "policy") -> Tensor:
        """Loss () of the network, differentiable in the gates; leaves the BN buffers alone."""

    def objective(self, gates: Gates) -> Tensor:
        """What the policy learns from (): the loss on the search batch, and what tricks add to it."""

    def reward(self, architectures: Sequence[Architecture]) -> Tensor:
        """Accuracy (A,) in [0, 1] of each architecture's path on the search batch, without gradient."""

    def cost(self, architecture: Architecture) -> Cost:
        """Parameters and FLOPs of a child alone [TuNAS]."""

    def outcomes(self) -> Sequence[tuple[Architecture | None, Tensor]]:
        """What the weights' passes of this step ran, each with its loss (); None for several options at once.

        There are none before the weights' step.
        """


class Estimator(nn.Module, ABC):
    """Updates a policy. It may own parameters and an optimizer of its own [critic, RELAX].

    Args:
        policy: The policy to update.
        every: Update in every this many training steps, at least 1.
        order: Update before or after the weight step of the same batch; None takes the estimator's own.

    Attributes:
        order: Before, after, or with the weight step (`joined`): then gates keep their gradient in the weight step, and
            the weights' own backward pass fills the policy's gradients.
        through_gates: Whether it differentiates the loss by the weights of the gates, so that tricks may add to that
            loss what the policy is to learn beside it.

    Raises:
        InputError: `every` is below 1, or the policy has nothing that the estimator can update.
    """

    order: Order = "before"
    through_gates: ClassVar[bool] = False

    def __init__(self, policy: Policy, every: int = 1, order: Literal["before", "after"] | None = None) -> None:
        super().__init__()
        if order is not None:
            self.order = order
        if every < 1:
            raise InputError(f"estimator.every is {every}: expected at least 1")
        if not policy.learns:
            raise InputError(
                f"{type(self).__name__} has nothing to update: {type(policy).__name__} has no parameters; "
                "leave the estimator out"
            )
        if self.through_gates and not policy.weighted:
            raise InputError(
                f"{type(self).__name__} differentiates by the weights of the gates, and those of "
                f"{type(policy).__name__} have none: use Reinforce, or another policy"
            )
        # Held in a list, so that the policy is not a submodule here: its parameters belong to one place.
        self._policy = [policy]
        self.every = every

    @property
    def policy(self) -> Policy:
        return self._policy[0]

    def due(self, moment: Moment) -> bool:
        """Whether this step updates the policy; override for blocks of steps [ENAS]."""
        return moment.step % self.every == 0

    def configure_optimizer(self) -> torch.optim.Optimizer | None:
        """The optimizer of the estimator's own parameters [critic, RELAX]; it steps with the policy's."""
        return None

    def check(self, weight_optimizer: torch.optim.Optimizer) -> None:
        """Refuse an optimizer of the weights that the estimator cannot look through [second order].

        Called before training, with an optimizer of the run's kind and settings.

        Raises:
            InputError: it does not know what a step of this optimizer does.
        """

    @abstractmethod
    def update(self, step: Step) -> None:
        """Leave gradients in ``.grad`` of the policy's parameters and of the estimator's own, of no others."""

    def leave(self, updater: Updater, loss: Tensor, parameters: Iterable[nn.Parameter] | None = None) -> None:
        """Differentiate a loss by some parameters alone, average over ranks, and leave the gradients.

        The parameters are the policy's where none are named.
        """
        learning = [p for p in (self.policy.parameters() if parameters is None else parameters) if p.requires_grad]
        self.give(updater, learning, gradients(loss, learning))

    def give(self, updater: Updater, parameters: Sequence[nn.Parameter], found: Sequence[Tensor]) -> None:
        """Average gradients over ranks, and leave one on each parameter."""
        for parameter, gradient in zip(parameters, updater.average(found), strict=True):
            parameter.grad = gradient


def gradients(loss: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    """Of a loss () by each parameter; zero where it has no part in it."""
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]
