"""What an architecture is worth to a search: a table, a known objective, shared weights (and `trained_child`)."""

import hashlib
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import torch
from jsonargparse import Namespace

from nastricks.data import ImageSpec, TensorDataModule
from nastricks.errors import InputError
from nastricks.modules import SupernetModule
from nastricks.modules.run_folder import LAST
from nastricks.ranking.rank import scored
from nastricks.ranking.tables import Table, load_table, shipped_table
from nastricks.rng import generator
from nastricks.run import Run, calibration_of, load_run
from nastricks.search.algorithm import Proposal
from nastricks.search.engine import Engine
from nastricks.spaces import Architecture, Resource, Space
from nastricks.table_files import locate_table

Status = Literal["done", "diverged"]


@dataclass(frozen=True)
class Measured:
    """What a reward found out about one proposal.

    `accuracy` in [0, 1] (the objective, in a space that has one), `loss` in nats or None, `seconds` of training and
    scoring. `status` is "diverged" where a child's loss was not finite: `accuracy` is then the stated one.
    """

    accuracy: float
    loss: float | None = None
    seconds: float = 0.0
    status: Status = "done"


@dataclass(frozen=True)
class Setting:
    """What a reward may know of the search: `config` is resolved, `spec` None where no data are named."""

    config: Namespace
    space: Space
    data: TensorDataModule | None
    seed: int

    @property
    def spec(self) -> ImageSpec | None:
        return None if self.data is None else self.data.spec


class Reward(ABC):
    """Measures proposals; the search maximises accuracy minus the resource term.

    Args:
        resource: Takes a child's cost off; None does not.
    """

    keeps: ClassVar[bool] = False  # whether a measurement is worth keeping on disk
    stamp: str = ""  # what measurements depend on beside the configuration

    def __init__(self, resource: Resource | None = None) -> None:
        self.resource = resource

    @abstractmethod
    def prepare(self, setting: Setting) -> None:
        """Load what measuring needs.

        Raises:
            InputError: this reward does not fit the space, the data or the recipe.
        """

    def check_epochs(self, asked: Sequence[int]) -> None:
        """Refuse numbers of epochs that cannot be measured, or of which the longest is no full evaluation.

        Raises:
            InputError: this reward knows no epochs, or other ones.
        """
        if asked and self.full_epochs is None:
            raise InputError(
                f"the search asks for children of {', '.join(map(str, asked))} epochs, and {type(self).__name__} knows "
                "none: take TableReward with fidelities, or TrainedChild"
            )
        if asked and max(asked) != self.full_epochs:
            raise InputError(
                f"the search's longest training is of {max(asked)} epochs, the reward's of {self.full_epochs}: set the "
                "algorithm's max_epochs to it"
            )

    @property
    def range(self) -> tuple[float, float]:
        """The least and the largest reward."""
        return (0.0 if self.resource is None else -math.inf), 1.0

    @property
    def full_epochs(self) -> int | None:
        """The epochs of a full evaluation, which counts as one in the budget; None where epochs mean nothing."""
        return None

    @abstractmethod
    def measure(self, proposals: Sequence[Proposal], engine: Engine) -> Iterator[tuple[Proposal, Measured]]:
        """Measure distinct proposals, in any order."""


