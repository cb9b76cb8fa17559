"""Do derivations read different architectures off the same supernet? Small `darts` supernets on digits."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from nastricks.derivations import Argmax, BestEdges, Derivation, Perturbation, Threshold, Trained
from nastricks.errors import InputError
from nastricks.files import write_text
from nastricks.modules import SupernetModule
from nastricks.modules.measures import agreement, counts, discretisation_scores
from nastricks.ranking.rank import trained_supernet
from nastricks.recipe import resolve
from nastricks.run import build
from nastricks.spaces import Architecture

PAGE = Path(__file__).parents[1] / "docs" / "derivations.md"
ALGORITHMS = ("darts", "fairdarts")
SIZE = {"space.init_args.channels": 4, "space.init_args.cells": 3, "data.init_args.validation_size": 200}
RULES: dict[str, Derivation] = {
    "Argmax": Argmax(),
    "BestEdges, `none` left out": BestEdges(),
    "BestEdges, `none` kept": BestEdges(none="kept"),
    "Threshold 0.85": Threshold(0.85),
    "Perturbation": Perturbation(),
}
COMPARED = "BestEdges, `none` left out"


def study(algorithms: Sequence[str], seeds: Sequence[int], epochs: int) -> pd.DataFrame:
    """A row a supernet and rule, empty where the rule's architecture is none of the space.

    `same` is the share of choices as by `COMPARED`, `accuracy` that of the derived path with shared weights on the
    validation split, `supernet` that under the policy's own gates; both calibrated.
    """
    rows = []
    for algorithm in algorithms:
        for seed in seeds:
            rows += _rows(algorithm, seed, epochs)
    return pd.DataFrame(rows)


def _rows(algorithm: str, seed: int, epochs: int) -> list[dict[str, object]]:
    stack = [f"recipes/{part}.yaml" for part in ("spaces/darts", "data/digits", f"algorithms/{algorithm}")]
    keys = {**SIZE, "trainer.max_epochs": epochs, "trainer.accelerator": "cpu", "threads": 1, "seed_everything": seed}
    run = build(resolve(stack, [f"--{key}={value}" for key, value in keys.items()]), None, quiet=True)
    run.fit()
    module, data = run.module, run.data
    assert isinstance(module, SupernetModule), "the stack names a search"
    trained = trained_supernet(module, data, dict)
    found = {name: _derived(rule, trained) for name, rule in RULES.items()}
    published = found[COMPARED]
    assert published is not None, "it always leaves a node its inputs"
    rows: list[dict[str, object]] = []
    for name, architecture in found.items():
        if architecture is None:
            rows.append({"algorithm": algorithm, "seed": seed, "rule": name})
            continue
        own, path = discretisation_scores(module, data, architecture, "validation", None)
        rows.append(
            {
                "algorithm": algorithm,
                "seed": seed,
                "rule": name,
                "same": agreement(architecture, published),
                "skips": counts(module.space, architecture)["derived/skips"],
                "accuracy": path.accuracy,
                "supernet": own.accuracy,
            }
        )
    return rows


def _derived(rule: Derivation, trained: Trained) -> Architecture | None:
    """The architecture, or None where the rule's is none of the space."""
    try:
        return rule.derive(trained)
    except InputError:
        return None


def page(found: pd.DataFrame, epochs: int) -> str:
    """The page with its table."""
    seeds = found["seed"].nunique()
    lines = [
        "# Do derivations read different architectures off the same supernet?",
        "",
        f"Made by `make derivations`: `darts` with 4 channels and 3 cells on digits, {epochs} epochs, {seeds} seeds;",
        "every rule reads the same supernets. Same: the share of choices as by the published rule, the best two edges",
        "a node. Accuracy: of the derived path with the supernet's weights on 200 validation images, calibrated.",
        "Mean ± standard deviation over seeds. A rule that keeps `none` may leave a node fewer inputs than the two",
        "that the space demands: then it finds no architecture.",
        "",
        "| gates | rule | same as the best two edges | skips | accuracy of the path | of the supernet |",
        "|---|---|---|---|---|---|",
    ]
    for (algorithm, rule), rows in found.groupby(["algorithm", "rule"], sort=False):
        known = rows.dropna()
        if known.empty:
            lines.append(f"| `{algorithm}` | {rule} | none of the space in {len(rows)} of {len(rows)} | | | |")
            continue
        cells = [f"{known[c].mean():.2f} ± {known[c].std():.2f}" for c in ("same", "skips", "accuracy", "supernet")]
        if len(known) < len(rows):
            cells[0] += f" (none of the space in {len(rows) - len(known)} of {len(rows)})"
        lines.append(f"| `{algorithm}` | {rule} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *_answer(found), ""])


def _answer(found: pd.DataFrame) -> list[str]:
    """In words."""
    others = found[found["rule"] != COMPARED]
    differ = others[others["same"] < 1].groupby("rule").size()
    total: Mapping[str, int] = others.groupby("rule").size().to_dict()
    told = ", ".join(f"{rule} in {differ.get(rule, 0)} of {n}" for rule, n in total.items())
    return [f"Supernets of which a rule reads another architecture than the best two edges: {told}."]


def main(given: argparse.Namespace) -> int:
    """Run the study and write the page."""
    if given.run is not None:
        raise InputError("python -m proofs derivations takes no run: it trains its own supernets")
    epochs = 10
    write_text(PAGE, page(study(ALGORITHMS, range(3), epochs), epochs))
    print(PAGE)
    return 0
