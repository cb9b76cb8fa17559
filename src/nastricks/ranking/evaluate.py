"""Scores many children of a trained supernet; calibration and the sharing of prefixes live here together.

A network is a chain of segments, and a child's gates reach segment after segment. Children that begin alike share the
outputs of the segments up to where they differ: they are visited as a tree, depth first, so that memory grows with
the depth of the chain and not with the number of children.

Calibration (SPOS, section 3.4; AutoSlim, section 3.3) runs training batches through a child in train mode, whose batch
norms then hold the equally weighted mean of these batches' statistics. In the tree, each segment is calibrated once a
prefix, on its predecessors' outputs in train mode, which is what a pass through the whole child would feed it. The
numbers equal those of one child at a time to rounding. No segment reads what the last one gives out in train mode, so
that one computes its statistics alone.

Batch statistics, which some texts call BN calibration too, normalise the scored images by themselves: no pass comes
before, and a score depends on which images are scored together.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nastricks.data import Batch, Split, TensorDataModule
from nastricks.errors import InputError
from nastricks.modules import Calibration, TrainingModule
from nastricks.modules.normalisation import (
    BatchNorm,
    batch_norms,
    batch_statistics,
    cumulative_statistics,
    feed_statistics,
)
from nastricks.modules.scoring import Score, evaluating
from nastricks.rng import forked_rng
from nastricks.spaces import Architecture, GatedOps, Gates, Network, Plain, Segment, Space


@dataclass(frozen=True)
class _Node:
    """Where the walk through the tree is: a segment's place, its children, and what reaches it."""

    position: int
    children: list[Architecture]
    scored: list[Any]
    calibrated: list[Any]


@dataclass(frozen=True)
class Scoring:
    """What children are scored on: `images`, after passes over `calibration`; `own` uses the images' own statistics."""

    images: Sequence[Batch]
    calibration: Sequence[Batch] = ()
    own: bool = False


def scoring_of(
    data: TensorDataModule, calibration: Calibration | None, split: Split, limit: int | None = None
) -> Scoring:
    """A split of the data, scored with the statistics that a calibration asks for; `limit` as `evaluation_batches`."""
    batches = data.evaluation_batches(split, limit)
    if calibration is None:
        return Scoring(batches)
    if not calibration.own:
        return Scoring(batches, data.calibration_batches(calibration.batches))
    return Scoring(batches if calibration.size is None else regrouped(batches, calibration.size), own=True)


def regrouped(batches: Sequence[Batch], size: int) -> list[Batch]:
    """The same images in the same order, in batches of nearly equal sizes, at least `size` where there are so many."""
    images, labels = torch.cat([b.images for b in batches]), torch.cat([b.labels for b in batches])
    parts = max(1, len(labels) // size)
    pairs = zip(images.tensor_split(parts), labels.tensor_split(parts), strict=True)
    return [Batch(some.contiguous(), theirs) for some, theirs in pairs]


@torch.no_grad()
def score_children(
    space: Space,
    network: Network,
    architectures: Sequence[Architecture],
    scoring: Sequence[Batch] | Scoring,
    calibration: Sequence[Batch] = (),
    *,
    share_prefixes: bool = True,
    done: Callable[[int], None] = lambda count: None,
) -> dict[Architecture, Score]:
    """Score each architecture with the network's weights; the network is left as it was.

    Args:
        space: The space of the architectures.
        network: A trained network in which all of them run.
        architectures: What to score; duplicates are scored once.
        scoring: Batches that are scored on, or these with what they are normalised by.
        calibration: Training batches to recompute batch-norm statistics from, per child; () keeps the running ones.
        share_prefixes: Whether children that begin alike share work; the numbers are the same to rounding.
        done: Called with the number of children scored since the last call.
    """
    asked = scoring if isinstance(scoring, Scoring) else Scoring(scoring, calibration)
    distinct = sorted(dict.fromkeys(architectures))
    segments = list(network.segments.values())
    images, extra = [b.images for b in asked.images], [b.images for b in asked.calibration]
    labels = torch.cat([b.labels for b in asked.images])
    scores: dict[Architecture, Score] = {}
    with evaluating(network), batch_statistics(network) if asked.own else nullcontext():
        groups = [distinct] if share_prefixes else [[architecture] for architecture in distinct]
        for group in groups:
            root = _Node(0, group, images, extra)
            for architecture, outputs in _walk(space, segments, root, bool(extra), labels.device):
                logits = torch.cat(outputs)
                hits = (logits.argmax(1) == labels).float().mean()
                found = torch.stack([hits, F.cross_entropy(logits.float(), labels)]).tolist()
                scores[architecture] = Score(*found)
                done(1)
    return {architecture: scores[architecture] for architecture in dict.fromkeys(architectures)}


def child_scores(module: TrainingModule, data: TensorDataModule, calibration: Calibration | None) -> dict[str, float]:
    """Accuracy and loss of a child on the test split.

    Raises:
        InputError: the module runs several options at once.
    """
    architecture = module.architecture_of(module.policy.propose(module.moment("evaluation"))[0])
    if architecture is None:
        raise InputError(f"{type(module).__name__} runs several options at once: rank it as a supernet")
    network: Any = module.networks[0]
    scored = score_children(module.space, network, [architecture], scoring_of(data, calibration, "test"))
    return {"accuracy": scored[architecture].accuracy, "loss": scored[architecture].loss}


def _walk(
    space: Space, segments: Sequence[nn.Module], node: _Node, calibrate: bool, device: torch.device
) -> Iterator[tuple[Architecture, list[Tensor]]]:
    """Every architecture below a node with its outputs, depth first."""
    if node.position == len(segments):
        for architecture in node.children:
            yield architecture, node.scored
        return
    segment = segments[node.position]
    for group in _groups(space, segment, node.children):
        gates = space.gates(group[0])
        # What a segment draws [a noise operation] is the same for every child, whatever was scored before.
        with forked_rng("evaluation", node.position, device=device):
            calibrated = _calibrated(segment, gates, node.calibrated, segment is segments[-1]) if calibrate else []
            scored = [segment(state, gates) for state in node.scored]
        yield from _walk(space, segments, _Node(node.position + 1, group, scored, calibrated), calibrate, device)


def _calibrated(segment: nn.Module, gates: Gates, states: Sequence[Any], last: bool) -> list[Any]:
    """What a segment makes of states in train mode, which its batch norms' statistics then are of; none of the last."""
    with cumulative_statistics(_norms_used(segment, gates)):
        if last and type(segment) is Plain:
            for state in states:
                feed_statistics(segment.layers, state)
            return []
        return [segment(state, gates) for state in states]


def _groups(space: Space, segment: nn.Module, children: Sequence[Architecture]) -> list[list[Architecture]]:
    """Children parted by the options that the segment reads."""
    names = segment.choices if isinstance(segment, Segment) else ()
    places = [place for place, choice in enumerate(space.choices) if choice.name in names]
    groups: dict[Architecture, list[Architecture]] = {}
    for architecture in children:
        groups.setdefault(tuple(architecture[p] for p in places), []).append(architecture)
    return list(groups.values())


def _norms_used(segment: nn.Module, gates: Gates) -> list[BatchNorm]:
    """The batch norms that run under these gates: others keep their statistics, which nothing reads."""
    idle: set[nn.Module] = set()
    for module in segment.modules():
        if isinstance(module, GatedOps):
            gate = gates[module.choice_name]
            active = {module.names[index] for index in gate.active}
            for option, op in module.ops.items():
                if option not in active:
                    idle.update(op.modules())
    return [norm for norm in batch_norms(segment) if norm not in idle]
