"""The errors of weight sharing told apart: from the supernet that was searched to the child that is used.

    supernet under its own gates  --(discretisation)-->  the derived path with shared weights
    shared weights                --(sub-optimal weights)-->  the same child trained alone
    the search's size             --(deployment)-->  the final size

Beside them stands the error of alpha's gradient, which decides where the search goes at all. All accuracies are those
of the test split, which the ground truth is measured on; batch-norm statistics are recomputed over training batches
unless said otherwise.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nastricks.data import Batch, TensorDataModule
from nastricks.errors import InputError
from nastricks.modules import Calibration, SupernetModule
from nastricks.modules.measures import discretisation_scores, recomputed_over
from nastricks.modules.scoring import Score
from nastricks.ranking.evaluate import score_children
from nastricks.ranking.gradient_error import GradientError, gradient_error
from nastricks.ranking.metrics import kendall_tau
from nastricks.ranking.tables import Table
from nastricks.spaces import Architecture


@dataclass(frozen=True)
class SharedWeights:
    """Accuracy with shared weights minus that of the same child trained alone: the mean over children, and of one.

    `tau` is Kendall's between both accuracies, over the children.
    """

    mean: float
    derived: float
    tau: float


@dataclass(frozen=True)
class Errors:
    """What was found; None is unknown, for want of a table or of a gradient.

    `supernet` and `path` are accuracies under the policy's own gates and of the derived path; `alone` and `best` are
    the true accuracies of the derived child and of the best of the table; `final_tau` is Kendall's tau between truth
    at the search's size and at the final size, over `common` architectures; `final_alone` and `final_best` as `alone`
    and `best`, at the final size.
    """

    derived: str
    children: int
    supernet: float
    path: float
    calibrated: SharedWeights | None
    uncalibrated: SharedWeights | None
    alone: float | None
    best: float | None
    final_tau: float | None
    common: int
    final_alone: float | None
    final_best: float | None
    gradient: GradientError | None
    no_gradient: str | None

    @property
    def discretisation(self) -> float:
        """What the supernet loses when one option of each choice is kept."""
        return self.supernet - self.path

    def as_dict(self) -> dict[str, Any]:
        """For errors.json; numbers that are not defined are null."""
        gradient: dict[str, Any] | None = None
        if self.gradient is not None:
            pairs = {"second_order", "implicit", "halves"}
            gradient = {name: _plain(getattr(self.gradient, name)._asdict()) for name in sorted(pairs)}
            gradient["batches"] = self.gradient.batches
        own = {key: value for key, value in vars(self).items() if key not in ("gradient", "calibrated", "uncalibrated")}
        shared = {
            name: None if found is None else _plain(vars(found))
            for name, found in (("calibrated", self.calibrated), ("uncalibrated", self.uncalibrated))
        }
        return {**_plain(own), "discretisation": self.discretisation, "shared_weights": shared, "gradient": gradient}


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in values.items()}


def errors_of(
    module: SupernetModule,
    data: TensorDataModule,
    derived: Architecture,
    children: Sequence[Architecture],
    table: Table | None,
    final: Table | None,
    calibration: Calibration | None = None,
    batches: int = 10,
    done: Callable[[int], None] = lambda count: None,
) -> Errors:
    """Measure every error that can be known.

    Args:
        module: A finished run's, attached to its trainer.
        data: Its data.
        derived: The architecture that the run settles on.
        children: What the shared weights are judged on; all run in the module's network.
        table: Truth at the search's size, or None.
        final: Truth at the final size, or None.
        calibration: As the run's tricks ask for it; None, and batch statistics, take 10 batches.
        batches: Pairs of batches for alpha's gradients.
        done: Called with the number of children scored since the last call.

    Raises:
        InputError: the table lacks a child.
    """
    space = module.space
    own, path = discretisation_scores(module, data, derived, "test", calibration)
    extra, scoring = data.calibration_batches(recomputed_over(calibration)), data.evaluation_batches("test")
    settled = space.format(derived)
    calibrated = uncalibrated = None
    if table is not None:
        calibrated = _shared(module, derived, children, table, scoring, extra, done)
        uncalibrated = _shared(module, derived, children, table, scoring, [], done)
    gradient, reason = None, None
    try:
        gradient = gradient_error(module, data, batches)
    except InputError as error:
        reason = str(error)
    return Errors(
        derived=settled,
        children=len(children),
        supernet=own.accuracy,
        path=path.accuracy,
        calibrated=calibrated,
        uncalibrated=uncalibrated,
        alone=_truth(table, settled),
        best=None if table is None else float(table.mean.max()),
        **_deployment(table, final, settled),
        gradient=gradient,
        no_gradient=reason,
    )


def _shared(
    module: SupernetModule,
    derived: Architecture,
    children: Sequence[Architecture],
    table: Table,
    scoring: Sequence[Batch],
    calibration: Sequence[Batch],
    done: Callable[[int], None],
) -> SharedWeights:
    """Children with the weights of the supernet that each of them uses, against the table."""
    space, found, copies = module.space, dict[Architecture, Score](), dict[int, list[Architecture]]()
    names, settled = [space.format(child) for child in children], space.format(derived)
    table.require([*names, settled])
    for child in dict.fromkeys([*children, derived]):
        copies.setdefault(module.sharing.copy_of(child), []).append(child)
    for copy, those in copies.items():
        network: Any = module.networks[copy]
        found |= score_children(space, network, those, scoring, calibration, done=done)
    accuracies, truth = np.array([found[child].accuracy for child in children]), table.truth(names)
    own = found[derived].accuracy - float(table.truth([settled])[0])
    return SharedWeights(float((accuracies - truth).mean()), own, kendall_tau(accuracies, truth))


def _truth(table: Table | None, name: str) -> float | None:
    return None if table is None or name not in table.row else float(table.truth([name])[0])


def _deployment(table: Table | None, final: Table | None, derived: str) -> dict[str, Any]:
    """How the truth at the search's size ranks what is good at the final size."""
    unknown = {"final_tau": None, "common": 0, "final_alone": None, "final_best": None}
    if final is None:
        return unknown
    known = {**unknown, "final_alone": _truth(final, derived), "final_best": float(final.mean.max())}
    if table is None:
        return known
    common = [name for name in table.architectures if name in final.row]
    if len(common) < 2:
        raise InputError(f"{table.name} and {final.name} share {len(common)} architectures: expected at least 2")
    return {**known, "final_tau": kendall_tau(table.truth(common), final.truth(common)), "common": len(common)}
