"""The samplers of Optuna behind `ask` and `tell`: TPE, and NSGA-II for reward against cost.

Papers: Bergstra et al. 2011, "Algorithms for Hyper-Parameter Optimization" (TPE); Deb et al. 2002, "A Fast and Elitist
Multiobjective Genetic Algorithm: NSGA-II".

Optuna is imported only when one of the two is built.
"""

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from nastricks.errors import InputError, unknown
from nastricks.rng import generator, key_seed
from nastricks.search.algorithm import Outcome, Proposal, SearchAlgorithm, at_least, probability
from nastricks.search.constraints import COSTS, CostName
from nastricks.search.moves import repair
from nastricks.spaces import Architecture, Choice, Space

if TYPE_CHECKING:
    import optuna

ASK, ARCHITECTURE = "ask", "architecture"  # user attributes of a trial
GENERATION = "NSGAIISampler:generation"  # what Optuna calls it in a trial
MOST_MISSES = 500  # trials in a row that may miss the constraints


class _OptunaSearch(SearchAlgorithm):
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
        self._study = _study(directions)
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
        storages = _optuna().storages
        backend = storages.journal.JournalFileBackend(str(folder / "optuna.journal"))
        self._store = _study(self._directions, storages.JournalStorage(backend))
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
        trial = _optuna().trial
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
            self._study.sampler = self._sampler(_numpy_seed(self.seed, f"{type(self).__name__} {self._number()}"))
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


class TPE(_OptunaSearch):
    """Tree-structured Parzen estimator: models the best tenth of what was told (25 at most) and the rest apart, and
    proposes what is likely under the first model and unlikely under the second.

    Choices are modelled jointly. Where `Space.legal` depends on the choices before, a choice is a parameter of its own
    for each set of legal options, modelled apart from the others. An architecture may be proposed again.

    Args:
        startup: Random architectures before the model is used, at least 1.
        candidates: Draws from the model of the good, of which the best ratio is proposed; at least 1.
        batch: Architectures an ask, at least 1; those not told yet count as bad (constant liar).

    Raises:
        InputError: a value outside its range, or Optuna is not installed.
    """

    def __init__(self, space: Space, seed: int, *, startup: int = 10, candidates: int = 24, batch: int = 1) -> None:
        self.startup = at_least("startup", startup, 1)
        self.candidates = at_least("candidates", candidates, 1)
        super().__init__(space, seed, batch, "maximize")

    def _sampler(self, seed: int) -> "optuna.samplers.BaseSampler":
        made: optuna.samplers.BaseSampler = _optuna().samplers.TPESampler(
            n_startup_trials=self.startup,
            n_ei_candidates=self.candidates,
            multivariate=True,
            constant_liar=True,
            seed=seed,
        )
        return made

    def _values(self, outcome: Outcome) -> list[float]:
        return [outcome.reward]

    def _suggest(self, trial: "optuna.Trial") -> Architecture:
        """Define by run: a parameter bears the name of its choice and of the options that are legal here."""
        architecture: Architecture = ()
        for choice in self.space.choices:
            legal = self.space.legal(architecture)
            name = _named(choice, legal)
            architecture += (trial.suggest_categorical(name, legal) if len(legal) > 1 else legal[0],)
        return architecture

    def _parameters(self, architecture: Architecture) -> Iterator[tuple[str, int]]:
        for place, choice in enumerate(self.space.choices):
            legal = self.space.legal(architecture[:place])
            if len(legal) > 1:
                yield _named(choice, legal), architecture[place]


