"""Trains one architecture alone, from scratch or from a supernet's weights."""

from nastricks.data.batch import Batch, ImageSpec
from nastricks.modules.run_folder import load_checkpoint
from nastricks.modules.schedule import Schedule
from nastricks.modules.shared_weights import load_shared_weights
from nastricks.modules.supernet import log_scores
from nastricks.modules.training import OptimizerMaker, TrainingModule
from nastricks.policies import Fixed
from nastricks.rng import forked_rng
from nastricks.sharing import ShareAll
from nastricks.spaces import Space


class ChildModule(TrainingModule):
    """One architecture as a network of its own.

    Args:
        space: The search space.
        spec: What the network needs to know of the data.
        architecture: The architecture's string.
        optimizer: Makes the weights' optimizer.
        weights: A supernet's run folder or checkpoint to start from; None starts from scratch.
        schedule: The learning rate over the run; None is constant.
        label_smoothing: In [0, 1).
        auxiliary_weight: What the loss of an auxiliary head counts, at least 0, where the space builds one.
        gradient_clip_val: Largest norm of the gradient; None does not clip.
        micro_batches: Parts in which a batch runs.
        seed: Key of everything random, the initial weights included.
    """

    def __init__(
        self,
        space: Space,
        spec: ImageSpec,
        architecture: str,
        optimizer: OptimizerMaker,
        weights: str | None = None,
        schedule: Schedule | None = None,
        label_smoothing: float = 0.0,
        auxiliary_weight: float = 0.4,
        gradient_clip_val: float | None = None,
        micro_batches: int = 1,
        seed: int = 0,
    ) -> None:
        policy = Fixed(space, str(architecture))
        with forked_rng(seed, "weights"):
            network = space.child(spec, policy.architecture)
        if weights is not None:
            load_shared_weights(network, load_checkpoint(weights)["state_dict"])
        super().__init__(
            space=space,
            spec=spec,
            policy=policy,
            sharing=ShareAll(),
            networks=[network],
            estimator=None,
            optimizer=optimizer,
            policy_optimizer=None,
            schedule=schedule,
            label_smoothing=label_smoothing,
            auxiliary_weight=auxiliary_weight,
            gradient_clip_val=gradient_clip_val,
            policy_gradient_clip_val=None,
            micro_batches=micro_batches,
            seed=seed,
        )
        self.starts_from = weights

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        log_scores(self, "validation", batch, batch_idx)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        log_scores(self, "test", batch, batch_idx)
