"""A resource penalty: the policy also learns from what the architectures that it prefers would cost.

ProxylessNAS (Cai et al. 2019, section 3.3) and FBNet (Wu et al. 2019, section 3.2) make the expected latency of a child
differentiable in alpha; GOLD-NAS (Bi et al. 2020) lets a FLOPs penalty grow over the search; TuNAS (Bender et al. 2020,
equation 3) aims at a target by the absolute distance from it.
"""

from typing import TYPE_CHECKING, ClassVar, Literal

from torch import Tensor

from nastricks.errors import InputError
from nastricks.estimators import Step
from nastricks.modules.trick import Change, Need, Trick
from nastricks.policies import Policy, SequencePolicy
from nastricks.spaces import Gates, OptionCosts, option_costs, read_latency

if TYPE_CHECKING:
    from nastricks.modules import TrainingModule

Kind = Literal["fixed", "growing", "target"]
KINDS = ("fixed", "growing", "target")
RESOURCES = ("flops", "params", "latency")


def penalty(cost: Tensor, kind: Kind, weight: float, progress: float, target: float) -> Tensor:
    """What a cost () adds to the loss (): weight * cost, weight * progress * cost, or weight * abs(cost / target - 1).

    `progress` in [0, 1] is the part of the run that is done; `target` is above 0.
    """
    if kind == "target":
        return weight * (cost / target - 1).abs()
    return weight * cost * (progress if kind == "growing" else 1.0)


class ResourcePenalty(Trick):
    """Adds a term in the expected cost of a child, relative to the mean over the space, to what the policy learns from.

    Args:
        cost: Floating-point operations, parameters, or latency.
        kind: `fixed`; `growing`, from 0 at the start of the run along a line to `weight` at its end; `target`, the
            absolute distance from `target`.
        weight: At least 0.
        target: The cost aimed at, above 0, as a part of the mean over the space; for `target` alone.
        latency: The table that `nastricks latency` wrote; for `latency` alone.

    Raises:
        InputError: a value is out of its range, or `target` or `latency` is missing or has no use.
    """

    changes: ClassVar[Change] = "policy gradient"
    needs: ClassVar[tuple[Need, ...]] = ("policy that learns", "gradient through the gates")
    order = 60
    neutral = {"weight": 0.0}

    def __init__(
        self,
        cost: Literal["flops", "params", "latency"] = "flops",
        kind: Literal["fixed", "growing", "target"] = "fixed",
        weight: float = 0.1,
        target: float | None = None,
        latency: str | None = None,
    ) -> None:
        super().__init__()
        for name, value, known in (("cost", cost, RESOURCES), ("kind", kind, KINDS)):
            if value not in known:
                raise InputError(f"resource_penalty.{name} is {value!r}: expected {', '.join(known)}")
        if not 0 <= weight < float("inf"):
            raise InputError(f"resource_penalty.weight is {weight}: expected at least 0, such as 0.1")
        if (target is not None) != (kind == "target"):
            raise InputError(
                f"resource_penalty.kind is {kind} and target is {target}: kind target needs one, such as 0.8 of the "
                "mean, and the others have no use for it"
            )
        if target is not None and not 0 < target < float("inf"):
            raise InputError(f"resource_penalty.target is {target}: expected a number above 0, such as 0.8")
        if (latency is not None) != (cost == "latency"):
            raise InputError(
                f"resource_penalty.cost is {cost} and latency is {latency}: cost latency needs the table that "
                "`nastricks latency` writes, and the others have no use for it"
            )
        self.cost, self.kind, self.weight, self.target, self.latency = cost, kind, weight, target, latency
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
            read = self.latency is not None
            self._costs = (
                read_latency(str(self.latency), module.space)
                if read
                else option_costs(module.space, module.spec)[self.cost]
            )
            if self._costs.mean <= 0:
                return f"trick resource_penalty weighs {self.cost}, and no child of {module.space.name} has any"
        self._policy = policy
        return None

    def on_policy_loss(self, loss: Tensor, gates: Gates, step: Step) -> Tensor:
        progress = step.moment.progress
        if self.weight == 0.0 or (self.kind == "growing" and progress == 0.0):
            return loss
        assert self._policy is not None, "refusal comes first"
        assert self._costs is not None, "refusal comes first"
        self.act()
        cost = self._costs.expected(self._policy.strengths(), self._policy.allowed) / self._costs.mean
        return loss + penalty(cost, self.kind, self.weight, progress, self.target or 1.0)

    def first_active_step(self, module: "TrainingModule") -> int:
        """The last step: a growing penalty is largest there, and warm-ups are over."""
        return max(0, round(module.epochs * module.steps_per_epoch) - 1)
