"""The protocol of a training trick (DESIGN idea 3): a Lightning callback at named points of the training step.

A trick overrides the points where it acts, and declares what it changes, what it needs, and where it stands among
the others. From the declarations follow the refusals, the order, and the proof that the trick is alive
(`nastricks check`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import pytorch_lightning as pl
from torch import Tensor

from nastricks.data.batch import Batch
from nastricks.errors import DeadTrickError, InputError
from nastricks.estimators import Step
from nastricks.modules.normalisation import batch_norms
from nastricks.moment import Moment
from nastricks.sharing import ShareAll
from nastricks.spaces import Gates

if TYPE_CHECKING:
    from nastricks.modules.training import TrainingModule

Change = Literal[
    "batch",
    "gates",
    "weights",
    "gradients",
    "loss",
    "learning rate",
    "normalisation statistics",
    "policy",
    "policy gradient",
    "network",
    "options",
    "length of training",
]
Need = Literal[
    "policy that learns",
    "batch norm",
    "supernet",
    "mixture of options",
    "policy of single paths",
    "network that all paths share",
    "gradient through the gates",
]
Compute = Callable[[], Tensor]
"""Fills the weights' gradients from one batch and returns the loss (); calling it again repeats the same pass."""


@dataclass(frozen=True)
class Forward:
    """A finished forward pass, as `Trick.on_loss` sees it.

    `logits` (N, classes); `first_logits` are those of the first set of gates of the same step and micro-batch,
    detached [in-place distillation from the largest path].
    """

    logits: Tensor
    batch: Batch
    gates: Gates
    first_logits: Tensor


@dataclass(frozen=True)
class Calibration:
    """Which normalisation statistics a child is scored with in place of the running ones.

    Those of `batches` training batches, recomputed for the child; or, where `own`, those of the very batches that are
    scored, of `size` images at least (None: of the data's evaluation batches).
    """

    batches: int = 0
    own: bool = False
    size: int | None = None

    @property
    def words(self) -> str:
        """How it is told."""
        if not self.own:
            return f"calibrated over {self.batches} training batches"
        return "batch statistics of the images scored" + ("" if self.size is None else f", {self.size} at a time")


