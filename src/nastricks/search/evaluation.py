"""One row of ``evaluations.csv``."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of a search.

    `spent` counts full evaluations, this one included; `meets` says whether the architecture meets the constraints;
    `repeat` that its network was evaluated before.
    """

    number: int
    spent: float
    architecture: str
    epochs: int | None
    reward: float
    accuracy: float
    truth: float | None
    params: int | None
    flops: int | None
    latency: float | None
    seconds: float
    status: str
    meets: bool
    repeat: bool
