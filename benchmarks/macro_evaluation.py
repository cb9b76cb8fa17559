"""Scoring every code of NAS-Bench-Macro with calibration: sharing prefixes against one code at a time."""

import copy
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.measure import Clock, Result
from nastricks.data import Batch, ImageSpec
from nastricks.memory import keep_freed_memory, peak_memory_mb, reset_peak_memory
from nastricks.modules.scoring import Score
from nastricks.ranking.evaluate import score_children
from nastricks.rng import forked_rng, generator
from nastricks.spaces import Architecture, NASBenchMacro, Network, Space

SAME = 1e-4  # the largest difference in loss between the two ways that is rounding
FEW = 81  # codes whose peak memory is told beside that of all: the last, of which four layers are the largest

Losses = dict[Architecture, float]
Measure = Callable[[Sequence[Architecture]], Losses]


def macro_evaluation(**sizes: int) -> Result:
    """Against the same evaluation without sharing, which also runs in channels last. `sizes` as `_compared`.

    The last layer and the head run for every code. What prefixes can save is 0.73 of all multiply-adds, and more of the
    time, since the first layers spend most of theirs on large images with few channels.
    """

    def unshared(space: Space, network: Network, calibration: Batch, scoring: Batch) -> Measure:
        return lambda part: _losses(
            score_children(space, network, part, [scoring], [calibration], share_prefixes=False)
        )

    return _compared("macro_evaluation", unshared, **sizes)


def macro_evaluation_loop(**sizes: int) -> Result:
    """Against a loop in plain PyTorch, in torch's own layout of images. `sizes` as `_compared`."""

    def loop(space: Space, network: Network, calibration: Batch, scoring: Batch) -> Measure:
        network = copy.deepcopy(network).to(memory_format=torch.contiguous_format)
        norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
        for norm in norms:
            norm.momentum = None
        calibrating, scored = (batch.images.contiguous() for batch in (calibration, scoring))

        @torch.no_grad()
        def measure(part: Sequence[Architecture]) -> Losses:
            losses = {}
            for architecture in part:
                gates = space.gates(architecture)
                for norm in norms:
                    norm.reset_running_stats()
                network.train()
                network(calibrating, gates)
                network.eval()
                losses[architecture] = F.cross_entropy(network(scored, gates), scoring.labels).item()
            return losses

        return measure

    return _compared("macro_evaluation_loop", loop, **sizes)


def _losses(scores: Mapping[Architecture, Score]) -> Losses:
    return {architecture: score.loss for architecture, score in scores.items()}


def _compared(
    name: str,
    one_by_one: Callable[[Space, Network, Batch, Batch], Measure],
    parts: int = 5,
    alone: int = 50,
    codes: int | None = None,
    images: int = 64,
    size: int = 32,
) -> Result:
    """The time of all codes by sharing prefixes over that of one code at a time.

    The note tells the process's peak memory for all codes beside that for the last 81, which begin with the widest
    operations: what is kept at a time is a state a layer, however many codes go through it.

    Args:
        name: Of the benchmark.
        one_by_one: Gets space, network, calibration and scoring batch; what it makes measures codes one at a time.
        parts: In how many `alone` is cut, half of them before the shared run and half after it. Each gives a ratio: the
            shared run's time over that of all codes at the part's pace.
        alone: How many random codes are scored one by one; at least `parts`.
        codes: The last so many are scored by sharing; None all 6,561.
        images: How many calibrate, and how many are scored: noise, which does not change the time.
        size: Of an image, in pixels.

    Raises:
        RuntimeError: the two ways give a code different losses.
    """
    keep_freed_memory()  # as every run does
    space, spec, rng = NASBenchMacro(), ImageSpec(3, size, 10), generator("benchmark", "macro")
    with forked_rng("benchmark", "macro"):
        network = space.supernet(spec).to(memory_format=torch.channels_last)

    def batch() -> Batch:
        drawn = torch.randn(images, spec.channels, size, size, generator=rng)
        return Batch(drawn.to(memory_format=torch.channels_last), torch.randint(10, (images,), generator=rng))

    scoring, calibration = batch(), batch()
    chosen = list(space.architectures())[-codes if codes else 0 :]
    picked = [chosen[i] for i in torch.randperm(len(chosen), generator=rng)[:alone].tolist()]
    measure = one_by_one(space, network, calibration, scoring)
    losses: Losses = {}
    paces: list[float] = []

    def apart(part: list[Architecture]) -> None:
        start = Clock.now()
        losses.update(measure(part))
        paces.append(Clock.now().since(start).wall / len(part))

    def shared(part: list[Architecture]) -> tuple[Losses, float, float]:
        reset_peak_memory()
        start = Clock.now()
        found = score_children(space, network, part, [scoring], [calibration])
        seconds = Clock.now().since(start).wall
        return _losses(found), seconds, peak_memory_mb()

    _, _, few_memory = shared(chosen[-FEW:])  # also what a first pass pays for
    measure(picked[:1])
    sliced = [picked[number::parts] for number in range(parts)]
    for part in sliced[: parts // 2]:
        apart(part)
    together, seconds, memory = shared(chosen)
    for part in sliced[parts // 2 :]:
        apart(part)
    if any(abs(together[architecture] - loss) > SAME for architecture, loss in losses.items()):
        raise RuntimeError(f"benchmark {name}: the two ways give a code different losses")
    note = (
        f"{len(chosen):,} codes in {seconds:.0f} s, one alone {1000 * sum(paces) / len(paces):.0f} ms, {images} images "
        f"to calibrate and {images} to score, {torch.get_num_threads()} threads; peak memory {memory:.0f} MB, "
        f"{few_memory:.0f} MB for the last {FEW}"
    )
    return Result.of(name, [seconds / (len(chosen) * pace) for pace in paces], target=0.15, note=note)
