"""The samplers of Optuna behind `ask` and `tell`: TPE, and NSGA-II for reward against cost.

Papers: Bergstra et al. 2011, "Algorithms for Hyper-Parameter Optimization" (TPE); Deb et al. 2002, "A Fast and Elitist
Multiobjective Genetic Algorithm: NSGA-II".

Optuna is imported only when one of the two is built.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from nastricks.errors import InputError, unknown
from nastricks.rng import generator
from nastricks.search.algorithm import Outcome, at_least, probability
from nastricks.search.constraints import COSTS, CostName
from nastricks.search.moves import repair
from nastricks.search.optuna_study import OptunaSearch, optuna_module
from nastricks.spaces import Architecture, Choice, Space

if TYPE_CHECKING:
    import optuna

GENERATION = "NSGAIISampler:generation"  # what Optuna calls it in a trial


class TPE(OptunaSearch):
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
        made: optuna.samplers.BaseSampler = optuna_module().samplers.TPESampler(
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


class NSGA2(OptunaSearch):
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
        made: optuna.samplers.BaseSampler = optuna_module().samplers.NSGAIISampler(
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
