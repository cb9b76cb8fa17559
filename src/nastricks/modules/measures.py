"""What a policy has come to, measured at the end of every epoch: how decided it is, and what would be read off it.

Zela et al. 2020 (RobustDARTS) count skips and follow the Hessian; Chu et al. 2020 (FairDARTS, section 3.2) and Wang et
al. 2021 (DARTS-PT, section 3) measure what discretising costs.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nastricks.derivations import Derivation, Trained
from nastricks.errors import InputError
from nastricks.modules.curvature import search_eigenpair
from nastricks.modules.gate_history import GateHistory, Strengths
from nastricks.modules.scoring import Score, score_gates
from nastricks.modules.trick import Calibration
from nastricks.policies import Policy
from nastricks.spaces import Architecture, Gates, Space

if TYPE_CHECKING:
    from nastricks.data import Split, TensorDataModule
    from nastricks.modules.training import TrainingModule

CALIBRATION_BATCHES = 10  # training batches for the statistics of both sides, where no trick names another number


def entropy(strengths: Sequence[float]) -> float:
    """Entropy in nats of strengths made to sum to one; that of a choice where all are zero is the largest, log(n)."""
    total = sum(strengths)
    if total <= 0:
        return math.log(len(strengths))
    parts = [value / total for value in strengths if value > 0]
    return max(0.0, -sum(part * math.log(part) for part in parts))


def gap(strengths: Sequence[float]) -> float:
    """The largest strength minus the second, which counts as zero where only one option is left."""
    first, second = sorted([*strengths, 0.0], reverse=True)[:2]
    return first - second


def strengths_of(policy: Policy) -> dict[str, dict[int, float]]:
    """Option -> strength for each choice, of allowed options alone; {} for policies that know no such thing."""
    found = {name: strengths.tolist() for name, strengths in policy.strengths().items()}
    if found:
        return {name: dict(zip(policy.allowed[name], values, strict=True)) for name, values in found.items()}
    return {
        name: {index: float(scores[index]) for index in policy.allowed[name]}
        for name, scores in policy.preferences().items()
    }


def decidedness(strengths: Strengths, space: Space) -> dict[str, float]:
    """Means over choices: entropy in nats, the same as a share of the largest possible one, and the gap."""
    entropies = {name: entropy(list(options.values())) for name, options in strengths.items()}
    largest = {choice.name: math.log(len(choice.options)) for choice in space.choices if len(choice.options) > 1}
    shares = [entropies[name] / most for name, most in largest.items()]
    return {
        "gates/entropy": sum(entropies.values()) / len(entropies),
        "gates/entropy_share": sum(shares) / len(shares),
        "gates/gap": sum(gap(list(options.values())) for options in strengths.values()) / len(strengths),
    }


def absence(strengths: Strengths, space: Space) -> dict[str, float]:
    """In what share of the choices that offer no connection at all that is the strongest option; {} where none does."""
    offered = [c for c in space.choices if any(c.options[i].absent for i in strengths[c.name])]
    strongest = [max(strengths[c.name], key=strengths[c.name].__getitem__) for c in offered]
    won = [choice.options[index].absent for choice, index in zip(offered, strongest, strict=True)]
    return {"gates/absent": sum(won) / len(won)} if won else {}


def counts(space: Space, architecture: Architecture) -> dict[str, float]:
    """How many skip connections an architecture has, and how many options without parameters that are there at all."""
    picked = [choice.options[index] for choice, index in zip(space.choices, architecture, strict=True)]
    return {
        "derived/skips": float(sum(option.skip for option in picked)),
        "derived/parameter_free": float(sum(not option.learns and not option.absent for option in picked)),
    }


def agreement(one: Architecture, other: Architecture) -> float:
    """The share of choices in which two architectures are the same."""
    return sum(a == b for a, b in zip(one, other, strict=True)) / len(one)


class Measures:
    """Measures a supernet at the end of every epoch, and remembers its gates.

    Args:
        space: The search space.
        policy: What is measured.
        derivation: How the architecture is read off; those that score children are not asked in mid-run.
        discretisation: Also score the supernet under its own gates, and under those of the derived path.
        hessian: Also find the largest eigenvalue of the search loss's Hessian by the policy's parameters.
        every_n_epochs: How often to measure what costs passes through the network, at least 1.

    Raises:
        InputError: the policy or the derivation does not have what is to be measured.
    """

    def __init__(
        self,
        space: Space,
        policy: Policy,
        derivation: Derivation,
        discretisation: bool = False,
        hessian: bool = False,
        every_n_epochs: int = 1,
    ) -> None:
        if every_n_epochs < 1:
            raise InputError(f"measures.every_n_epochs is {every_n_epochs}: expected at least 1")
        self.space, self.policy, self.derivation = space, policy, derivation
        self.derives = derivation.needs_preferences and not (derivation.needs_ranking or derivation.needs_network)
        if discretisation and not self.derives:
            raise InputError(
                f"measures.discretisation needs an architecture in mid-run, and {type(derivation).__name__} reads none "
                f"off {type(policy).__name__} without scoring children: leave it out, or derive with Argmax"
            )
        if hessian and not policy.weighted:
            raise InputError(
                f"measures.hessian needs gates with weights, and those of {type(policy).__name__} have none: "
                "leave it out"
            )
        self.discretisation, self.hessian, self.every_n_epochs = discretisation, hessian, every_n_epochs
        self.history = GateHistory(space)
        self.derived: Architecture | None = None

    def check(self, data: "TensorDataModule") -> None:
        """Refuse what the data cannot give.

        Raises:
            InputError: no validation image to score on, or no search image for the loss.
        """
        if self.discretisation:
            data.batches("validation")
        if self.hessian:
            data.batches("search")

    def take(self, module: "TrainingModule", epoch: int) -> dict[str, float]:
        """The measures at the end of an epoch, counted from 0; {} where the policy has no strengths."""
        strengths = strengths_of(self.policy)
        if not strengths:
            return {}
        self.history.record(epoch, strengths)
        found = decidedness(strengths, self.space) | absence(strengths, self.space)
        costly = (epoch + 1) % self.every_n_epochs == 0
        if self.hessian and costly:
            found["hessian/eigenvalue"] = search_eigenpair(module, module.moment("policy")).value
        derived = self._derive() if self.derives else None
        if derived is None:
            return found
        found |= counts(self.space, derived)
        if self.derived is not None:
            found["derived/agreement"] = agreement(derived, self.derived)
        self.derived = derived
        if self.discretisation and costly:
            found |= discretisation(module, derived)
        return found

    @property
    def names(self) -> list[str]:
        """What may be measured, as metrics.csv calls it."""
        own = ["gates/entropy", "gates/entropy_share", "gates/gap", "gates/absent"]
        own += ["derived/skips", "derived/parameter_free", "derived/agreement"] if self.derives else []
        scored = ["discretisation/supernet", "discretisation/derived", "discretisation/loss"]
        return own + (scored if self.discretisation else []) + (["hessian/eigenvalue"] if self.hessian else [])

    def _derive(self) -> Architecture | None:
        """The architecture of now; None while the rule finds none, such as one with a threshold early in a search."""
        try:
            return self.derivation.derive(Trained(self.space, self.policy, _no_scores))
        except InputError:
            return None

    def state(self) -> dict[str, Any]:
        return {"history": self.history.state(), "derived": None if self.derived is None else list(self.derived)}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.history.restore(state["history"])
        self.derived = None if state["derived"] is None else tuple(state["derived"])


def _no_scores() -> Mapping[Architecture, float]:
    raise RuntimeError("a derivation that says that it needs no ranking asked for one")


def discretisation(module: "TrainingModule", derived: Architecture) -> dict[str, float]:
    """Accuracy on the validation split under the policy's own gates, of the derived path, and what is lost.

    The batch-norm statistics of both are recomputed over the same training batches.
    """
    data: TensorDataModule = module.trainer.datamodule  # type: ignore[attr-defined]
    asked = [found for trick in module.points.tricks if (found := trick.calibration()) is not None]
    own, path = discretisation_scores(module, data, derived, "validation", asked[0] if asked else None)
    return {
        "discretisation/supernet": own.accuracy,
        "discretisation/derived": path.accuracy,
        "discretisation/loss": own.accuracy - path.accuracy,
    }


def recomputed_over(calibration: Calibration | None) -> int:
    """Training batches over which the statistics of both sides are recomputed: what a trick asks for, else 10."""
    return (0 if calibration is None else calibration.batches) or CALIBRATION_BATCHES


def discretisation_scores(
    module: "TrainingModule",
    data: "TensorDataModule",
    derived: Architecture,
    split: "Split",
    calibration: Calibration | None,
) -> tuple[Score, Score]:
    """Scores on a split under the policy's own gates and of the derived path, both calibrated over training batches."""
    extra, scoring = data.calibration_batches(recomputed_over(calibration)), data.evaluation_batches(split)
    moment, alone = module.moment("evaluation"), module.space.gates(derived)

    def proposed(batch: int) -> Gates:
        return module.policy.propose(moment.at(gate_set=batch))[0]  # the temperature is that of now

    return score_gates(module, proposed, scoring, extra), score_gates(module, lambda batch: alone, scoring, extra)
