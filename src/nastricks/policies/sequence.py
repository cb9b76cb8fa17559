"""Controllers: policies that draw an architecture as a sequence of tokens, each given those before it.

Zoph and Le 2017 ("Neural Architecture Search with Reinforcement Learning", section 3.1): a network reads its own
earlier choices and answers the next one; the probability of an architecture is the product of its tokens'. Any space
is such a sequence, one token a choice in the order of `Space.choices`.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nastricks.errors import InputError
from nastricks.moment import Moment
from nastricks.policies.base import Policy
from nastricks.policies.vocabulary import Vocabulary, Walk
from nastricks.spaces import Architecture, Gates, Space

State = tuple[Tensor, ...]
"""What a controller remembers of the tokens before, each (N, ...)."""

REDRAWS = (1, 9, 90, 900)
"""How many sequences are drawn at a time until one is legal."""


@dataclass(frozen=True)
class Rollout:
    """N architectures as they were drawn.

    `tokens`: (N, T), long. `architectures`: N of them, None for an illegal draw (possible without masks only).
    `log_probs`, `entropies`: (N, T), of each token given those before it, without gradient.
    """

    tokens: Tensor
    architectures: tuple[Architecture | None, ...]
    log_probs: Tensor
    entropies: Tensor

    def __len__(self) -> int:
        return len(self.architectures)


@dataclass(frozen=True)
class Scored:
    """N sequences as a policy sees them now, differentiable in its parameters.

    `log_probs`, `entropies`: (N, T), of each token given those before it. `log_probabilities`: (N, T, W), of every
    slot in each token's place, -inf where it is illegal.
    """

    log_probs: Tensor
    entropies: Tensor
    log_probabilities: Tensor


class SequencePolicy(Policy):
    """Draws architectures token by token.

    Args:
        space: The space to draw from.
        masked: Whether only legal and allowed slots can be drawn. Without masks all W slots can, whatever the place,
            and a sequence with an illegal one is no architecture.
        temperature: Divides the logits, above 0 (ENAS's language models 5).
        tanh_constant: Bounds the logits: this times tanh(logits / temperature), above 0 (there 2.5); None does not.
    """

    def __init__(
        self, space: Space, masked: bool = True, temperature: float = 1.0, tanh_constant: float | None = None
    ) -> None:
        super().__init__(space)
        if not 0 < temperature < float("inf"):
            raise InputError(f"policy.temperature is {temperature}: expected a number above 0")
        if tanh_constant is not None and not 0 < tanh_constant < float("inf"):
            raise InputError(f"policy.tanh_constant is {tanh_constant}: expected a number above 0, or null for none")
        self.masked, self.temperature, self.tanh_constant = masked, temperature, tanh_constant
        self.vocabulary = Vocabulary(space)

    @abstractmethod
    def begin(self, rows: int) -> State:
        """The state before the first token of N = `rows` sequences."""

    @abstractmethod
    def step(self, position: int, previous: Tensor | None, state: State) -> tuple[Tensor, State]:
        """Raw logits (N, W), or (1, W) for all, of the token at `position`, and the state with the one before it.

        `previous` holds the token before (N,), of any kind; None at the first position.
        """

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @torch.no_grad()
    def draw(self, rng: torch.Generator, n: int) -> Rollout:
        """n sequences, drawn from a CPU generator.

        Raises:
            InputError: n below 1, or a prefix after which no option is both legal and allowed.
        """
        if n < 1:
            raise InputError(f"{n} architectures cannot be drawn: expected at least 1")
        words, device = self.vocabulary, self.device
        clocks = torch.empty(words.length, n, words.width, dtype=torch.float64).exponential_(generator=rng)
        walk, state, token = Walk(words, self.allowed, n), self.begin(n), None
        tokens, rows, masks = [], [], []
        for position in range(words.length):
            logits, state = self._step(position, token, state)
            legal = walk.legal.to(device)
            log_p = self._log_softmax(logits, legal)
            # The slot whose exponential clock of rate p rings first; an illegal one has rate 0 and never does.
            ringing = clocks[position].to(log_p).clamp_min(torch.finfo(log_p.dtype).tiny)
            token = (log_p.exp() / ringing).argmax(1)
            tokens.append(token)
            rows.append(log_p.expand(n, -1))
            masks.append(legal.expand(n, -1))
            walk.advance(token)
        drawn, every = torch.stack(tokens, 1), torch.stack(rows, 1)
        fits = torch.stack(masks, 1).gather(2, drawn[..., None])[..., 0].all(1).tolist()
        options = words.options(drawn)
        architectures = tuple(row if ok else None for row, ok in zip(options, fits, strict=True))
        return Rollout(drawn, architectures, every.gather(2, drawn[..., None])[..., 0], _entropy(every))

    def score(self, tokens: Tensor) -> Scored:
        """Log-probabilities and entropies of given tokens (N, T), each in the place where it stands.

        With masks, an illegal token has -inf, and what follows it is scored without masks.
        """
        walk, state = Walk(self.vocabulary, self.allowed, len(tokens)), self.begin(len(tokens))
        rows, previous = [], None
        for position in range(self.vocabulary.length):
            logits, state = self._step(position, previous, state)
            legal = walk.legal.to(self.device)
            log_p = self._log_softmax(logits, legal | ~legal.any(1, keepdim=True))
            rows.append(log_p.expand(len(tokens), -1))
            previous = tokens[:, position]
            walk.advance(previous)
        every = torch.stack(rows, 1)
        return Scored(every.gather(2, tokens[..., None])[..., 0], _entropy(every), every)

    def log_prob(self, architecture: Architecture) -> Tensor:
        """Log-probability () of an architecture; -inf where it is illegal or not allowed.

        Without masks the probabilities of all architectures add up to that of a legal draw, which is below 1.
        """
        tokens = self.vocabulary.tokens([architecture]).to(self.device)
        for position, (choice, option) in enumerate(zip(self.space.choices, architecture, strict=True)):
            if option not in self.allowed[choice.name] or option not in self.space.legal(architecture[:position]):
                return torch.tensor(-torch.inf, device=self.device)
        return self.score(tokens).log_probs.sum()

    def propose(self, moment: Moment) -> Sequence[Gates]:
        """The gates of one drawn architecture; without masks, of the first legal draw.

        Raises:
            InputError: a thousand draws in a row were illegal.
        """
        rng = moment.generator("path")
        for batch in REDRAWS:
            for architecture in self.draw(rng, batch).architectures:
                if architecture is not None:
                    return [self.space.gates(architecture)]
        raise InputError(
            f"{sum(REDRAWS)} draws of {type(self).__name__} in a row were illegal in {self.space.name}: set "
            "policy.masked true"
        )

    def _step(self, position: int, previous: Tensor | None, state: State) -> tuple[Tensor, State]:
        # In full precision inside a mixed-precision run too: the draw and its score must agree, and both are small.
        with torch.autocast(self.device.type, enabled=False):
            return self.step(position, previous, state)

    def _log_softmax(self, logits: Tensor, legal: Tensor) -> Tensor:
        """Raw logits (N or 1, W) -> log-probabilities, -inf where illegal."""
        logits = logits / self.temperature
        if self.tanh_constant is not None:
            logits = self.tanh_constant * torch.tanh(logits)
        return torch.log_softmax(logits.masked_fill(~legal, -torch.inf) if self.masked else logits, dim=-1)


def _entropy(log_probabilities: Tensor) -> Tensor:
    """(..., W) -> (...), in nats; a slot of probability 0 adds nothing, and neither does its gradient."""
    finite = log_probabilities.masked_fill(log_probabilities == -torch.inf, 0.0)
    return -(log_probabilities.exp() * finite).sum(-1)
