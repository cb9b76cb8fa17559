"""Every trick with every algorithm and sharing: it acts and resumes bit for bit, or refuses with a sentence."""

import argparse
import re
import tempfile
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nastricks.errors import InputError
from nastricks.files import write_text
from nastricks.modules.registry import tricks
from nastricks.run import Run, build
from nastricks.search.engine import Lost, engine
from nastricks.stages import Stage, stage_config
from nastricks.stages.check import check_stages
from proofs.settings import SETTINGS
from proofs.small_runs import (
    SMALL,
    difference_after_resuming,
    own_tricks,
    space_of,
    staged_algorithms,
    stages_of,
)

ROOT = Path(__file__).parents[1]
DATA = "recipes/data/digits.yaml"
PAGE = ROOT / "docs" / "compatibility.md"
SHARINGS = ("groups", "none", "prefix")  # beside that of all; few-shot has stages
WORKS, PART = "●", "◐"


@dataclass(frozen=True)
class Pair:
    """A trick (None for none) on top of an algorithm's recipe."""

    algorithm: str
    trick: str | None


@dataclass(frozen=True)
class Found:
    """`works`, `part` of the recipe already, `refuses` with a sentence, or `fails` with a reason."""

    kind: str
    words: str = ""


def algorithms() -> dict[str, str]:
    """Name -> file of every algorithm, of `spos` with other sharings, and of the child of tiny64.

    What has a recipe needs no stages of its name.
    """
    found = {path.stem: path for path in sorted((ROOT / "recipes/algorithms").glob("*.yaml"))}
    found |= {name: path for name, path in staged_algorithms(ROOT / "recipes/stages").items() if name not in found}
    found |= {f"spos, {name}": ROOT / f"recipes/sharing/{name}.yaml" for name in SHARINGS}
    found["child"] = ROOT / "recipes/child/tiny64.yaml"
    return {name: str(path.relative_to(ROOT)) for name, path in found.items()}


def stack_of(recipe: str) -> list[str]:
    """A recipe on top of the space and the algorithm of the line at its head; tiny64 where that names no space."""
    space = space_of(ROOT / recipe) or "recipes/spaces/tiny64.yaml"
    below = re.findall(r"-c (recipes/algorithms/\w+\.yaml)", (ROOT / recipe).read_text())
    return [str(ROOT / file) for file in dict.fromkeys([space, DATA, *below, recipe])]


def examine(pair: Pair) -> Found:
    """Run a pair straight, killed and resumed; of stages every search, from what the ones before it left."""
    file = algorithms()[pair.algorithm]
    stages = stages_of(ROOT / file, stack_of(file))
    own = [own_tricks(stage) for stage in stages.searches]
    if any(pair.trick in names for names in own):
        return Found("part")
    searches = [stage.with_keys(_small(names, pair.trick)) for stage, names in zip(stages.searches, own, strict=True)]
    with tempfile.TemporaryDirectory() as folder:
        try:
            if len(searches) > 1:  # before the first of them trains, as `nastricks run` does
                check_stages(replace(stages, stages=tuple(searches)))
            for stage in searches:
                found = _examine(stage, Path(folder) / "straight", Path(folder) / "middle")
                if found.kind != "works":
                    return found
        except InputError as error:
            told = error.__cause__ if isinstance(error.__cause__, InputError) else error  # without the stage's name
            return Found("refuses", " ".join(str(told).split()))
        except Exception as error:
            return Found("fails", f"{type(error).__name__}: {error}")
    return Found("works")


def _examine(stage: Stage, straight: Path, middle: Path) -> Found:
    def make(more: Mapping[str, Any], out: Path) -> Run:
        config, _ = stage_config(stage.with_keys(more), straight)
        return build(config, out, quiet=True)

    run = make({}, straight / stage.name)
    run.fit()
    idle = [t.name for t in run.tricks if t.acts == 0 and not t.after_training]
    if idle:
        return Found("fails", f"{', '.join(idle)} never acted")
    try:
        difference = difference_after_resuming(make, straight / stage.name, middle / stage.name, "middle")
    except Exception as error:
        return Found("fails", f"resuming: {type(error).__name__}: {error}")
    return Found("works") if difference is None else Found("fails", f"resumed, {difference}")


