"""One categorical distribution a choice, whatever the other choices are (TuNAS, Bender et al. 2020, section 3)."""

import torch
from torch import Tensor, nn

from nastricks.policies.sequence import SequencePolicy, State
from nastricks.spaces import Space


class Independent(SequencePolicy):
    """A row of logits for each choice; they start at zero, where every legal option is as likely as another.

    Args:
        space: The space to draw from.
        masked: Whether only legal and allowed slots can be drawn.
        temperature: Divides the logits, above 0.
        tanh_constant: Bounds the logits; None does not.

    Attributes:
        logits: (T, W): all slots, since without masks all can be drawn; with masks those of other kinds never learn.
    """

    def __init__(
        self, space: Space, masked: bool = True, temperature: float = 1.0, tanh_constant: float | None = None
    ) -> None:
        super().__init__(space, masked, temperature, tanh_constant)
        self.logits = nn.Parameter(torch.zeros(self.vocabulary.length, self.vocabulary.width))

    def begin(self, rows: int) -> State:
        """Nothing is remembered."""
        return ()

    def step(self, position: int, previous: Tensor | None, state: State) -> tuple[Tensor, State]:
        return self.logits[position : position + 1], state

    def preferences(self) -> dict[str, Tensor]:
        """Each choice's probabilities over its allowed options, before the space's `legal` has its say."""
        scores: dict[str, Tensor] = {}
        for position, choice in enumerate(self.space.choices):
            offset, allowed = self.vocabulary.offsets[position], list(self.allowed[choice.name])
            everything = torch.ones(1, self.vocabulary.width, dtype=torch.bool, device=self.device)
            logits = self.logits.detach()[position : position + 1]
            own = self._log_softmax(logits, everything)[0, offset : offset + len(choice.options)].cpu()
            scores[choice.name] = torch.full((len(choice.options),), -torch.inf, dtype=own.dtype)
            scores[choice.name][allowed] = torch.softmax(own[allowed], 0)
        return scores
