"""Scores a network under any gates, with its normalisation statistics recomputed for them.

`nastricks.ranking.evaluate` scores many children at once; this is for the gates that a policy proposes, and for one
path beside them.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from nastricks.data.batch import Batch
from nastricks.derivations import Draw
from nastricks.modules.normalisation import batch_norms, batch_statistics, cumulative_statistics, kept_statistics
from nastricks.rng import forked_rng
from nastricks.spaces import Gates

if TYPE_CHECKING:
    from nastricks.data import TensorDataModule
    from nastricks.modules.training import TrainingModule


class Score(NamedTuple):
    """How a network does on the scoring images: accuracy in [0, 1], mean cross entropy in nats."""

    accuracy: float
    loss: float


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Eval mode and keyed random draws inside [a noise operation]; mode, statistics and generators are put back."""
    modes = {module: module.training for module in network.modules()}
    device = next(network.parameters()).device
    with kept_statistics(batch_norms(network)), forked_rng("evaluation", device=device):
        network.eval()
        try:
            yield
        finally:
            for module, mode in modes.items():
                module.training = mode


@torch.no_grad()
def score_gates(
    module: "TrainingModule",
    gates: Callable[[int], Gates],
    scoring: Sequence[Batch],
    calibration: Sequence[Batch] = (),
) -> Score:
    """Score the module's network under gates; the network is left as it was.

    Args:
        module: Whose network runs.
        gates: Of the batch with this number, for policies whose gates are drawn.
        scoring: Batches that are scored on.
        calibration: Training batches to recompute batch-norm statistics from; () keeps the running ones.
    """
    with evaluating(module.networks):
        if calibration:
            with cumulative_statistics(batch_norms(module.networks)):
                for number, batch in enumerate(calibration):
                    module.logits(batch.images, gates(number))
        logits = torch.cat([module.logits(batch.images, gates(number)) for number, batch in enumerate(scoring)])
    labels = torch.cat([batch.labels for batch in scoring])
    hits = (logits.argmax(1) == labels).float().mean()
    return Score(*torch.stack([hits, F.cross_entropy(logits.float(), labels)]).tolist())


@torch.no_grad()
def gated_accuracy(module: "TrainingModule", data: "TensorDataModule", draw: Draw) -> float:
    """Accuracy in [0, 1] of the supernet on the validation split, under gates drawn anew for each batch.

    Batch norms use each batch's own statistics, as in the released code of DARTS-PT: the running ones are those of all
    options together. The network is left as it was.
    """
    data.to(module.device)
    hits, images = 0, 0
    with batch_statistics(module.networks):
        for number, batch in enumerate(data.evaluation_batches("validation")):
            at = module.moment("evaluation").at(gate_set=number, samples=len(batch))
            hits += int((module.logits(batch.images, draw(at)).argmax(1) == batch.labels).sum())
            images += len(batch)
    return hits / images
