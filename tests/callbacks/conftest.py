"""A run that stands before its first step, for tricks that are looked at from within a step."""

from collections.abc import Callable

import pytest

from nastricks.modules.step import TrainingStep
from nastricks.run import Run

Stand = Callable[[Run], TrainingStep]


@pytest.fixture(scope="session")
def stand() -> Stand:
    """``stand(run)`` sets the run up as `fit` does and gives its first step; nothing is trained."""

    def begin(run: Run) -> TrainingStep:
        module, trainer = run.module, run.trainer
        module.trainer = trainer
        trainer.datamodule = run.data  # type: ignore[attr-defined]
        run.data.setup("fit")
        for trick in run.tricks:
            trick.setup(trainer, module, "fit")
        module.setup("fit")
        if trainer.precision == "64-true":
            module.double()
        module.train()
        first, *rest = module.configure_optimizers()
        now = module.moment("weights")
        batch = module.points.batch(run.data.batch("train", now.step), now)
        module.current = TrainingStep(module, now, batch, weight_optimizer=first, policy_optimizers=rest)
        return module.current

    return begin