class NSGA2(_OptunaSearch):
    """NSGA-II: a population that approaches the front of the highest reward at the lowest cost.

    `pareto` reads the front off the outcomes. Where `Space.legal` depends on the choices before, a genome of free
    choices is read as the architecture that keeps every option that is legal, always the same one.

    Args:
        population: Architectures of a generation, at least 2.
        cost: What is weighed against the reward: `flops`, `params` or `latency`; every outcome has to state it.
        crossover: Probability in [0, 1] that a child mixes two parents rather than copying one.
        mutation_probability: Of each choice, in [0, 1]; None for one over the number of choices.
        batch: Architectures an ask, at least 1.

    Raises:
        InputError: a value outside its range, Optuna is not installed, or (in `tell`) an outcome without its cost.
    """

    needs_cost: ClassVar[bool] = True

    def __init__(
        self,
        space: Space,
        seed: int,
        *,
        population: int = 50,
        cost: CostName = "flops",
        crossover: float = 0.9,
        mutation_probability: float | None = None,
        batch: int = 1,
    ) -> None:
        self.population = at_least("population", population, 2)
        self.cost = known_cost(cost)
        self.crossover = probability("crossover", crossover)
        if mutation_probability is not None:
            probability("mutation_probability", mutation_probability)
        self.mutation_probability = mutation_probability
        super().__init__(space, seed, batch, "maximize", "minimize")
        self._front: list[Outcome] = []

    def _sampler(self, seed: int) -> "optuna.samplers.BaseSampler":
        made: optuna.samplers.BaseSampler = _optuna().samplers.NSGAIISampler(
            population_size=self.population,
            crossover_prob=self.crossover,
            mutation_prob=self.mutation_probability,
            seed=seed,
        )
        return made

    def _before(self, kept: "optuna.trial.FrozenTrial") -> None:
        """Parents of a generation are those told when its first trial is asked for, in mid-ask too."""
        sampler: Any = self._sampler(0)
        generation = kept.system_attrs.get(GENERATION)
        if generation is not None:
            sampler.get_parent_population(self._study, generation)

    def tell(self, outcomes: Sequence[Outcome]) -> None:
        super().tell(outcomes)
        self._front = pareto([*self._front, *outcomes], self.cost)

    def _values(self, outcome: Outcome) -> list[float]:
        return [outcome.reward, cost_of(outcome, self.cost)]

    def measures(self) -> dict[str, float]:
        return {"pareto_size": len(self._front)}

    def _suggest(self, trial: "optuna.Trial") -> Architecture:
        """Every choice over all its options: NSGA-II hands on only parameters that all trials have."""
        genome = tuple(trial.suggest_categorical(c.name, range(len(c.options))) for c in self.space.choices)
        return repair(self.space, genome, generator("genome", self.space.name, genome))


def _named(choice: Choice, legal: Sequence[int]) -> str:
    """The name of a choice's parameter where these options are legal."""
    return f"{choice.name} of {','.join(map(str, legal))}"


def pareto(outcomes: Iterable[Outcome], cost: CostName = "flops") -> list[Outcome]:
    """The outcomes that no other one beats, by rising cost; the same outcome is listed once.

    One outcome beats another whose reward is no higher and whose cost is no lower, unless both are equal.

    Raises:
        InputError: an outcome does not state its cost.
    """
    known_cost(cost)
    front: list[Outcome] = []
    for outcome in sorted(dict.fromkeys(outcomes), key=lambda outcome: (cost_of(outcome, cost), -outcome.reward)):
        last = front[-1] if front else None
        tied = last and (last.reward, cost_of(last, cost)) == (outcome.reward, cost_of(outcome, cost))
        if last is None or tied or outcome.reward > last.reward:
            front.append(outcome)
    return front


def cost_of(outcome: Outcome, cost: CostName) -> float:
    """The cost that an outcome states; InputError where it states none."""
    value: float | None = getattr(outcome, cost)
    if value is None:
        raise InputError(
            f"the {cost} of {outcome.proposal.architecture} are unknown: expected a number beside every reward; use a "
            "reward that states them, or an algorithm with one objective"
        )
    return value


def known_cost(cost: CostName) -> CostName:
    """The cost, if there is one of this name; InputError otherwise."""
    if cost not in COSTS:
        raise unknown("cost", cost, COSTS)
    return cost


def _numpy_seed(seed: int, purpose: str) -> int:
    """Optuna's generators take 32 bits."""
    return key_seed(seed, purpose) % 2**32


def _study(directions: Sequence[str], storage: "optuna.storages.BaseStorage | None" = None) -> "optuna.Study":
    """A study, in memory where there is no storage. Optuna would announce it on stderr; how much it logs is left as it
    was."""
    logging = _optuna().logging
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.WARNING)
    try:
        study: optuna.Study = _optuna().create_study(
            directions=directions, storage=storage, study_name="nastricks", load_if_exists=storage is not None
        )
    finally:
        logging.set_verbosity(verbosity)
    return study


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise InputError("TPE and NSGA2 need Optuna: pip install 'optuna>=5'") from error
    return optuna
