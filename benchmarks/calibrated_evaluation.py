"""Scoring all 64 children of tiny64 with calibration: sharing prefixes against one child at a time."""

from benchmarks.measure import CPU, Result, alternate, compared, ratios
from nastricks.ranking.evaluate import score_children
from nastricks.recipe import resolve
from nastricks.run import build
from nastricks.spaces import Architecture

SAME = 1e-5  # the largest difference between the two ways that is rounding


def calibrated_evaluation(rounds: int = 5, batches: int = 10, children: int | None = None) -> Result:
    """Score the 300 validation digits after calibration on `batches` training batches (ten are all images once).

    The weights are fresh: what they are changes no time. `children` takes only the first so many, None all.

    Raises:
        RuntimeError: the two ways give different numbers.
    """
    config = resolve(["spaces/tiny64.yaml", "data/digits.yaml", "algorithms/spos.yaml"], CPU)
    run = build(config, None, quiet=True)
    run.data.setup()
    space, network = run.module.space, run.module.networks[0]
    chosen: list[Architecture] = list(space.architectures())[:children]
    scoring, calibration = run.data.evaluation_batches("validation"), run.data.calibration_batches(batches)

    def score(share_prefixes: bool) -> dict[Architecture, float]:
        scores = score_children(space, network, chosen, scoring, calibration, share_prefixes=share_prefixes)  # type: ignore[arg-type]
        return {architecture: score.loss for architecture, score in scores.items()}

    together, alone = score(True), score(False)
    if any(abs(together[architecture] - alone[architecture]) > SAME for architecture in chosen):
        raise RuntimeError("benchmark calibrated_evaluation: the two ways give a child different losses")
    times = alternate(lambda: score(True), lambda: score(False), rounds)
    note = f"digits, {len(chosen)} children, {batches} calibration batches: {compared(*times)}"
    return Result.of("calibrated_evaluation", ratios(*times), target=0.55, note=note)