class TableReward(Reward):
    """Accuracy out of a table of ground truth.

    Args:
        table: CSV, or the name of a shipped table; None takes the one shipped for the space and data.
        noise: "replica" gives every architecture the accuracy of one keyed replica, as one training would; "mean" the
            mean of all, which no search could see.
        fidelities: Epochs -> table of children trained that long, for algorithms that ask for epochs; the main
            `table` is the longest, and `epochs` says how long.
        epochs: Epochs of the main table's trainings; needed with `fidelities`.
        resource: Takes a child's cost off.
    """

    def __init__(
        self,
        table: str | None = None,
        noise: Literal["replica", "mean"] = "replica",
        fidelities: dict[int, str] | None = None,
        epochs: int | None = None,
        resource: Resource | None = None,
    ) -> None:
        super().__init__(resource)
        if fidelities and epochs is None:
            raise InputError("reward.fidelities are set and reward.epochs is not: say how long the main table trained")
        if epochs is not None and any(not 0 < short < epochs for short in fidelities or {}):
            raise InputError(f"reward.fidelities {sorted(fidelities or {})}: expected epochs from 1 to below {epochs}")
        self.table, self.noise, self.fidelities, self.epochs = table, noise, fidelities or {}, epochs
        self._tables: dict[int | None, Table] = {}

    def prepare(self, setting: Setting) -> None:
        main = truth_table(setting, self.table)
        if main is None:
            raise InputError(
                f"TableReward has no table: none ships for {setting.space.name}; name one under search.reward.table"
            )
        parse = setting.space.parse
        self._space, self._seed = setting.space, setting.seed
        self._tables = {short: load_table(locate_table(path), parse=parse) for short, path in self.fidelities.items()}
        self._tables |= {None: main} if self.epochs is None else {None: main, self.epochs: main}

    def check_epochs(self, asked: Sequence[int]) -> None:
        super().check_epochs(asked)
        for epochs in asked:
            self._of(epochs)

    def _of(self, epochs: int | None) -> Table:
        if epochs not in self._tables:
            known = ", ".join(str(e) for e in sorted(e for e in self._tables if e is not None)) or "none"
            raise InputError(f"reward.fidelities hold no table of {epochs} epochs: they know {known}")
        return self._tables[epochs]

    @property
    def full_epochs(self) -> int | None:
        return self.epochs

    def measure(self, proposals: Sequence[Proposal], engine: Engine) -> Iterator[tuple[Proposal, Measured]]:
        for proposal in proposals:
            name = self._space.format(proposal.architecture)
            yield proposal, Measured(self._accuracy(self._of(proposal.epochs), name))

    def _accuracy(self, table: Table, name: str) -> float:
        table.require([name])
        if self.noise == "mean":
            return float(table.truth([name])[0])
        replicas = table.replicas[table.row[name]]
        draw = torch.randint(len(replicas), (), generator=generator(self._seed, "replica", name))
        return float(replicas[int(draw)])


class ObjectiveReward(Reward):
    """The known objective of a synthetic space."""

    def prepare(self, setting: Setting) -> None:
        objective = getattr(setting.space, "objective", None)
        if objective is None:
            raise InputError(f"ObjectiveReward needs a space with an objective: {setting.space.name} has none")
        self._objective: Callable[[Architecture], float] = objective
        if self.resource is not None:
            raise InputError(f"reward.resource needs children, and {setting.space.name} builds none: leave it out")

    def measure(self, proposals: Sequence[Proposal], engine: Engine) -> Iterator[tuple[Proposal, Measured]]:
        for proposal in proposals:
            yield proposal, Measured(self._objective(proposal.architecture))


class SharedWeights(Reward):
    """Accuracy of the child inside a trained supernet, on the validation split [ENAS, one-shot methods].

    Args:
        run: Run folder of the supernet; the tricks of its recipe that act after training, such as calibration, apply.
        resource: Takes a child's cost off.
    """

    keeps = True

    def __init__(self, run: str, resource: Resource | None = None) -> None:
        super().__init__(resource)
        self.run = run

    def prepare(self, setting: Setting) -> None:
        self._run: Run = load_run(self.run)
        if not isinstance(self._run.module, SupernetModule):
            raise InputError(f"{self.run} trained a child: SharedWeights needs a supernet's run folder")
        own = self._run.module.space
        if own.name != setting.space.name:
            raise InputError(f"{self.run} is of space {own.name}, the search is of {setting.space.name}")
        if own.choices != setting.space.choices:
            raise InputError(
                f"{self.run} and the search have other choices of {own.name}: give the search the run's space settings"
            )
        self.stamp = hashlib.sha256((Path(self.run) / LAST).read_bytes()).hexdigest()
        self._calibration = calibration_of(self._run.config)

    def measure(self, proposals: Sequence[Proposal], engine: Engine) -> Iterator[tuple[Proposal, Measured]]:
        start = time.perf_counter()
        found = scored(self._run.module, self._run.data, [p.architecture for p in proposals], self._calibration)
        seconds = (time.perf_counter() - start) / len(proposals)
        for proposal in proposals:
            score = found[proposal.architecture]
            yield proposal, Measured(score.accuracy, score.loss, seconds)


def truth_table(setting: Setting, path: str | None) -> Table | None:
    """The table named, the one that a tabular space is read from, or the one shipped for the space and data."""
    own = getattr(setting.space, "path", None)
    shipped = None if setting.data is None else shipped_table(setting.space.name, setting.data.name)
    found = path if path is not None else own if own is not None else shipped
    return None if found is None else load_table(locate_table(found), parse=setting.space.parse)
