"""A resource penalty: the policy also learns from what the architectures that it prefers would cost.

ProxylessNAS (Cai et al. 2019, section 3.3) and FBNet (Wu et al. 2019, section 3.2) make the expected latency of a child
differentiable in alpha, and FBNet (equation 2) multiplies the loss by a power of its logarithm; GOLD-NAS (Bi et al.
2020) lets a FLOPs penalty grow over the search; TuNAS (Bender et al. 2020, equation 3) aims at a target by the absolute
distance from it.
"""

import math
from typing import TYPE_CHECKING, ClassVar, Literal

from torch import Tensor

from nastricks.errors import InputError
from nastricks.estimators import Step
from nastricks.modules.trick import Change, Need, Trick
from nastricks.policies import Policy, SequencePolicy
from nastricks.spaces import Gates, OptionCosts, option_costs, read_latency

if TYPE_CHECKING:
    from nastricks.modules import TrainingModule

Kind = Literal["fixed", "growing", "target", "factor"]
KINDS = ("fixed", "growing", "target", "factor")
RESOURCES = ("flops", "params", "latency")


def penalty(cost: Tensor, kind: Kind, weight: float, progress: float, target: float) -> Tensor:
    """What a cost () adds to the loss (): weight * cost, weight * progress * cost, or weight * abs(cost / target - 1).

    `progress` in [0, 1] is the part of the run that is done; `target` is above 0.
    """
    if kind == "target":
        return weight * (cost / target - 1).abs()
    return weight * cost * (progress if kind == "growing" else 1.0)


def factor(cost: Tensor, weight: float, power: float, target: float | None) -> Tensor:
    """What a cost () above 1 multiplies the loss () by: weight * (log cost)^power, or with a target above 1
    weight * (log cost / log target)^power.
    """
    return weight * (cost.log() / (1.0 if target is None else math.log(target))).pow(power)


class ResourcePenalty(Trick):
    """Adds a term in the expected cost of a child, relative to the mean over the space, to what the policy learns from.

    Args:
        cost: Floating-point operations, parameters, or latency.
        kind: `fixed`; `growing`, from 0 at the start of the run along a line to `weight` at its end; `target`, the
            absolute distance from `target`; `factor`, which adds nothing and multiplies the loss by `weight` times a
            power of the logarithm of the cost in FLOPs, parameters or microseconds.
        weight: At least 0; 0 leaves the loss as it is.
        target: The cost aimed at, above 0, as a part of the mean over the space; for `target`. With `factor` its
            logarithm divides that of the cost [ProxylessNAS]; None does not divide [FBNet].
        power: Above 0, for `factor` alone, which needs one: 0.6 in FBNet.
        latency: The table that `nastricks latency` wrote; for `latency` alone.

    Raises:
        InputError: a value is out of its range, or `target`, `power` or `latency` is missing or has no use.
    """

    changes: ClassVar[Change] = "policy gradient"
    needs: ClassVar[tuple[Need, ...]] = ("policy that learns", "gradient through the gates")
    order = 40  # before terms that are added to the loss, which a factor does not weigh
    neutral = {"weight": 0.0}

    def __init__(
        self,
        cost: Literal["flops", "params", "latency"] = "flops",
        kind: Literal["fixed", "growing", "target", "factor"] = "fixed",
        weight: float = 0.1,
        target: float | None = None,
        power: float | None = None,
        latency: str | None = None,
    ) -> None:
        super().__init__()
        for name, value, known in (("cost", cost, RESOURCES), ("kind", kind, KINDS)):
            if value not in known:
                raise InputError(f"resource_penalty.{name} is {value!r}: expected {', '.join(known)}")
        if not 0 <= weight < float("inf"):
            raise InputError(f"resource_penalty.weight is {weight}: expected at least 0, such as 0.1")
        if kind != "factor" and (target is not None) != (kind == "target"):
            raise InputError(
                f"resource_penalty.kind is {kind} and target is {target}: kind target needs one, such as 0.8 of the "
                "mean, factor may have one, and the others have no use for it"
            )
        if (power is not None) != (kind == "factor"):
            raise InputError(
                f"resource_penalty.kind is {kind} and power is {power}: kind factor needs one, such as 0.6, and the "
                "others have no use for it"
            )
        if power is not None and not 0 < power < float("inf"):
            raise InputError(f"resource_penalty.power is {power}: expected a number above 0, such as 0.6")
        if target is not None and not 0 < target < float("inf"):
            raise InputError(f"resource_penalty.target is {target}: expected a number above 0, such as 0.8")
        if (latency is not None) != (cost == "latency"):
            raise InputError(
                f"resource_penalty.cost is {cost} and latency is {latency}: cost latency needs the table that "
                "`nastricks latency` writes, and the others have no use for it"
            )
        self.cost, self.kind, self.latency = cost, kind, latency
        self.weight, self.target, self.power = weight, target, power
        self._policy: Policy | None = None
        self._costs: OptionCosts | None = None

    def refusal(self, module: "TrainingModule") -> str | None:
        policy = module.policy
        if isinstance(policy, SequencePolicy):
            return (
                f"trick resource_penalty is for gates that are learnt by gradient, and {type(policy).__name__} is a "
                "controller: let its reward take the cost off, with estimator.resource, or reward.resource of a search"
            )
        reason = super().refusal(module)
        if reason is not None:
            return reason
        if not policy.strengths():
            return f"trick resource_penalty needs strengths of options, and {type(policy).__name__} has none"
        if self._costs is None:
            self._costs = self._counted(module)
            if self._costs.mean <= 0:
                return f"trick resource_penalty weighs {self.cost}, and no child of {module.space.name} has any"
        if self.kind == "factor":
            assert module.estimator is not None, "the policy learns"
            if module.estimator.order == "joined":
                return (
                    "trick resource_penalty of kind factor would multiply the weights' loss too, which "
                    f"{type(module.estimator).__name__} shares with the policy: take kind fixed, growing or target"
                )
            lowest = min(self._costs.least, self._aim() or math.inf)
            if lowest <= 1:
                return (
                    "trick resource_penalty of kind factor takes logarithms, and that of the cheapest child or of the "
                    f"target, {lowest:.3g} {self._costs.unit}, is not above 0: take kind fixed, growing or target"
                )
        self._policy = policy
        return None

    def on_policy_loss(self, loss: Tensor, gates: Gates, step: Step) -> Tensor:
        progress = step.moment.progress
        if self.weight == 0.0 or (self.kind == "growing" and progress == 0.0):
            return loss
        assert self._policy is not None, "refusal comes first"
        assert self._costs is not None, "refusal comes first"
        self.act()
        cost = self._costs.expected(self._policy.strengths(), self._policy.allowed)
        if self.power is not None:
            return loss * factor(cost, self.weight, self.power, self._aim())
        return loss + penalty(cost / self._costs.mean, self.kind, self.weight, progress, self.target or 1.0)

    def _counted(self, module: "TrainingModule") -> OptionCosts:
        """The costs of the space's options; a factor takes the logarithm of microseconds."""
        if self.latency is None:
            return option_costs(module.space, module.spec)[self.cost]
        costs = read_latency(self.latency, module.space)
        return costs.times(1000, "microseconds") if self.kind == "factor" else costs

    def _aim(self) -> float | None:
        """The target in the unit of the costs."""
        assert self._costs is not None, "refusal comes first"
        return None if self.target is None else self.target * self._costs.mean

    def first_active_step(self, module: "TrainingModule") -> int:
        """The last step: a growing penalty is largest there, and warm-ups are over."""
        return max(0, round(module.epochs * module.steps_per_epoch) - 1)
