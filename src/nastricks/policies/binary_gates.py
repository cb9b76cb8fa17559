"""Binary gates with two sampled paths: ProxylessNAS (Cai et al. 2019, section 3.2)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from nastricks.moment import Moment
from nastricks.policies.softmax import Softmax
from nastricks.spaces import Gate, Gates, Space


class BinaryGates(Softmax):
    """The weights see one path, drawn by softmax(alpha); the policy learns from two, of which one is on.

    The policy's pass draws two options a choice without replacement, renormalises their probabilities, and switches one
    of the two on (gate 1) and the other off (gate 0). Alpha's gradient is that of equation 4 over the two:
    sum_j dL/dg_j p_j (delta_ij - p_i). After alpha's step the two are shifted together so that the probabilities of
    all other options stay what they were. A choice with one option left passes it on. Use an optimizer without momentum
    of the first kind (Adam with beta1 = 0, as in the paper's code): alpha of options that were not drawn must not move.

    Args:
        space: The space whose choices are gated.
        init_std: Standard deviation of alpha's normal start around zero, at least 0.
        seed: Key of alpha's start; None takes the run's own.
    """

    mixed = False

    def __init__(self, space: Space, init_std: float = 1e-3, seed: int | None = None) -> None:
        super().__init__(space, init_std, seed)
        self._drawn: dict[str, tuple[list[int], Tensor]] = {}  # options and their alpha, within one update

    def propose(self, moment: Moment) -> Sequence[Gates]:
        probabilities = [strength.detach() for strength in self.strengths().values()]
        on_host = [p.tolist() for p in torch.split(torch.cat(probabilities).cpu(), [len(p) for p in probabilities])]
        rng = moment.generator(f"binary gates {moment.role}")
        if moment.role == "policy":
            self._drawn = {}
        gates: dict[str, Gate] = {}
        for choice, chances in zip(self.space.choices, on_host, strict=True):
            weights = torch.tensor(chances, dtype=torch.float64)
            two = moment.role in ("policy", "attack") and len(chances) > 1
            places = torch.multinomial(weights, 2 if two else 1, replacement=False, generator=rng)
            options = self.allowed[choice.name]
            if two:
                on = int(torch.multinomial(weights[places], 1, generator=rng))
                gates[choice.name] = self._binary(choice.name, [options[i] for i in places.tolist()], on, moment)
            else:
                gates[choice.name] = Gate((options[int(places)],))
        return [gates]

    def _binary(self, name: str, pair: list[int], on: int, moment: Moment) -> Gate:
        alpha = self.alpha[name][pair]
        if moment.role == "policy":
            self._drawn[name] = (pair, alpha.detach().clone())
        shares = torch.softmax(alpha, dim=0)
        switched = torch.zeros_like(shares)
        switched[on] = 1.0
        return Gate(tuple(pair), switched + (shares - shares.detach()))

    @torch.no_grad()
    def updated(self, moment: Moment) -> None:
        for name, (pair, before) in self._drawn.items():
            moved = self.alpha[name][pair]
            self.alpha[name][pair] = moved + torch.logsumexp(before, 0) - torch.logsumexp(moved, 0)
        self._drawn = {}
