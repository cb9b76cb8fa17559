"""RELAX (Grathwohl et al. 2018, "Backpropagation through the Void", section 3.2): a learned control variate.

A score-function gradient less a function c of a relaxed token, plus the exact gradient of that function's expectation,
so that the mean is untouched whatever c is, while c learns to lower the variance. Here token by token: the prefix is
held fixed, so that the estimate stays unbiased for policies whose later tokens depend on the earlier ones.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nastricks.errors import InputError
from nastricks.estimators.base import Updater
from nastricks.estimators.baselines import PrefixLayer
from nastricks.estimators.score_function import BaselineMaker, ScoreFunction
from nastricks.policies import Policy, Rollout, SequencePolicy
from nastricks.rng import forked_rng, generator, inherited_seed
from nastricks.spaces import Resource


def conditional_gumbel(log_probabilities: Tensor, tokens: Tensor, clocks: Tensor) -> Tensor:
    """z = log p + Gumbel noise, given that its largest entry is at the token (appendix B of the paper).

    Differentiable in the log-probabilities, which are normalised. With e the clocks, the largest entry is -log e_b,
    whatever p is, and another is -log(e_b + e_i / p_i), which is smaller.

    Args:
        log_probabilities: (..., W), finite; what is illegal is masked by the caller.
        tokens: (...), b.
        clocks: (..., W), independent exponential variables of rate 1, above 0.
    """
    log_clocks = clocks.log()
    largest = -log_clocks.gather(-1, tokens[..., None])
    # Softplus, and not logaddexp, whose second derivative is inf / inf for improbable slots.
    others = largest - F.softplus(log_clocks - log_probabilities + largest)
    at_token = torch.arange(clocks.shape[-1], device=tokens.device) == tokens[..., None]
    return torch.where(at_token, largest, others)


class ControlVariate(nn.Module):
    """c(z, prefix): a network of one hidden layer on softmax(z / temperature) and the tokens before.

    Its last layer starts at zero: RELAX starts as REINFORCE without a baseline. The hidden layer is smooth, since c is
    trained through its own derivative.
    """

    def __init__(self, policy: SequencePolicy, hidden: int, temperature: float) -> None:
        super().__init__()
        self.before = PrefixLayer(policy, hidden)
        self.relaxed = nn.Linear(policy.vocabulary.width, hidden, bias=False)
        self.last = nn.Linear(hidden, 1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)
        self.log_temperature = nn.Parameter(torch.tensor(math.log(temperature)))

    def forward(self, z: Tensor, legal: Tensor, tokens: Tensor) -> Tensor:
        """z (N, T, W), finite, legal slots (N, T, W), tokens (N, T) -> (N, T); reads no token at or after its place."""
        logits = (z * (-self.log_temperature).exp()).masked_fill(~legal, -torch.inf)
        return self.last(torch.tanh(self.before(tokens) + self.relaxed(torch.softmax(logits, -1))))[..., 0]


class RELAX(ScoreFunction):
    """REINFORCE with a learned control variate for each token.

    The control variate is the baseline, and it has its own Adam, which lowers a single-sample estimate of the
    gradient's squared norm: of the gradient by each token's logits, before the network that makes them (the paper
    takes the gradient by the parameters; for logits that are parameters the two are the same).

    Args:
        policy: The policy to update; it draws and scores sequences.
        episodes: Architectures an update, at least 1.
        hidden: Width of the control variate's hidden layer, at least 1.
        temperature: Where its learned temperature starts, above 0 (the paper 0.5).
        lr: Learning rate of its Adam, above 0.
        baseline: Refused: the control variate is the baseline.
        discount: In (0, 1]: the return of token t of T is discount^(T - 1 - t) times the reward.
        entropy: Weight of the entropy bonus, at least 0.
        illegal_reward: What an illegal draw earns, without masks.
        every: Update in every this many training steps, at least 1.
        seed: Key of the control variate's start and of its noise; None takes the run's own.
        resource: Takes the cost of a child off its reward, inside a supernet's training; None does not.
    """

    def __init__(
        self,
        policy: Policy,
        episodes: int = 1,
        hidden: int = 64,
        temperature: float = 0.5,
        lr: float = 1e-2,
        baseline: BaselineMaker | None = None,
        discount: float = 1.0,
        entropy: float = 0.0,
        illegal_reward: float = 0.0,
        every: int = 1,
        seed: int | None = None,
        resource: Resource | None = None,
    ) -> None:
        super().__init__(policy, episodes, None, discount, entropy, illegal_reward, every, resource)
        if baseline is not None:
            raise InputError("estimator.baseline is set, and RELAX's control variate is its baseline: set it to null")
        if hidden < 1:
            raise InputError(f"estimator.hidden is {hidden}: expected at least 1")
        if not 0 < temperature < float("inf"):
            raise InputError(f"estimator.temperature is {temperature}: expected a number above 0")
        if not 0 < lr < float("inf"):
            raise InputError(f"estimator.lr is {lr}: expected a number above 0")
        self.lr, self.seed = lr, inherited_seed(seed)
        with forked_rng(self.seed, "control_variate"):
            self.control = ControlVariate(self.policy, hidden, temperature)

    def configure_optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.control.parameters(), lr=self.lr)

    def _improve(self, rollout: Rollout, returns: Tensor, advantages: Tensor, updater: Updater) -> None:
        scored = self.policy.score(rollout.tokens)
        legal = scored.log_probabilities > -torch.inf
        finite = scored.log_probabilities.masked_fill(~legal, 0.0)
        towards = self.gradient_by_log_probabilities(finite.detach(), legal, rollout.tokens, returns)
        # By the logits themselves: through the log-softmax, whose Jacobian is 1 - p.
        p = scored.log_probabilities.detach().exp()
        by_logits = towards - p * towards.sum(-1, keepdim=True)
        self.leave(updater, by_logits.square().sum((1, 2)).mean(), self.control.parameters())
        gain = (towards.detach() * finite).sum((1, 2)).mean()
        self.leave(updater, -(gain + self._bonus(scored)))

    def gradient_by_log_probabilities(
        self, log_probabilities: Tensor, legal: Tensor, tokens: Tensor, returns: Tensor
    ) -> Tensor:
        """The estimate (N, T, W) of the gradient of the expected return, differentiable in the control variate.

        Equation 9 of the paper for each token b: (R - c(z~)) d log p(b) + d c(z) - d c(z~), with z the noisy
        log-probabilities that gave b, z~ others that would have given b, both drawn here.

        Args:
            log_probabilities: (N, T, W), any finite number where illegal.
            legal: (N, T, W).
            tokens: (N, T), as drawn.
            returns: (N, T).
        """
        first, second = self._clocks(log_probabilities)
        # Which z gave the token was not kept; drawn given the token it has the same distribution, and what it is made
        # of besides the log-probabilities is the Gumbel noise that stays as it is when they change.
        noise = conditional_gumbel(log_probabilities, tokens, first) - log_probabilities
        leaf = log_probabilities.clone().requires_grad_()
        with torch.enable_grad():
            control = self.control(leaf + noise, legal, tokens)
            conditional = self.control(conditional_gumbel(leaf, tokens, second), legal, tokens)
            (relaxed,) = torch.autograd.grad((control - conditional).sum(), leaf, create_graph=True)
        drawn = F.one_hot(tokens, log_probabilities.shape[-1]).to(returns)
        return (returns - conditional)[..., None] * drawn + relaxed

    def _clocks(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Two independent exponential variables for each entry, keyed by the update."""
        rng = generator(self.seed, "relax", self.updates)
        clocks = torch.empty(2, *like.shape, dtype=torch.float64).exponential_(generator=rng)
        first, second = clocks.to(like).clamp_min(torch.finfo(like.dtype).tiny)
        return first, second
