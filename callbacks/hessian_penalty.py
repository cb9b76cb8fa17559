"""The curvature of the search loss in alpha as a loss of its own: flat places are preferred.

Zela et al. 2020 (RobustDARTS, section 4) find that architectures read off sharp places lose most when discretised, and
stop there; Chen & Hsieh 2020 (SDARTS, section 4) show that perturbed gates penalise the same curvature implicitly. Here
it is penalised itself.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from nastricks.errors import InputError
from nastricks.estimators import Step
from nastricks.estimators.hessian import HessianProduct, dominant_eigenpair, flat, gradient_of_curvature
from nastricks.modules.normalisation import SmoothBatchNorm
from nastricks.modules.trick import Change, Need, Trick
from nastricks.policies import Policy
from nastricks.spaces import Gates

if TYPE_CHECKING:
    from nastricks.modules import TrainingModule


def growth(parameters: Sequence[Tensor], slope: Tensor) -> Tensor:
    """Zero (), with the gradient `slope` (n,) by the parameters."""
    plane = flat(parameters) @ slope.detach()
    return plane - plane.detach()


class HessianPenalty(Trick):
    """Adds the magnitude of the dominant eigenvalue of the loss's Hessian by alpha to what the policy learns from.

    The eigenvector is found by power iteration that starts from the one of the update before, so that a few products
    an update are enough; the first start is drawn. The eigenvalue's gradient is v' (dH/d alpha) v, by alpha alone; its
    sign is kept out, so that both a ridge and a valley are made flatter.

    Args:
        weight: At least 0.
        iterations: Products with the Hessian an update, at least 1.

    Raises:
        InputError: a value out of its range.
    """

    changes: ClassVar[Change] = "policy gradient"
    needs: ClassVar[tuple[Need, ...]] = ("gradient through the gates",)
    order = 90  # the curvature is that of the loss with all other penalties
    neutral = {"weight": 0.0}

    def __init__(self, weight: float = 0.1, iterations: int = 4) -> None:
        super().__init__()
        if not 0 <= weight < float("inf"):
            raise InputError(f"hessian_penalty.weight is {weight}: expected at least 0, such as 0.1")
        if iterations < 1:
            raise InputError(f"hessian_penalty.iterations is {iterations}: expected at least 1")
        self.weight, self.iterations = weight, iterations
        self.vector: Tensor | None = None
        self._policy: Policy | None = None
        self._joined = False

    def refusal(self, module: "TrainingModule") -> str | None:
        self._policy = module.policy
        self._joined = module.estimator is not None and module.estimator.order == "joined"
        return super().refusal(module)

    def on_policy_loss(self, loss: Tensor, gates: Gates, step: Step) -> Tensor:
        if self.weight == 0.0:
            return loss
        assert self._policy is not None, "refusal comes first"
        parameters = [p for p in self._policy.parameters() if p.requires_grad]
        batch = step.train if self._joined else step.search
        # In full precision, and from sums and products: the gradient of the curvature is a third derivative.
        with torch.autocast(loss.device.type, enabled=False), SmoothBatchNorm():
            own = torch.stack([step.loss(proposed, batch) for proposed in step.propose()]).mean()
        product = HessianProduct(own, parameters)
        found = dominant_eigenpair(
            lambda vector: step.average([product(vector)])[0],
            self._start(flat([p.detach() for p in parameters]), step),
            iterations=self.iterations,
        )
        slope = gradient_of_curvature(product, found.vector)
        self.vector = found.vector
        self.act()
        sign = 1.0 if found.value >= 0 else -1.0
        return loss + self.weight * (abs(found.value) + sign * growth(parameters, slope))

    def _start(self, like: Tensor, step: Step) -> Tensor:
        """The vector of the update before, or one that is drawn (n,)."""
        if self.vector is not None and len(self.vector) == len(like):
            return self.vector.to(like)
        rng = step.moment.generator("hessian_penalty")
        return torch.randn(len(like), generator=rng, dtype=torch.float64).to(like)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "vector": self.vector}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.vector = state_dict["vector"]