def _small(own: list[str], trick: str | None) -> dict[str, Any]:
    """Keys of a small run with a trick: a recipe's own guards do not stop it, its own phases fit into it."""
    fitted = ("progressive_shrinking", "op_projection")
    phased = [name for name in own if name.startswith("early_stop") or name in fitted]
    return {**SMALL, **_arguments(phased), **_arguments([] if trick is None else [trick])}


def _arguments(names: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {f"tricks.{name}": "{}" for name in names if not SETTINGS[name].given}
    return found | {f"tricks.{name}.{key}": v for name in names for key, v in SETTINGS[name].arguments.items()}


def main(given: argparse.Namespace) -> int:
    """Examine all pairs and write the page; 1 where one fails."""
    started = time.perf_counter()
    pairs = [Pair(algorithm, trick) for algorithm in algorithms() for trick in (None, *tricks())]
    found: dict[Pair, Found] = {}
    with closing(engine(given.workers, None)) as runs:
        for pair, result in runs.run(examine, pairs):
            found[pair] = Found("fails", result.reason) if isinstance(result, Lost) else result
            if found[pair].kind == "fails":
                print(f"{pair.algorithm} with {pair.trick}: {found[pair].words}", flush=True)
            elif len(found) % 50 == 0:
                print(f"{len(found)} of {len(pairs)} pairs, {time.perf_counter() - started:.0f} s", flush=True)
    write_text(PAGE, page(found))
    failed = [pair for pair, result in found.items() if result.kind == "fails"]
    print(f"{len(found) - len(failed)} pairs hold, {len(failed)} fail; {time.perf_counter() - started:.0f} s: {PAGE}")
    return 1 if failed else 0


def page(found: Mapping[Pair, Found]) -> str:
    """The page: a table of all pairs, and the sentences of those that refuse."""
    names = list(algorithms())
    sentences: dict[str, int] = {}
    rows = []
    for trick in tricks():
        cells = []
        for algorithm in names:
            result = found[Pair(algorithm, trick)]
            cell = {"works": WORKS, "part": PART}.get(result.kind)
            if cell is None:
                number = sentences.setdefault(result.words, len(sentences) + 1)
                cell = f"{'fails' if result.kind == 'fails' else ''} {number}".strip()
            cells.append(cell)
        rows.append(f"| `{trick}` | {' | '.join(cells)} |")
    works = sum(result.kind == "works" for pair, result in found.items() if pair.trick is not None)
    refuses = sum(result.kind == "refuses" for result in found.values())
    plain = [algorithm for algorithm in names if found[Pair(algorithm, None)].kind != "works"]
    alone = "Every recipe runs and resumes alone."
    if plain:
        alone = f"Recipes that do not run and resume alone: {', '.join(plain)}."
    lines = [
        "# Which tricks work with which algorithms",
        "",
        "Made by `make compatibility`: every trick on top of every algorithm's recipe, and of `spos` with other",
        "sharings, on digits and the space at the recipe's head (`tiny64` for most), eight steps, once straight, once",
        f"killed before step 5 and resumed from step 3. {_staged(names)}",
        "",
        f"- {WORKS} acts, and the resumed run equals the straight one bit for bit (weights, buffers, policy, optimizer",
        f"  states, metrics): {works} pairs.",
        f"- {PART} is part of the recipe.",
        f"- A number refuses before training, with the sentence below: {refuses} pairs.",
        "",
        alone,
        "",
        f"| trick | {' | '.join(names)} |",
        f"|---|{'---|' * len(names)}",
        *rows,
        "",
        *(f"{number}. {sentence}" for sentence, number in sentences.items()),
        "",
    ]
    return "\n".join(lines)


def _staged(names: list[str]) -> str:
    staged = [f"`{name}`" for name in names if "stages" in Path(algorithms()[name]).parts]
    return f"Of {', '.join(staged)}, which are made of stages, each search is." if staged else ""
