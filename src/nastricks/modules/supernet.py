"""Trains a supernet."""

from collections.abc import Callable

import torch

from nastricks.data.batch import Batch, ImageSpec
from nastricks.derivations import BestRanked, Derivation
from nastricks.estimators import Estimator
from nastricks.modules.run_folder import load_checkpoint
from nastricks.modules.schedule import Schedule
from nastricks.modules.shared_weights import load_policy, load_shared_weights
from nastricks.modules.training import OptimizerMaker, TrainingModule
from nastricks.policies import Policy
from nastricks.rng import forked_rng
from nastricks.sharing import ShareAll, Sharing
from nastricks.spaces import Space


class SupernetModule(TrainingModule):
    """A supernet and the search algorithm that trains it: policy, estimator, sharing and derivation.

    Args:
        space: The search space.
        spec: What the networks need to know of the data.
        policy: Makes the policy from the space.
        optimizer: Makes the weights' optimizer.
        estimator: Makes the estimator from the policy; None for policies that do not learn.
        policy_optimizer: Makes the policy's optimizer.
        sharing: Which weights an architecture sees; None shares all.
        derivation: How one architecture is read off; None takes the best of all ranked.
        allowed: The options, counted from 0, that a choice keeps; choices not named keep all [few-shot, P-DARTS].
        weights: An earlier stage's run folder or checkpoint to start from; None starts from scratch.
        policy_weights: The same for the policy, its mask of allowed options included; None starts it afresh.
        schedule: The weights' learning rate over the run; None is constant.
        label_smoothing: In [0, 1).
        auxiliary_weight: What the loss of an auxiliary head counts, at least 0, where the space builds one.
        gradient_clip_val: Largest norm of the weights' gradient; None does not clip.
        policy_gradient_clip_val: Largest norm of the gradient of the policy's parameters; None does not clip.
        micro_batches: Parts in which a batch runs.
        seed: Key of everything random, the initial weights included, but for what the next two name.
        weights_seed: Key of the initial weights and of the policy's start; None takes `seed`.
        paths_seed: Key of what is drawn at a step: paths, and what tricks draw; None takes `seed`. With `batches_seed`
            of the data it lets one source of randomness vary while the others stay.
    """

    def __init__(
        self,
        space: Space,
        spec: ImageSpec,
        policy: Callable[[Space], Policy],
        optimizer: OptimizerMaker,
        estimator: Callable[[Policy], Estimator] | None = None,
        policy_optimizer: OptimizerMaker | None = None,
        sharing: Sharing | None = None,
        derivation: Derivation | None = None,
        allowed: dict[str, list[int]] | None = None,
        weights: str | None = None,
        policy_weights: str | None = None,
        schedule: Schedule | None = None,
        label_smoothing: float = 0.0,
        auxiliary_weight: float = 0.4,
        gradient_clip_val: float | None = None,
        policy_gradient_clip_val: float | None = None,
        micro_batches: int = 1,
        seed: int = 0,
        weights_seed: int | None = None,
        paths_seed: int | None = None,
    ) -> None:
        sharing = sharing or ShareAll()
        start = seed if weights_seed is None else weights_seed
        with forked_rng(start, "policy"):
            made = policy(space)
            if policy_weights is not None:
                load_policy(made, load_checkpoint(policy_weights)["state_dict"])
            for choice, options in (allowed or {}).items():
                made.restrict(choice, options)
            made_estimator = None if estimator is None else estimator(made)
        derivation = derivation or BestRanked()
        made.check()
        derivation.check(space, made)
        sharing.check(made.mixed or made.weighted, f"policy {type(made).__name__}")
        with forked_rng(start, "weights"):
            networks = sharing.networks(space, spec, made.allowed)
        if weights is not None:
            state = load_checkpoint(weights)["state_dict"]
            for network in networks:
                load_shared_weights(network, state)
        super().__init__(
            space=space,
            spec=spec,
            policy=made,
            sharing=sharing,
            networks=networks,
            estimator=made_estimator,
            optimizer=optimizer,
            policy_optimizer=policy_optimizer,
            schedule=schedule,
            label_smoothing=label_smoothing,
            auxiliary_weight=auxiliary_weight,
            gradient_clip_val=gradient_clip_val,
            policy_gradient_clip_val=policy_gradient_clip_val,
            micro_batches=micro_batches,
            seed=seed,
            paths_seed=paths_seed,
        )
        self.derivation, self.starts_from = derivation, weights

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Loss and accuracy of the policy's own gates, uncalibrated: a sign of life; `nastricks rank` judges."""
        log_scores(self, "validation", batch, batch_idx)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """As validation, on the test split."""
        log_scores(self, "test", batch, batch_idx)


def log_scores(module: TrainingModule, split: str, batch: Batch, number: int) -> None:
    """Log mean loss and accuracy of a split under the policy's gates; `number` is that of the batch in the split."""
    moment = module.moment("evaluation").at(gate_set=number)  # another draw, at the temperature of now
    with torch.no_grad(), forked_rng(module.seed, "evaluation", split, number, device=module.device):
        logits = module.logits(batch.images, module.policy.propose(moment)[0])
    accuracy = (logits.argmax(1) == batch.labels).float().mean()
    scores = {f"{split}/loss": module.criterion(logits, batch), f"{split}/accuracy": accuracy}
    module.log_dict(scores, batch_size=len(batch), sync_dist=module.trainer.world_size > 1)
