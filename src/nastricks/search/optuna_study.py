"""A study of Optuna's behind `ask` and `tell`: bounds, and a storage from which it goes on.

Optuna is imported only when a study is made.
"""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nastricks.errors import InputError
from nastricks.rng import generator, key_seed
from nastricks.search.algorithm import Outcome, Proposal, SearchAlgorithm, at_least
from nastricks.spaces import Architecture, Space

if TYPE_CHECKING:
    import optuna

ASK, ARCHITECTURE = "ask", "architecture"  # user attributes of a trial
MOST_MISSES = 500  # trials in a row that may miss the constraints


class OptunaSearch(SearchAlgorithm):
    """A study of Optuna's, asked and told.

    A sampler is made anew for every trial, with a seed of its own, so that what is proposed follows from the seed and
    the finished trials alone: a study that is read from its storage goes on as it would have.

    What misses the constraints is told to the study at once with what it misses them by, and the next trial is asked:
    it costs no evaluation, and the sampler learns from it.
    """

    def __init__(self, space: Space, seed: int, batch: int, *directions: str) -> None:
        super().__init__(space, seed)
        self.batch = at_least("batch", batch, 1)
        self._directions = directions
        self._study = new_study(directions)
        self._store: optuna.Study | None = None
        self._kept: list[list[optuna.trial.FrozenTrial]] = []  # of earlier processes, an entry an ask, missed ones too
        self._asks = self._stored = 0
        self._trials: list[optuna.Trial | int] = []  # those asked; the number of one that the storage knows

    @abstractmethod
    def _sampler(self, seed: int) -> "optuna.samplers.BaseSampler":
        """A fresh sampler."""

    @abstractmethod
    def _suggest(self, trial: "optuna.Trial") -> Architecture:
        """The architecture of a trial."""

    @abstractmethod
    def _values(self, outcome: Outcome) -> list[float]:
        """What the study is told."""

    def keep_in(self, folder: Path) -> None:
        """Optuna's journal storage, ``optuna.journal``: the finished trials, which its own tools can read."""
        storages = optuna_module().storages
        backend = storages.journal.JournalFileBackend(str(folder / "optuna.journal"))
        self._store = new_study(self._directions, storages.JournalStorage(backend))
        for trial in self._store.get_trials(deepcopy=False):
            while len(self._kept) <= trial.user_attrs[ASK]:
                self._kept.append([])
            self._kept[trial.user_attrs[ASK]].append(trial)
        self._stored = sum(map(len, self._kept))

    def ask(self) -> list[Proposal]:
        kept = self._kept[self._asks] if self._asks < len(self._kept) else []
        asked = [trial for trial in kept if ARCHITECTURE in trial.user_attrs]
        if len(asked) == self.batch:  # else the ask was interrupted, and is repeated from the trials before it
            self._trials = [n for trial in kept if (n := self._asked_again(trial)) is not None]
            return [Proposal(tuple(trial.user_attrs[ARCHITECTURE])) for trial in asked]
        self._trials = []
        proposals = []
        for _ in range(self.batch):  # a trial is filled before the next is asked, which then keeps away from it
            trial, architecture = self._admitted()
            self._trials.append(trial)
            proposals.append(Proposal(architecture))
        return proposals

    def tell(self, outcomes: Sequence[Outcome]) -> None:
        for trial, outcome in zip(self._trials, outcomes, strict=False):
            if not isinstance(trial, int):
                trial.set_user_attr(ARCHITECTURE, list(outcome.proposal.architecture))
            self._study.tell(trial, self._values(outcome))
        self._asks += 1
        if self._store is not None:
            # Only up to the first that the budget left without an outcome, so that numbers stay when read again.
            new = self._study.get_trials(deepcopy=False)[self._stored :]
            for finished in takewhile(lambda one: one.state.is_finished(), new):
                self._store.add_trial(finished)
                self._stored += 1

    def _asked_again(self, kept: "optuna.trial.FrozenTrial") -> int | None:
        """Ask for a trial of the storage once more: its number where its outcome will be told, None where it missed."""
        self._before(kept)
        if ARCHITECTURE not in kept.user_attrs:
            self._study.add_trial(kept)
            return None
        number = self._number()
        trial = optuna_module().trial
        self._study.add_trial(
            trial.create_trial(
                state=trial.TrialState.RUNNING,
                params=kept.params,
                distributions=kept.distributions,
                user_attrs=kept.user_attrs,
                system_attrs=kept.system_attrs,
            )
        )
        return number

    def _before(self, kept: "optuna.trial.FrozenTrial") -> None:
        """What a sampler would have kept of the study when this trial was asked for."""

    def _admitted(self) -> tuple["optuna.Trial", Architecture]:
        """The next trial whose architecture meets the constraints."""
        for attempt in range(MOST_MISSES + 1):
            if attempt == MOST_MISSES:  # the sampler finds none: give it one
                assert self.constraints is not None
                self._enqueue(self.constraints.sample(generator(self.seed, "optuna", self._number())))
            self._study.sampler = self._sampler(numpy_seed(self.seed, f"{type(self).__name__} {self._number()}"))
            trial = self._study.ask()
            architecture = self._suggest(trial)
            trial.set_user_attr(ASK, self._asks)
            if self.constraints is None:
                break
            violations = self.constraints.violations(architecture)
            for name, value in violations.items():
                trial.set_constraint(name, value)
            if all(value <= 0 for value in violations.values()):
                break
            self._study.tell(trial, [0.0] * len(self._directions))  # what misses is compared by its violations alone
        return trial, architecture

    def _number(self) -> int:
        return len(self._study.get_trials(deepcopy=False))

    def _enqueue(self, architecture: Architecture) -> None:
        """Make the next trial this architecture."""
        self._study.enqueue_trial(dict(self._parameters(architecture)))

    def _parameters(self, architecture: Architecture) -> Iterator[tuple[str, int]]:
        """The names that `_suggest` gives the choices, with the options."""
        yield from ((choice.name, index) for choice, index in zip(self.space.choices, architecture, strict=True))


def numpy_seed(seed: int, purpose: str) -> int:
    """Optuna's generators take 32 bits."""
    return key_seed(seed, purpose) % 2**32


def new_study(directions: Sequence[str], storage: "optuna.storages.BaseStorage | None" = None) -> "optuna.Study":
    """A study, in memory where there is no storage. Optuna would announce it on stderr; how much it logs is left as it
    was."""
    logging = optuna_module().logging
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.WARNING)
    try:
        study: optuna.Study = optuna_module().create_study(
            directions=directions, storage=storage, study_name="nastricks", load_if_exists=storage is not None
        )
    finally:
        logging.set_verbosity(verbosity)
    return study


def optuna_module() -> Any:
    """The package; InputError where it is not installed."""
    try:
        import optuna
    except ImportError as error:
        raise InputError("TPE and NSGA2 need Optuna: pip install 'optuna>=5'") from error
    return optuna
