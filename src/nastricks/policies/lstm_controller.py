"""An LSTM that writes architectures: Zoph and Le 2017, NASNet (Zoph et al. 2018), ENAS (Pham et al. 2018)."""

from typing import Literal

import torch
from torch import Tensor, nn

from nastricks.errors import InputError
from nastricks.policies.sequence import SequencePolicy, State
from nastricks.rng import forked_rng, inherited_seed
from nastricks.spaces import Space


class LSTMController(SequencePolicy):
    """One LSTM layer reads the token before; one linear layer gives the logits of the next over all W slots.

    ENAS scores node inputs by attention over the nodes so far; here they are slots of their own kind, as in NASNet.

    Args:
        space: The space to draw from.
        hidden: Width of the LSTM and of the embedding, at least 1 (NASNet and ENAS 100).
        embedding: Each kind's tokens have rows of their own (`kind`), or a row stands for an option's number whatever
            its kind (`shared`).
        start: What is read in the first token's place: a `learned` vector (ENAS) or zeros (`fixed`).
        init_range: Every parameter starts uniform within plus or minus this, above 0: 0.1 in NASNet and in ENAS's
            code, 0.08 in Zoph and Le.
        masked: Whether only legal and allowed slots can be drawn.
        temperature: Divides the logits, above 0.
        tanh_constant: Bounds the logits; None does not.
        seed: Key of the start; None takes the run's own.
    """

    start: Tensor
    row_of: Tensor

    def __init__(
        self,
        space: Space,
        hidden: int = 100,
        embedding: Literal["kind", "shared"] = "kind",
        start: Literal["learned", "fixed"] = "learned",
        init_range: float = 0.1,
        masked: bool = True,
        temperature: float = 1.0,
        tanh_constant: float | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__(space, masked, temperature, tanh_constant)
        if hidden < 1:
            raise InputError(f"policy.hidden is {hidden}: expected at least 1")
        if embedding not in ("kind", "shared"):
            raise InputError(f"policy.embedding is {embedding!r}: expected 'kind' or 'shared'")
        if start not in ("learned", "fixed"):
            raise InputError(f"policy.start is {start!r}: expected 'learned' or 'fixed'")
        if not 0 < init_range < float("inf"):
            raise InputError(f"policy.init_range is {init_range}: expected a number above 0")
        words = self.vocabulary
        row_of = range(words.width) if embedding == "kind" else words.option_of
        with forked_rng(inherited_seed(seed), "lstm_controller"):
            self.embedding = nn.Embedding(max(row_of) + 1, hidden)
            self.cell = nn.LSTMCell(hidden, hidden)
            self.head = nn.Linear(hidden, words.width)
            first = torch.zeros(1, hidden)
            if start == "learned":
                self.start = nn.Parameter(first)
            else:
                self.register_buffer("start", first, persistent=False)
            self.register_buffer("row_of", torch.tensor(row_of), persistent=False)
            for parameter in self.parameters():
                nn.init.uniform_(parameter, -init_range, init_range)

    def begin(self, rows: int) -> State:
        """Hidden and cell state, zeros (N, hidden) each."""
        zeros = self.start.new_zeros(rows, self.cell.hidden_size)
        return zeros, zeros

    def step(self, position: int, previous: Tensor | None, state: State) -> tuple[Tensor, State]:
        hidden, memory = state
        read = self.start.expand(len(hidden), -1) if previous is None else self.embedding(self.row_of[previous])
        hidden, memory = self.cell(read, (hidden, memory))
        return self.head(hidden), (hidden, memory)
