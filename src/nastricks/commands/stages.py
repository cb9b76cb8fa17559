"""`nastricks run`: the stages of a recipe, one after another (DESIGN idea 4)."""

import argparse
from pathlib import Path

from nastricks.commands.derive import told_scores
from nastricks.stages import read_stages, run_stages
from nastricks.stages.check import check_stages
from nastricks.stages.run import StageResult


def run(arguments: argparse.Namespace) -> int:
    """Check all stages, then run every one that is not done."""
    stages = read_stages(arguments.file)
    check_stages(stages)
    folder = Path(arguments.out) if arguments.out else Path("runs") / stages.name
    run_stages(stages, folder, score_all=told_scores, told=_tell)
    return 0


def _tell(stage: str, result: StageResult) -> None:
    for trick, reason in result.left_out.items():
        print(f"{stage}: without {trick}, since {reason}")
    derived = {} if result.derived is None else {"derived": result.derived}
    told = {**derived, **{key: f"{value:.4g}" for key, value in result.metrics.items()}}
    print(f"{stage}: " + ", ".join(f"{key} {value}" for key, value in told.items()))
