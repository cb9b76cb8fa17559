"""Runs the benchmarks and prints their figures beside the targets.

python -m benchmarks                  all of them
python -m benchmarks step_tiny64      one; the beginning of several names runs those
"""

import logging
import sys
import warnings
from collections.abc import Callable, Sequence

from benchmarks.alpha_step import alpha_step_tiny64, alpha_step_weight_sharing_64
from benchmarks.between_trials import between_trials
from benchmarks.calibrated_evaluation import calibrated_evaluation
from benchmarks.darts_tricks import arch_perturbation, partial_channels, partial_channels_memory
from benchmarks.extracted_subnet import extracted_subnet
from benchmarks.frozen_prefix import frozen_prefix
from benchmarks.macro_evaluation import macro_evaluation, macro_evaluation_loop
from benchmarks.measure import HEADER, Result, kept_threads, load, machine
from benchmarks.sampled_options import active_options, gumbel_hard
from benchmarks.search import controller_draws, episode_on_two_workers
from benchmarks.second_derivatives import hessian_eigenvalue, second_order
from benchmarks.strict_fairness import strict_fairness
from benchmarks.training_step import step_tiny64, step_weight_sharing_64
from nastricks.errors import InputError, unknown

BENCHMARKS: dict[str, Callable[[], Result]] = {
    "step_tiny64": step_tiny64,
    "step_weight_sharing_64": step_weight_sharing_64,
    "alpha_step_tiny64": alpha_step_tiny64,
    "alpha_step_weight_sharing_64": alpha_step_weight_sharing_64,
    "calibrated_evaluation": calibrated_evaluation,
    "between_trials": between_trials,
    "episode_on_two_workers": episode_on_two_workers,
    "controller_draws": controller_draws,
    "gumbel_hard": gumbel_hard,
    "active_options": active_options,
    "arch_perturbation": arch_perturbation,
    "partial_channels": partial_channels,
    "partial_channels_memory": partial_channels_memory,
    "second_order": second_order,
    "hessian_eigenvalue": hessian_eigenvalue,
    "macro_evaluation": macro_evaluation,
    "macro_evaluation_loop": macro_evaluation_loop,
    "extracted_subnet": extracted_subnet,
    "strict_fairness": strict_fairness,
    "frozen_prefix": frozen_prefix,
}


def picked(names: Sequence[str]) -> list[str]:
    """The benchmarks whose names begin with one of `names`, in their own order; all of them for none.

    Raises:
        InputError: a name is the beginning of none.
    """
    for name in names:
        if not any(known.startswith(name) for known in BENCHMARKS):
            raise unknown("benchmark", name, BENCHMARKS)
    return [known for known in BENCHMARKS if not names or any(known.startswith(name) for name in names)]


def main(names: Sequence[str]) -> int:
    """Run benchmarks and print a line for each; 0 done, 2 an unknown name. A missed target is printed, no error."""
    try:
        chosen = picked(names)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    print(machine(), HEADER, sep="\n", flush=True)
    for name in chosen:
        with kept_threads():
            before = load()
            result = BENCHMARKS[name]()
        print(f"{result}\n    {result.note}; load {before} to {load()}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
