"""Runs a proof.

python -m proofs compatibility [--workers N]    every trick with every algorithm -> docs/compatibility.md
python -m proofs algorithms RUN                 a run of recipes/ablations/algorithms.yaml -> docs/algorithms.md
python -m proofs cifar10                        every gradient-based recipe, 20 steps on real CIFAR-10
python -m proofs gumbel                         bias and variance of Gumbel estimators -> docs/gumbel.md
python -m proofs derivations                    what each rule reads off the same supernets -> docs/derivations.md
"""

import argparse
import importlib
import logging
import sys
import warnings
from collections.abc import Sequence

from nastricks.errors import InputError

PROOFS = ("compatibility", "algorithms", "cifar10", "gumbel", "derivations")


def main(arguments: Sequence[str]) -> int:
    """Run one proof; 0 where it holds, 1 where it does not, 2 for wrong input."""
    parser = argparse.ArgumentParser(prog="python -m proofs", description=__doc__)
    parser.add_argument("proof", choices=PROOFS)
    parser.add_argument("run", nargs="?", help="a run folder, for algorithms")
    parser.add_argument("--workers", type=int, default=None, help="Ray workers (default: this process)")
    parser.add_argument("--full", action="store_true", help="published sizes, for cifar10")
    given = parser.parse_args(arguments)
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    try:
        code: int = importlib.import_module(f"proofs.{given.proof}").main(given)
    except InputError as error:
        print(f"proofs: {error}", file=sys.stderr)
        return 2
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