class Trick(pl.Callback):
    """Base of all tricks.

    Attributes:
        name: The one name used everywhere: the file's.
        changes: What the trick changes; `nastricks check` measures that.
        needs: What the run must have; the refusal follows from it.
        order: Place among tricks that act at the same point, lower first; two equal ones go by name.
        after_training: Acts only when a child is scored, so runs that differ in it alone share one training.
        guard: Measures, and may end the training or not: it is alive where it has measured.
        neutral: Arguments with which the trick is the identity, or None where it has no such setting.
        acts: How often it has acted.
    """

    name: ClassVar[str]
    changes: ClassVar[Change]
    needs: ClassVar[tuple[Need, ...]] = ()
    order: ClassVar[int] = 0
    after_training: ClassVar[bool] = False
    guard: ClassVar[bool] = False
    neutral: ClassVar[dict[str, Any] | None] = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "name" not in cls.__dict__:
            cls.name = cls.__module__.rpartition(".")[2]

    def __init__(self) -> None:
        self.acts = 0

    # Points of the step, in the order in which they come.

    def surgery(self, module: "TrainingModule") -> None:
        """Change the network before its optimizer exists; keep the Parameters of what is replaced."""

    def on_epoch(self, module: "TrainingModule", at: Moment) -> bool:
        """Before the first step of every epoch but the first: restrict options, measure; True ends the training.

        The end of the last epoch is not announced. What is kept from epoch to epoch belongs in `state_dict`.
        """
        return False

    def on_batch(self, batch: Batch, at: Moment) -> Batch:
        """The batch of `at.role`: a new Batch, or the same one untouched."""
        return batch

    def may_learn(self, at: Moment) -> bool:
        """Whether the policy may be updated at this step; every trick must agree."""
        return True

    def on_forward(self, batch: Batch, at: Moment) -> tuple[Any, int] | None:
        """Where a pass that trains the weights begins: the state and the segment that takes it; None for the images.

        The first trick that says something is heard.
        """
        return None

    def on_gates(self, gates: Gates, at: Moment) -> Gates:
        """One set of gates before its forward pass over `at.samples` samples."""
        return gates

    def on_loss(self, loss: Tensor, forward: Forward, at: Moment) -> Tensor:
        """The loss () of one forward pass."""
        return loss

    def on_policy_loss(self, loss: Tensor, gates: Gates, step: Step) -> Tensor:
        """What the policy learns from (), differentiable: the loss of one set of gates, where estimators go through it.

        Called once a set of gates and update, with the gates that the policy proposed; where the policy learns with the
        weights (`joined`), the weights see the same loss.
        """
        return loss

    def around_gradients(self, compute: Compute, module: "TrainingModule", at: Moment) -> Compute:
        """Wrap the computation of the weights' gradients; clipping and the optimizer's step come after it."""
        return compute

    def on_learning_rate(self, rate: float, base: float, at: Moment) -> float:
        """The rate of a parameter group: `rate` by the recipe's schedule, `base` as the optimizer was given it."""
        return rate

    def calibration(self) -> Calibration | None:
        """How children are calibrated before they are scored."""
        return None

    # Proof of life.

    def first_active_step(self, module: "TrainingModule") -> int:
        """The first training step, counted from 0, at which the trick acts."""
        return 0

    def measured(self) -> str:
        """What a guard measured last, in words with units."""
        return f"{self.acts} measurements"

    def act(self) -> None:
        """Count one act; call it where the trick changes something (a guard: where it measures)."""
        self.acts += 1

    def refusal(self, module: "TrainingModule") -> str | None:
        """Why the trick cannot act in this run, as a sentence; None where it can."""
        for need in self.needs:
            reason = _lacks(need, module)
            if reason:
                return f"trick {self.name} needs a {need}, and {reason}"
        return None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        from nastricks.modules.training import TrainingModule

        if not isinstance(pl_module, TrainingModule):
            raise InputError(
                f"trick {self.name} works on nastricks modules; {type(pl_module).__name__} is none: "
                "use SupernetModule or ChildModule"
            )
        reason = self.refusal(pl_module)
        if reason:
            raise InputError(reason)
        if stage == "fit":
            self.prepare(pl_module)
        self.operate(pl_module)

    def prepare(self, module: "TrainingModule") -> None:
        """Read what training needs from elsewhere [a teacher], before the first step and where a run is checked.

        What is only scored, or read to be continued from, does without it.

        Raises:
            InputError: it is missing, or does not fit the run.
        """

    def operate(self, module: "TrainingModule") -> None:
        """Do the surgery, once: a second `fit` or a `validate` sets up again."""
        if self.name not in module.operated:
            self.surgery(module)
            module.operated.add(self.name)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.acts == 0 and not self.after_training:
            raise DeadTrickError(
                f"trick {self.name} was configured and never acted in {trainer.global_step} steps: "
                "train longer, change its settings, or leave it out"
            )

    def state_dict(self) -> dict[str, Any]:
        return {"acts": self.acts}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.acts = int(state_dict["acts"])


def _lacks(need: Need, module: "TrainingModule") -> str | None:
    """What a module lacks of a need, or None."""
    if need == "policy that learns" and (not module.policy.learns or module.estimator is None):
        return f"{type(module.policy).__name__} has no parameters that an estimator updates: use another algorithm"
    if need == "batch norm" and not batch_norms(module.networks):
        return f"the networks of {module.space.name} have none"
    if need == "mixture of options" and not module.policy.mixed:
        return f"{type(module.policy).__name__} runs one at a time: use an algorithm that mixes them, such as DARTS"
    if need == "policy of single paths" and module.policy.mixed:
        return f"{type(module.policy).__name__} runs several options at once: leave the trick out"
    if need == "network that all paths share" and not isinstance(module.sharing, ShareAll):
        return f"sharing {type(module.sharing).__name__} gives architectures weights of their own: use ShareAll"
    if need == "gradient through the gates" and (module.estimator is None or not module.estimator.through_gates):
        who = type(module.policy if module.estimator is None else module.estimator).__name__
        return f"{who} takes none: use an algorithm that does, such as DARTS"
    if need == "supernet" and all(len(options) == 1 for options in module.policy.allowed.values()):
        return "a child has no choices left: leave the trick out of the child's recipe"
    return None


def in_order(tricks: Sequence[Trick]) -> list[Trick]:
    """Tricks in the order in which they act; the last one wraps the gradients outermost."""
    return sorted(tricks, key=lambda trick: (trick.order, trick.name))
