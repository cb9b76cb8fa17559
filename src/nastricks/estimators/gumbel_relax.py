"""RELAX in a supernet: an unbiased gradient of the loss of sampled paths (Grathwohl et al. 2018, equation 9).

The score-function gradient of the sampled path's loss, less a function c of the Gumbel noise that gave the path, plus
the exact gradient of that function's expectation. c is the supernet's own loss under the relaxed gates, as in REBAR
(Tucker et al. 2017, equation 8), with a learned scale and temperature, plus a small network (RELAX, section 3.2).
"""

import math
from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from nastricks.errors import InputError
from nastricks.estimators.base import Estimator, Step
from nastricks.estimators.relax import conditional_gumbel
from nastricks.policies import Policy
from nastricks.rng import forked_rng, inherited_seed
from nastricks.spaces import Gate, Gates

Noisy = Mapping[str, Tensor]
"""A number an allowed option (allowed,) for each choice: log-probabilities, or these with noise."""


class GumbelRelax(Estimator):
    """The gradient by alpha of the expected search loss of one path, drawn by the policy's strengths.

    Softmax gates descend the loss of a mixture, Gumbel gates that of a relaxed sample: neither is the loss of a path.
    This estimate's mean is exactly that gradient, whatever the control variate, which learns to lower the variance: its
    own Adam descends the squared norm of the estimate. An update takes a pass of the path, and two of all options with
    a second backward pass.

    Args:
        policy: The policy to update; its strengths are the probabilities of a choice's options.
        temperature: Where the learned temperature of the relaxed gates starts, above 0 (the paper 0.5).
        scale: Where the learned weight of the relaxed gates' loss starts; 1 is REBAR's, and with 0 and an untrained
            network the estimate is REINFORCE without a baseline.
        hidden: Width of the network's hidden layer, at least 1.
        lr: Learning rate of the control variate's Adam, above 0.
        every: Update in every this many training steps, at least 1.
        order: Update before or after the weight step of the same batch; None is before.
        seed: Key of the network's start; None takes the run's own.

    Raises:
        InputError: a value out of its range, or a policy whose strengths are no probabilities.
    """

    through_gates: ClassVar[bool] = True

    def __init__(
        self,
        policy: Policy,
        temperature: float = 0.5,
        scale: float = 1.0,
        hidden: int = 16,
        lr: float = 1e-2,
        every: int = 1,
        order: Literal["before", "after"] | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__(policy, every, order)
        strengths = policy.strengths()
        if not strengths or any(abs(float(s.detach().sum()) - 1) > 1e-4 for s in strengths.values()):
            raise InputError(
                f"GumbelRelax draws a path by the policy's strengths, and those of {type(policy).__name__} are no "
                "probabilities: use Softmax or GumbelSoftmax"
            )
        for name, value in (("temperature", temperature), ("lr", lr)):
            if not 0 < value < math.inf:
                raise InputError(f"estimator.{name} is {value}: expected a number above 0")
        if not math.isfinite(scale):
            raise InputError(f"estimator.scale is {scale}: expected a number, such as 1")
        if hidden < 1:
            raise InputError(f"estimator.hidden is {hidden}: expected at least 1")
        self.lr = lr
        self.log_temperature = nn.Parameter(torch.tensor(math.log(temperature)))
        self.scale = nn.Parameter(torch.tensor(float(scale)))
        with forked_rng(inherited_seed(seed), "control_variate"):
            self.first = nn.Linear(sum(len(options) for options in policy.options_of.values()), hidden)
            self.last = nn.Linear(hidden, 1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def configure_optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.lr)

    def update(self, step: Step) -> None:
        alpha = [p for p in self.policy.parameters() if p.requires_grad]
        log_p = {name: s.clamp_min(torch.finfo(s.dtype).tiny).log() for name, s in self.policy.strengths().items()}
        z, conditional, tokens = self._draw(log_p, step)
        outcome = step.objective(self._path(tokens))
        control, other = self.control(z, step), self.control(conditional, step)
        log_prob = torch.stack([log_p[name][token] for name, token in tokens.items()]).sum()
        score = torch.autograd.grad(log_prob, alpha, retain_graph=True, allow_unused=True)
        relaxed = torch.autograd.grad(control - other, alpha, create_graph=True, allow_unused=True)
        # What tricks add to the loss may depend on alpha itself; the loss of a path does not.
        beside = (
            torch.autograd.grad(outcome, alpha, allow_unused=True) if outcome.requires_grad else [None] * len(alpha)
        )
        surprise = outcome.detach() - other
        found = []
        for p, by_score, by_control, own in zip(alpha, score, relaxed, beside, strict=True):
            parts = [part for part in (by_control, own) if part is not None]
            parts += [] if by_score is None else [surprise * by_score]
            found.append(torch.stack(parts).sum(0) if parts else torch.zeros_like(p))
        self.leave(step, torch.stack([g.square().sum() for g in found]).sum(), self.parameters())
        self.give(step, alpha, [g.detach() for g in found])

    def control(self, z: Noisy, step: Step) -> Tensor:
        """c(z) (): the scaled search loss under the gates softmax(z / temperature), plus the network of these gates."""
        gates: dict[str, Gate] = {}
        features = []
        for name, noisy in z.items():
            weights = torch.softmax(noisy * (-self.log_temperature).exp(), dim=0)
            options = self.policy.allowed[name]
            gates[name] = Gate(options, weights)
            places = torch.tensor(options, device=weights.device)
            features.append(weights.new_zeros(len(self.policy.options_of[name])).index_copy(0, places, weights))
        network = self.last(torch.tanh(self.first(torch.cat(features))))[0]
        return self.scale * step.loss(gates, step.search) + network

    def _draw(self, log_p: Noisy, step: Step) -> tuple[Noisy, Noisy, dict[str, int]]:
        """Noisy log-probabilities, others that would have given the same path, and the path: a place a choice."""
        rng = step.moment.generator("relax")
        clocks = {
            name: torch.empty(2, len(p), dtype=torch.float64).exponential_(generator=rng) for name, p in log_p.items()
        }
        z, conditional, largest = {}, {}, {}
        for name, p in log_p.items():
            first, second = clocks[name].to(p).clamp_min(torch.finfo(p.dtype).tiny)
            z[name] = p - first.log()
            largest[name] = z[name].detach().argmax()
            conditional[name] = conditional_gumbel(p, largest[name], second)
        places = torch.stack(list(largest.values())).tolist()  # one transfer: the host must know the path
        return z, conditional, dict(zip(log_p, places, strict=True))

    def _path(self, tokens: Mapping[str, int]) -> Gates:
        """Gates of one option a choice."""
        return {name: Gate((self.policy.allowed[name][place],)) for name, place in tokens.items()}
