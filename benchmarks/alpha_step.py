"""DARTS' step on alpha, as training does it, against one that back-propagates into the weights too.

Both sides take the search batch, the gates, the loss, the gradients and Adam's step on alpha. The other side calls
``loss.backward()``, which computes the gradients of all weights as well, and throws those away.
"""

import torch
from jsonargparse import Namespace

from benchmarks.measure import CPU, Result, alternate, compared, ratios
from benchmarks.training_step import image_arguments
from nastricks.estimators import Estimator, FirstOrder, Step
from nastricks.modules.step import TrainingStep
from nastricks.recipe import resolve
from nastricks.run import build


class IntoWeights(Estimator):
    """The first-order gradient of DARTS the usual way: one backward pass fills every gradient there is."""

    def update(self, step: Step) -> None:
        losses = [step.loss(gates, step.search) for gates in step.propose()]
        torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]


class AlphaStep:
    """A DARTS run that stands before its first step, and takes steps on alpha alone."""

    def __init__(self, config: Namespace) -> None:
        run = build(config, None, quiet=True)
        self.module = run.module
        self.module.trainer = run.trainer
        run.trainer.datamodule = run.data  # type: ignore[attr-defined]
        run.data.setup()
        self.module.setup("fit")
        self.module.train()
        self.weights, self.alpha = self.module.configure_optimizers()
        self.train = run.data.batch("train", 0)

    def take(self, estimator: Estimator) -> None:
        """One step on alpha, with a search batch of its own; the weights' gradients are gone afterwards."""
        step = TrainingStep(self.module, self.module.moment("weights"), self.train, self.weights)
        self.module._update_policy(estimator, step, [self.alpha])
        self.weights.zero_grad(set_to_none=True)
        self.module.steps_seen += 1


def compare(name: str, config: Namespace, rounds: int, steps: int, what: str) -> Result:
    """Let the two kinds of steps take turns, `steps` at a time, and compare their times."""
    run = AlphaStep(config)
    alone, into_weights = FirstOrder(run.module.policy), IntoWeights(run.module.policy)

    def several(estimator: Estimator) -> None:
        for _ in range(steps):
            run.take(estimator)

    times = alternate(lambda: several(alone), lambda: several(into_weights), rounds)
    note = f"{what}: a step {compared(*times, steps)}"
    return Result.of(name, ratios(*times), target=0.75, note=note)


def alpha_step_tiny64(rounds: int = 40, steps: int = 5) -> Result:
    """On tiny64 and digits, batch 64."""
    config = resolve(["spaces/tiny64.yaml", "data/digits.yaml", "algorithms/darts.yaml"], CPU)
    return compare("alpha_step_tiny64", config, rounds, steps, "digits, batch 64")


def alpha_step_weight_sharing_64(rounds: int = 6, batch_size: int = 64) -> Result:
    """On weight_sharing_64 and CIFAR-10, at the batch size of DARTS."""
    images, told = image_arguments(batch_size, train_size=512)
    files = ["spaces/weight_sharing_64.yaml", "data/cifar10.yaml", "algorithms/darts.yaml"]
    return compare("alpha_step_weight_sharing_64", resolve(files, [*CPU, *images]), rounds, 1, told)
