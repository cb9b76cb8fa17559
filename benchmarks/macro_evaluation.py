"""Scoring every code of NAS-Bench-Macro with calibration: sharing prefixes against one code at a time."""

import torch

from benchmarks.measure import Clock, Result
from nastricks.data import Batch, ImageSpec
from nastricks.memory import keep_freed_memory, peak_memory_mb, reset_peak_memory
from nastricks.ranking.evaluate import score_children
from nastricks.rng import forked_rng, generator
from nastricks.spaces import Architecture, NASBenchMacro

SAME = 1e-4  # the largest difference in loss between the two ways that is rounding
FEW = 81  # codes whose peak memory is told beside that of all: the last, of which four layers are the largest


def macro_evaluation(
    parts: int = 5, alone: int = 50, codes: int | None = None, images: int = 64, size: int = 32
) -> Result:
    """Score all 6,561 codes once by sharing prefixes; `alone` random ones in `parts` are scored one by one beside it.

    Half of the parts come before the shared run and half after it, and each gives a ratio: the shared run's time over
    that of all codes at the part's pace. `images` calibrate and as many are scored, noise of `size` pixels: neither
    changes the time. `codes` takes only the last so many, None all. `alone` is at least `parts`.

    The last layer and the head run for every code; what prefixes can save is 0.73 of all multiply-adds.
    The note tells the process's peak memory for all codes beside that for the last 81, which begin with the widest
    operations: what is kept at a time is a state a layer, however many codes go through it.

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

    scoring, calibration = [batch()], [batch()]
    chosen = list(space.architectures())[-codes if codes else 0 :]
    picked = [chosen[i] for i in torch.randperm(len(chosen), generator=rng)[:alone].tolist()]
    losses: dict[Architecture, float] = {}
    paces: list[float] = []

    def one_by_one(part: list[Architecture]) -> None:
        start = Clock.now()
        found = score_children(space, network, part, scoring, calibration, share_prefixes=False)
        paces.append(Clock.now().since(start).wall / len(part))
        losses.update({architecture: score.loss for architecture, score in found.items()})

    def shared(part: list[Architecture]) -> tuple[dict[Architecture, float], float, float]:
        reset_peak_memory()
        start = Clock.now()
        found = score_children(space, network, part, scoring, calibration)
        seconds = Clock.now().since(start).wall
        return {architecture: score.loss for architecture, score in found.items()}, seconds, peak_memory_mb()

    _, _, few_memory = shared(chosen[-FEW:])  # also what a first pass pays for
    sliced = [picked[number::parts] for number in range(parts)]
    for part in sliced[: parts // 2]:
        one_by_one(part)
    together, seconds, memory = shared(chosen)
    for part in sliced[parts // 2 :]:
        one_by_one(part)
    if any(abs(together[architecture] - loss) > SAME for architecture, loss in losses.items()):
        raise RuntimeError("benchmark macro_evaluation: the two ways give a code different losses")
    note = (
        f"{len(chosen):,} codes in {seconds:.0f} s, one alone {1000 * sum(paces) / len(paces):.0f} ms, {images} images "
        f"to calibrate and {images} to score; peak memory {memory:.0f} MB, {few_memory:.0f} MB for the last {FEW}"
    )
    return Result.of("macro_evaluation", [seconds / (len(chosen) * pace) for pace in paces], target=0.15, note=note)
