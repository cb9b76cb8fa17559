"""Rewards from children trained alone, on the engine that the search runs on."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from jsonargparse import Namespace

from nastricks.errors import InputError
from nastricks.modules import Calibration, ChildModule
from nastricks.ranking.evaluate import score_children, scoring_of
from nastricks.recipe import with_seed
from nastricks.run import Run, build, calibration_of
from nastricks.search.algorithm import Proposal
from nastricks.search.engine import Engine, Lost, Stopwatch
from nastricks.search.reward import Measured, Reward, Setting, Status
from nastricks.spaces import Resource


@dataclass(frozen=True, eq=False)
class ChildTask:
    """One child to train alone."""

    config: Namespace
    proposal: Proposal
    architecture: str


class TrainedChild(Reward):
    """Accuracy on the validation split of the child trained alone, by the child recipe in the same stack.

    Cheaper proxies are keys of that recipe: trainer.max_epochs, data.init_args.batch_size, .fraction, .resolution,
    space.init_args.channels.

    Args:
        diverged: The stated accuracy of a child whose loss is not finite, in [0, 1].
        resource: Takes a child's cost off.
    """

    keeps = True

    def __init__(self, diverged: float = 0.0, resource: Resource | None = None) -> None:
        super().__init__(resource)
        if not 0 <= diverged <= 1:
            raise InputError(f"reward.diverged is {diverged}: expected an accuracy in [0, 1]")
        self.diverged = diverged

    def prepare(self, setting: Setting) -> None:
        config = setting.config.clone()
        config.pop("search", None)
        if config.get("model") is None or config.get("data") is None:
            raise InputError("TrainedChild trains children: add data and a child recipe to the stack")
        self._config = with_seed(config, setting.seed)
        self._space = setting.space
        run = build(self._config, None, quiet=True)
        run.check()
        if not isinstance(run.module, ChildModule):
            raise InputError("TrainedChild trains children: add a child recipe, such as -c recipes/child/tiny64.yaml")

    @property
    def full_epochs(self) -> int | None:
        epochs = self._config.trainer.max_epochs
        return None if epochs is None or epochs < 1 else int(epochs)

    def measure(self, proposals: Sequence[Proposal], engine: Engine) -> Iterator[tuple[Proposal, Measured]]:
        tasks = [ChildTask(self._config, p, self._space.format(p.architecture)) for p in proposals]
        for task, measured in engine.run(train_child, tasks):
            if isinstance(measured, Lost):
                raise InputError(f"child {task.architecture} could not be trained: {measured.reason}")
            if measured.status == "diverged":
                measured = Measured(self.diverged, measured.loss, measured.seconds, "diverged")
            yield task.proposal, measured


def train_child(task: ChildTask) -> Measured:
    """Train one child alone and score it on the validation split, calibrated as its recipe says."""
    (measured,) = train_and_score(task, [calibration_of(task.config)])
    return measured


def train_and_score(task: ChildTask, calibrations: Sequence[Calibration | None]) -> list[Measured]:
    """Train one child alone, once, and score it on the validation split under each calibration.

    The seconds of a score are those of the training and its own.
    """
    watch = Stopwatch()
    config = task.config.clone()
    config.model.init_args.architecture = task.architecture
    if task.proposal.epochs is not None:
        config.trainer.max_epochs = task.proposal.epochs
    run = build(config, None, quiet=True)
    run.fit()
    seconds = watch.seconds()
    return [_scored(run, calibration, seconds) for calibration in calibrations]


def _scored(run: Run, calibration: Calibration | None, training_seconds: float) -> Measured:
    watch = Stopwatch()
    module: Any = run.module
    architecture = module.policy.architecture
    scoring = scoring_of(run.data, calibration, "validation")
    score = score_children(module.space, module.networks[0], [architecture], scoring)[architecture]
    status: Status = "done" if math.isfinite(score.loss) else "diverged"
    return Measured(score.accuracy, score.loss, training_seconds + watch.seconds(), status)
