"""Small runs of whole recipes: tiny64 on 128 digits, eight steps in two epochs; killed and resumed."""

import atexit
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from nastricks.modules.run_folder import LAST, load_checkpoint
from nastricks.recipe import resolve
from nastricks.run import Run, build
from nastricks.stages import Stage, Stages, read_stages

SMALL = {
    "data.init_args.train_size": 128,
    "data.init_args.search_size": 96,
    "data.init_args.validation_size": 64,
    "data.init_args.batch_size": 32,
    "trainer.accelerator": "cpu",
    "trainer.max_epochs": 2,
}
STEPS = 8
# Two steps, one an epoch, in double precision: what is compared with equations.
TWO_STEPS = {
    "data.init_args.train_size": 32,
    "data.init_args.search_size": 32,
    "data.init_args.validation_size": 32,
    "data.init_args.batch_size": 32,
    "trainer.accelerator": "cpu",
    "trainer.max_epochs": 2,
    "trainer.precision": "64-true",
}


def staged_algorithms(folder: Path) -> dict[str, Path]:
    """Name -> file of those stages in a folder that search more than once; the others are a recipe and a child."""
    files = {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    return {name: file for name, file in files.items() if len(read_stages(file).searches) > 1}


def stages_of(file: Path, stack: Sequence[str]) -> Stages:
    """What a file fits, in a row: its own stages, or, of an algorithm's recipe, the `stack` that ends with it."""
    return read_stages(file) if "stages" in file.parts else Stages(file.stem, (Stage("fit", tuple(stack)),))


def own_tricks(stage: Stage) -> list[str]:
    """The tricks of a stage's own recipe."""
    return [name for name, settings in vars(stage.config().tricks).items() if settings is not None]


def space_of(recipe: Path) -> str | None:
    """The file of the space in the line that a recipe's head runs it with, None where it names none."""
    named = re.search(r"-c (recipes/spaces/\w+\.yaml)", recipe.read_text())
    return None if named is None else named.group(1)


@cache
def teacher() -> str:
    """The run folder of a small child of tiny64, trained once a process [distillation]."""
    place = Path(tempfile.mkdtemp(prefix="nastricks-teacher-"))
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    files = [f"recipes/{name}.yaml" for name in ("spaces/tiny64", "data/digits", "child/tiny64")]
    build(resolve(files, [f"--{key}={value}" for key, value in SMALL.items()]), place / "run", quiet=True).fit()
    return str(place / "run")


# When a run saves, before which step it is killed, and which step it goes on from.
INTERRUPTIONS: dict[str, tuple[dict[str, int], int, int]] = {
    "end": ({"checkpoint.every_n_epochs": 1}, 5, 4),
    "middle": ({"checkpoint.every_n_steps": 3}, 5, 3),
    "last batch": ({"checkpoint.every_n_steps": 2}, 5, 4),  # before the epoch is closed
}


class KilledError(Exception):
    """The run is killed here."""


class Kill(pl.Callback):
    """Kills a run before batch number `at`, counted from 0."""

    def __init__(self, at: int) -> None:
        self.at = at

    def on_train_batch_start(self, trainer: pl.Trainer, *args: Any) -> None:
        if trainer.global_step == self.at:
            raise KilledError


def same(a: Any, b: Any) -> bool:
    """Whether two nests of values are equal bit for bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def difference_after_resuming(
    make: Callable[[Mapping[str, Any], Path], Run], straight: Path, folder: Path, when: str
) -> str | None:
    """Kill a run and resume it; what then differs from the straight run that `straight` holds, or None.

    `make` builds the run with some more keys of the recipe into a folder.
    """
    every, stop, saved = INTERRUPTIONS[when]
    first = make(every, folder)
    first.trainer.callbacks.append(Kill(stop))  # type: ignore[attr-defined]
    try:
        first.fit()
    except KilledError:
        pass
    else:
        return f"it ended before step {stop}"
    if load_checkpoint(folder)["nastricks"]["steps_seen"] != saved:
        return "the checkpoint is of another step"
    second = make(every, folder)
    second.fit(str(folder / LAST))
    resumed, expected = load_checkpoint(folder), load_checkpoint(straight)
    for part in ("state_dict", "optimizer_states", "nastricks"):
        if not same(resumed[part], expected[part]):
            return f"{part} differs"
    acts = [trick.acts for trick in second.tricks]
    if acts != [c["acts"] for c in expected["callbacks"].values() if "acts" in c]:
        return "the acts of a trick differ"
    if (folder / "metrics.csv").read_text() != (straight / "metrics.csv").read_text():
        return "metrics.csv differs"
    return None
