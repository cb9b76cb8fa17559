"""The samplers of Optuna behind `ask` and `tell`: TPE, and NSGA-II for reward against cost.

Papers: Bergstra et al. 2011, "Algorithms for Hyper-Parameter Optimization" (TPE); Deb et al. 2002, "A Fast and Elitist
Multiobjective Genetic Algorithm: NSGA-II".

Optuna is imported only when one of the two is built.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

from nastricks.errors import InputError, unknown
from nastricks.rng import generator, key_seed
from nastricks.search.algorithm import Outcome, Proposal, SearchAlgorithm, at_least, probability
from nastricks.search.moves import repair
from nastricks.spaces import Architecture, Space

if TYPE_CHECKING:
    import optuna

CostName = Literal["flops", "params"]


class TPE(SearchAlgorithm):
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
        super().__init__(space, seed)
        at_least("startup", startup, 1)
        at_least("candidates", candidates, 1)
        self.batch = at_least("batch", batch, 1)
        sampler = _optuna().samplers.TPESampler(
            n_startup_trials=startup,
            n_ei_candidates=candidates,
            multivariate=True,
            constant_liar=True,
            seed=_numpy_seed(seed, "tpe"),
        )
        self._study = _study(sampler, "maximize")
        self._trials: list[optuna.Trial] = []

    def ask(self) -> list[Proposal]:
        proposals = []
        self._trials = []
        for _ in range(self.batch):  # a trial is filled before the next is asked, which then keeps away from it
            self._trials.append(self._study.ask())
            proposals.append(Proposal(self._suggest(self._trials[-1])))
        return proposals

    def tell(self, outcomes: Sequence[Outcome]) -> None:
        for trial, outcome in zip(self._trials, outcomes, strict=False):
            self._study.tell(trial, outcome.reward)

    def _suggest(self, trial: "optuna.Trial") -> Architecture:
        """Define by run: a parameter bears the name of its choice and of the options that are legal here."""
        architecture: Architecture = ()
        for choice in self.space.choices:
            legal = self.space.legal(architecture)
            name = f"{choice.name} of {','.join(map(str, legal))}"
            architecture += (trial.suggest_categorical(name, legal) if len(legal) > 1 else legal[0],)
        return architecture


class NSGA2(SearchAlgorithm):
    """NSGA-II: a population that approaches the front of the highest reward at the lowest cost.

    `pareto` reads the front off the outcomes. Where `Space.legal` depends on the choices before, a genome of free
    choices is read as the architecture that keeps every option that is legal, always the same one.

    Args:
        population: Architectures of a generation, at least 2.
        cost: What is weighed against the reward: `flops` or `params`; every outcome has to state it.
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
        super().__init__(space, seed)
        at_least("population", population, 2)
        self.cost = _known_cost(cost)
        self.batch = at_least("batch", batch, 1)
        sampler = _optuna().samplers.NSGAIISampler(
            population_size=population,
            crossover_prob=probability("crossover", crossover),
            mutation_prob=None
            if mutation_probability is None
            else probability("mutation_probability", mutation_probability),
            seed=_numpy_seed(seed, "nsga2"),
        )
        self._study = _study(sampler, "maximize", "minimize")
        self._trials: list[optuna.Trial] = []
        self._front: list[Outcome] = []

    def ask(self) -> list[Proposal]:
        self._trials = [self._study.ask() for _ in range(self.batch)]
        return [Proposal(self._suggest(trial)) for trial in self._trials]

    def tell(self, outcomes: Sequence[Outcome]) -> None:
        for trial, outcome in zip(self._trials, outcomes, strict=False):
            self._study.tell(trial, [outcome.reward, _cost(outcome, self.cost)])
        self._front = pareto([*self._front, *outcomes], self.cost)

    def measures(self) -> dict[str, float]:
        return {"pareto_size": len(self._front)}

    def _suggest(self, trial: "optuna.Trial") -> Architecture:
        """Every choice over all its options: NSGA-II hands on only parameters that all trials have."""
        genome = tuple(trial.suggest_categorical(c.name, range(len(c.options))) for c in self.space.choices)
        return repair(self.space, genome, generator("genome", self.space.name, genome))


def pareto(outcomes: Iterable[Outcome], cost: CostName = "flops") -> list[Outcome]:
    """The outcomes that no other one beats, by rising cost; the same outcome is listed once.

    One outcome beats another whose reward is no higher and whose cost is no lower, unless both are equal.

    Raises:
        InputError: an outcome does not state its cost.
    """
    _known_cost(cost)
    front: list[Outcome] = []
    for outcome in sorted(dict.fromkeys(outcomes), key=lambda outcome: (_cost(outcome, cost), -outcome.reward)):
        last = front[-1] if front else None
        tied = last and (last.reward, _cost(last, cost)) == (outcome.reward, _cost(outcome, cost))
        if last is None or tied or outcome.reward > last.reward:
            front.append(outcome)
    return front


def _cost(outcome: Outcome, cost: CostName) -> int:
    value = outcome.flops if cost == "flops" else outcome.params
    if value is None:
        raise InputError(
            f"the {cost} of {outcome.proposal.architecture} are unknown: expected a number beside every reward; use a "
            "reward that states them, or an algorithm with one objective"
        )
    return value


def _known_cost(cost: CostName) -> CostName:
    if cost not in get_args(CostName):
        raise unknown("cost", cost, get_args(CostName))
    return cost


def _numpy_seed(seed: int, purpose: str) -> int:
    """Optuna's generators take 32 bits."""
    return key_seed(seed, purpose) % 2**32


def _study(sampler: "optuna.samplers.BaseSampler", *directions: str) -> "optuna.Study":
    """A study in memory. Optuna would announce it on stderr; how much it logs is then left as it was."""
    logging = _optuna().logging
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.WARNING)
    try:
        study: optuna.Study = _optuna().create_study(sampler=sampler, directions=directions, study_name="nastricks")
    finally:
        logging.set_verbosity(verbosity)
    return study


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise InputError("TPE and NSGA2 need Optuna: pip install 'optuna>=5'") from error
    return optuna
