"""The one training step of the project (DESIGN, "One training step"): supernets and children share it.

    batch -> on_batch -> policy proposes gates -> on_gates -> forward, loss -> on_loss -> backward
          -> around_gradients -> clip -> optimizer -> schedule

The optimisation is manual: several sets of gates, second passes and the policy's own step do not fit Lightning's.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from nastricks.data.batch import Batch, ImageSpec
from nastricks.errors import InputError
from nastricks.estimators import Estimator
from nastricks.modules.leaf_gates import LeafGates
from nastricks.modules.logged import LoggedModule
from nastricks.modules.normalisation import batch_norms, frozen_statistics
from nastricks.modules.points import Points
from nastricks.modules.schedule import Constant, Schedule
from nastricks.modules.step import TrainingStep
from nastricks.modules.trick import Forward, Trick
from nastricks.moment import Moment, Role
from nastricks.policies import Policy
from nastricks.rng import forked_rng
from nastricks.sharing import Sharing
from nastricks.spaces import Architecture, ChildCosts, Gates, Network, Space

OptimizerMaker = Callable[[Iterable[nn.Parameter]], Optimizer]


class TrainingModule(LoggedModule):
    """What supernets and children have in common: networks, a policy, tricks, and the step.

    Args:
        space: The search space.
        spec: What the networks need to know of the data.
        policy: Proposes gates.
        sharing: Says which copy of the weights an architecture uses.
        networks: The copies.
        estimator: Updates the policy; None leaves it as it is.
        optimizer: Makes the weights' optimizer.
        policy_optimizer: Makes the policy's optimizer.
        schedule: The weights' learning rate over the run; None is constant.
        label_smoothing: In [0, 1).
        auxiliary_weight: What the loss of an auxiliary head counts in the weights' loss, at least 0; it matters where
            the space builds one.
        gradient_clip_val: Largest norm of the weights' gradient; None does not clip.
        policy_gradient_clip_val: Largest norm of the gradient of the policy's parameters; None does not clip.
        micro_batches: Parts in which a batch runs, to save memory; gradients are those of the whole batch (but for
            batch norm, which sees a part at a time).
        seed: Key of everything random.
        paths_seed: Key of what is drawn at a step: paths, and what tricks draw; None takes `seed`.
    """

    def __init__(
        self,
        *,
        space: Space,
        spec: ImageSpec,
        policy: Policy,
        sharing: Sharing,
        networks: Sequence[Network],
        estimator: Estimator | None,
        optimizer: OptimizerMaker,
        policy_optimizer: OptimizerMaker | None,
        schedule: Schedule | None,
        label_smoothing: float,
        auxiliary_weight: float,
        gradient_clip_val: float | None,
        policy_gradient_clip_val: float | None,
        micro_batches: int,
        seed: int,
        paths_seed: int | None = None,
    ) -> None:
        super().__init__(space)
        if not 0 <= label_smoothing < 1:
            raise InputError(f"model.label_smoothing is {label_smoothing}: expected a number in [0, 1)")
        if not 0 <= auxiliary_weight < float("inf"):
            raise InputError(f"model.auxiliary_weight is {auxiliary_weight}: expected at least 0, such as 0.4")
        clips = {"gradient_clip_val": gradient_clip_val, "policy_gradient_clip_val": policy_gradient_clip_val}
        for key, clip in clips.items():
            if clip is not None and not 0 < clip < float("inf"):
                raise InputError(f"model.{key} is {clip}: expected a number above 0, or null")
        if policy_gradient_clip_val is not None and estimator is None:
            raise InputError("model.policy_gradient_clip_val is set and no estimator is: leave it out")
        if micro_batches < 1:
            raise InputError(f"model.micro_batches is {micro_batches}: expected at least 1")
        if estimator is not None:
            _check_policy_optimizer(policy, policy_optimizer)
        self.automatic_optimization = False
        self.spec, self.seed = spec, seed
        self.paths_seed = seed if paths_seed is None else paths_seed
        self.policy, self.sharing, self.estimator = policy, sharing, estimator
        # Channels last is the faster layout for convolutions, on the CPU (a quarter less for tiny64) and on GPUs.
        self.networks = nn.ModuleList(networks).to(memory_format=torch.channels_last)
        self.optimizer_maker, self.policy_optimizer_maker = optimizer, policy_optimizer
        if estimator is not None:  # an optimizer is light, and refused here the run leaves no folder behind
            estimator.check(optimizer(self.networks.parameters()))
        self.schedule = schedule or Constant()
        self.label_smoothing = label_smoothing
        self.gradient_clip_val, self.policy_gradient_clip_val = gradient_clip_val, policy_gradient_clip_val
        self.auxiliary_weight = auxiliary_weight
        self.child_costs = ChildCosts(space, spec)
        self._has_auxiliary = any(network.auxiliary is not None for network in networks)
        self.micro_batches = micro_batches
        self.current: TrainingStep | None = None  # the step that is running [attacks by tricks]
        self.starts_from: str | None = None  # the earlier run whose weights the networks start with
        self.steps_per_epoch = 1
        self.epochs = 1.0
        self.points = Points()
        self.operated: set[str] = set()  # names of the tricks whose surgery is done
        self._norms = batch_norms(self.networks)

    def __setattr__(self, name: str, value: Any) -> None:
        # Lightning notes the hook that runs some thirty times a step; torch would ask each time whether the name is a
        # parameter, which costs several per cent of a small network's step.
        if name == "_current_fx_name":
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    # Set-up.

    def setup(self, stage: str) -> None:
        trainer = self.trainer
        self.use_tricks([c for c in trainer.callbacks if isinstance(c, Trick)])  # type: ignore[attr-defined]
        if trainer.precision == "16-mixed":
            raise InputError("trainer.precision is 16-mixed: this loop scales no losses; use bf16-mixed or 32-true")
        data = trainer.datamodule  # type: ignore[attr-defined]
        if hasattr(data, "to"):
            data.to(trainer.strategy.root_device)
        if stage == "fit":
            if self.measures is not None:
                self.measures.check(data)
            self.steps_per_epoch = data.batches("train", trainer.world_size)
            if trainer.max_steps > 0:
                self.epochs = trainer.max_steps / self.steps_per_epoch
            if trainer.max_epochs is not None and trainer.max_epochs > 0:
                self.epochs = min(trainer.max_epochs, self.epochs) if trainer.max_steps > 0 else trainer.max_epochs

    def use_tricks(self, tricks: Sequence[Trick]) -> None:
        """Let these tricks act, each at the points that it overrides."""
        self.points = Points(tricks)
        self._norms = batch_norms(self.networks)

    def configure_optimizers(self) -> list[Optimizer]:
        made = [self.optimizer_maker(self.networks.parameters())]
        if self.estimator is not None and self.policy_optimizer_maker is not None:
            made.append(self.policy_optimizer_maker(self.policy.parameters()))
            own = self.estimator.configure_optimizer()
            made += [] if own is None else [own]
        for group in made[0].param_groups:
            group["base_lr"] = group["lr"]
        return made

    def moment(self, role: Role) -> Moment:
        """The present moment, for a pass of the given role."""
        return Moment(
            role=role,
            seed=self.paths_seed,
            step=self.steps_seen,
            steps_per_epoch=self.steps_per_epoch,
            epochs=self.epochs,
            rank=self.global_rank,
            device=self.device,
        )

    # The step.

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        now = self.moment("weights")
        if now.step > 0 and now.step % now.steps_per_epoch == 0 and self.points.ends_before_epoch(self, now):
            self.trainer.should_stop = True
            return
        optimizers = self.optimizers(use_pl_optimizer=False)
        first, *rest = optimizers if isinstance(optimizers, list) else [optimizers]
        self._set_learning_rate(first, now)
        step = TrainingStep(self, now, self.points.batch(batch, now), weight_optimizer=first, policy_optimizers=rest)
        self.current = step
        estimator = self.estimator
        learns = estimator is not None and estimator.due(now) and self.points.policy_may_learn(now)
        if learns and estimator is not None and estimator.order == "before":
            self._update_policy(estimator, step, rest)
        joined = learns and estimator is not None and estimator.order == "joined"
        loss, correct = self._update_weights(step, joined)
        if learns and estimator is not None and estimator.order != "before":
            self._update_policy(estimator, step, rest)
        self._sums.add(loss, correct, len(batch))
        self.steps_seen += 1
        self.current = None

    def _update_weights(self, step: TrainingStep, joined: bool) -> tuple[Tensor, Tensor]:
        now = step.moment
        with torch.set_grad_enabled(joined):
            gate_sets = self.policy.propose(now)
        if not gate_sets:
            raise InputError(f"{type(self.policy).__name__} proposed no gates: a step needs at least one set")
        leaves = LeafGates(gate_sets) if joined else None
        correct: list[Tensor] = []

        def compute() -> Tensor:
            step.weight_optimizer.zero_grad(set_to_none=True)
            if joined:  # what tricks add to the policy's loss reaches its parameters here, the gates' part below
                self.policy.zero_grad(set_to_none=True)
            hits: list[Tensor] = []
            ran: list[tuple[Gates, Tensor]] = []
            loss = self._accumulate(gate_sets if leaves is None else leaves.renewed(), step, joined, hits, ran)
            if not correct:  # what is noted is that of the first pass
                correct.extend(hits)
                step.ran = ran
            return loss

        loss = self.points.around_gradients(compute, self, now)()
        if leaves is not None:
            leaves.backward(step.average)  # the leaves are no parameters, which DDP would average
        if self.gradient_clip_val is not None:
            torch.nn.utils.clip_grad_norm_(self.networks.parameters(), self.gradient_clip_val)
        # Lightning's wrapper counts the step; the policy's optimizer is stepped without it, so that
        # trainer.global_step and max_steps count batches.
        wrapper = self.optimizers()
        (wrapper[0] if isinstance(wrapper, list) else wrapper).step()
        return loss, torch.stack(correct).sum() if len(correct) > 1 else correct[0]

    def _accumulate(
        self,
        gate_sets: Sequence[Gates],
        step: TrainingStep,
        joined: bool,
        correct: list[Tensor],
        ran: list[tuple[Gates, Tensor]],
    ) -> Tensor:
        """Add up the gradients of every set of gates and micro-batch; the mean loss () over sets.

        Notes the hits of the first set, a micro-batch each, and what ran in every set with its loss.
        """
        now, batch = step.moment, step.train
        total: Tensor | None = None
        for number, part in enumerate(batch.chunks(self.micro_batches) if self.micro_batches > 1 else (batch,)):
            first_logits: Tensor | None = None
            for gate_set, proposed in enumerate(gate_sets):
                at = now.at(gate_set=gate_set, micro_batch=number, samples=len(part))
                gates = self.points.gates(proposed, at)
                with forked_rng(at.seed, at.step, at.micro_batch, at.gate_set, "forward", at.rank, device=at.device):
                    logits, loss = self._logits_and_loss(part, gates, at)
                first_logits = logits.detach() if first_logits is None else first_logits
                loss = self.points.loss(loss, Forward(logits, part, gates, first_logits), at)
                if joined:
                    loss = self.points.policy_loss(loss, gates, step)
                if len(part) != len(batch):
                    loss = loss * (len(part) / len(batch))
                self.manual_backward(loss)
                loss = loss.detach()
                total = loss if total is None else total + loss
                if number == 0:
                    ran.append((gates, loss))
                else:
                    ran[gate_set] = (gates, ran[gate_set][1] + loss)
                if gate_set == 0:
                    correct.append((logits.detach().argmax(1) == part.labels).sum())
        assert total is not None, "a batch has a part and a step a set of gates"
        return total / len(gate_sets) if len(gate_sets) > 1 else total

    def _update_policy(self, estimator: Estimator, step: TrainingStep, optimizers: Sequence[Optimizer]) -> None:
        if estimator.order != "joined":
            self.policy.zero_grad(set_to_none=True)
        estimator.update(step)
        self.step_policy(optimizers)
        self.policy.updated(step.moment)

    def step_policy(self, optimizers: Sequence[Optimizer]) -> None:
        """Clip the gradients of the policy's parameters, and take the policy's optimizers' step."""
        if self.policy_gradient_clip_val is not None:
            torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.policy_gradient_clip_val)
        for optimizer in optimizers:
            optimizer.step()

    # Passes through the network.

    def network_of(self, gates: Gates) -> Network:
        """The copy of the weights that these gates use."""
        if len(self.networks) == 1:
            return self.networks[0]  # type: ignore[return-value]
        return self.networks[self.sharing.copy_of(self.architecture_of(gates))]  # type: ignore[return-value]

    def architecture_of(self, gates: Gates) -> Architecture | None:
        """The architecture that gates with one active option a choice run; None where several are."""
        picked = [gates[choice.name].active for choice in self.space.choices]
        return tuple(options[0] for options in picked) if all(len(options) == 1 for options in picked) else None

    def logits(self, images: Tensor, gates: Gates) -> Tensor:
        """images (N, C, H, W) -> logits (N, classes) under these gates."""
        return self.network_of(gates)(images.to(self.dtype, memory_format=torch.channels_last), gates)

    def _logits_and_loss(self, batch: Batch, gates: Gates, at: Moment) -> tuple[Tensor, Tensor]:
        """A pass that trains the weights: logits (N, classes), and the loss () with that of an auxiliary head."""
        begun = self.points.begin(batch, at)
        if begun is None:
            begun = batch.images.to(self.dtype, memory_format=torch.channels_last), 0
        state, first = begun
        if not self._has_auxiliary:
            logits = self.network_of(gates)(state, gates, first)
            return logits, self.criterion(logits, batch)
        logits, extra = self.network_of(gates).with_auxiliary(state, gates, first)
        return logits, self.criterion(logits, batch) + self.auxiliary_weight * self.criterion(extra, batch)

    def criterion(self, logits: Tensor, batch: Batch) -> Tensor:
        """Cross entropy () against the soft targets where a trick mixed the batch, else against the labels."""
        target = batch.labels if batch.targets is None else batch.targets
        return F.cross_entropy(logits, target, label_smoothing=self.label_smoothing)

    def measured(self, epoch: int) -> dict[str, float]:
        """How decided the policy is, where it has strengths."""
        return {} if self.measures is None else self.measures.take(self, epoch)

    def frozen_statistics(self) -> AbstractContextManager[None]:
        """Context in which passes in train mode leave the BN buffers alone."""
        return frozen_statistics(self._norms)

    def _set_learning_rate(self, optimizer: Optimizer, now: Moment) -> None:
        for group in optimizer.param_groups:
            rate = self.schedule.learning_rate(group["base_lr"], now)
            group["lr"] = self.points.learning_rate(rate, group["base_lr"], now)


def _check_policy_optimizer(policy: Policy, made: OptimizerMaker | None) -> None:
    """Refuse an estimator without an optimizer for the policy's parameters, and an optimizer without parameters.

    Raises:
        InputError: it is so.
    """
    parameters = any(True for _ in policy.parameters())
    if parameters and made is None:
        raise InputError("model.estimator is set and model.policy_optimizer is not: name the policy's optimizer")
    if made is not None and not parameters:
        raise InputError(f"model.policy_optimizer is set and {type(policy).__name__} has no parameters: set it to null")
