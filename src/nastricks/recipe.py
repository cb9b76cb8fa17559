"""From a stack of YAML files to a resolved configuration, and from one back to text.

The parser is LightningCLI's, with a key a trick (``tricks.sam.rho``), so that files merge trick by trick.
"""

import functools
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import yaml
from jsonargparse import ActionConfigFile, ArgumentError, Namespace  # type: ignore[attr-defined]
from pytorch_lightning.cli import LightningArgumentParser

from nastricks.data import ImageSpec, TensorDataModule
from nastricks.errors import InputError, unknown
from nastricks.modules import TrainingModule
from nastricks.modules.registry import tricks as all_tricks
from nastricks.modules.tracking import WandbTracking
from nastricks.nulls import refuse_nulls
from nastricks.refusals import in_a_sentence
from nastricks.spaces import Space
from nastricks.stacking import RecipeFile, classes_as_files

# Lightning announces devices, advertises loggers and repeats its stopping rule at every fit.
logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)

TRAINER_DEFAULTS: dict[str, Any] = {
    "accelerator": "auto",
    "devices": 1,
    "logger": False,  # nastricks.run adds metrics.csv, and the loggers of the recipe
    "enable_checkpointing": False,  # nastricks.run adds the checkpoint at the end
    "enable_model_summary": False,
    "log_every_n_steps": 1,  # nothing is logged a step; this keeps Lightning from warning of short epochs
    "num_sanity_val_steps": 0,
    "limit_val_batches": 0,  # `nastricks rank` judges; validating every epoch would cost more than a tiny epoch
}
KEYS = (
    "seed_everything", "space", "data", "model", "tricks", "measures", "loggers", "checkpoint", "trainer", "threads",
    "out",
)  # fmt: skip
FIT_KEYS = ("ckpt_path", "verbose", "weights_only")  # of Trainer.fit, not of a recipe


class RecipeParser(LightningArgumentParser):
    """Raises instead of exiting, so that the command line can print one sentence."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs["exit_on_error"] = False
        super().__init__(*args, **kwargs)
        self.allow_abbrev = False  # a key that is not spelt out is an unknown key

    def add_argument(self, *args: Any, **kwargs: Any) -> Any:
        """As everywhere, but for the option of configuration files, which LightningCLI adds too: see `RecipeFile`."""
        if kwargs.get("action") is ActionConfigFile:
            kwargs["action"] = RecipeFile
        return super().add_argument(*args, **kwargs)


def add_arguments(parser: LightningArgumentParser, *, trains: bool = True) -> None:
    """The arguments of a recipe, beside LightningCLI's own; one that need not train may leave out data and model."""
    parser.add_lightning_class_args(pl.Trainer, "trainer")
    parser.set_defaults({f"trainer.{key}": value for key, value in TRAINER_DEFAULTS.items()})
    parser.add_subclass_arguments(Space, "space", required=True)
    parser.add_subclass_arguments(TensorDataModule, "data", required=trains)
    parser.add_subclass_arguments(TrainingModule, "model", required=trains)
    for name, trick in all_tricks().items():
        parser.add_argument(f"--tricks.{name}", type=trick | None, default=None, help=_first_line(trick))
    parser.add_argument("--measures.gates", type=bool, default=True, help="log what the gates say, every epoch")
    parser.add_argument("--measures.discretisation", type=bool, default=False, help="score gates and the derived path")
    parser.add_argument("--measures.hessian", type=bool, default=False, help="sharpness of the search loss in alpha")
    parser.add_argument("--measures.every_n_epochs", type=int, default=1, help="how often to measure what is costly")
    parser.add_argument("--loggers.wandb", type=WandbTracking | None, default=None, help=_first_line(WandbTracking))
    parser.add_argument("--checkpoint.every_n_epochs", type=int | None, default=None, help="also save this often")
    parser.add_argument("--checkpoint.every_n_steps", type=int | None, default=None, help="also save this often")
    parser.add_argument("--threads", type=int | None, default=None, help="torch threads on the CPU (default: torch's)")
    parser.add_argument("--out", type=str | None, default=None, help="the run's folder (default: a new one in runs/)")
    parser.link_arguments("seed_everything", "data.init_args.seed")
    parser.link_arguments("seed_everything", "model.init_args.seed")
    parser.link_arguments("space", "model.init_args.space", apply_on="instantiate")
    parser.link_arguments("data", "model.init_args.spec", compute_fn=_spec, apply_on="instantiate")


def _spec(data: TensorDataModule | None) -> ImageSpec | None:
    return None if data is None else data.spec  # None: a search that needs no images


def _first_line(thing: object) -> str:
    return (thing.__doc__ or "").strip().splitlines()[0] if thing.__doc__ else ""


@functools.cache
def parser() -> LightningArgumentParser:
    """The parser of a recipe without a subcommand; built once a process (it costs half a second)."""
    made = RecipeParser()
    made.add_argument("-c", "--config", action=ActionConfigFile, help="a recipe file; later ones win key by key")
    made.add_argument("--seed_everything", type=int, default=0, help="the key of everything random")
    add_arguments(made)
    return made


def resolve(
    files: Sequence[str | Path],
    overrides: Sequence[str] = (),
    *,
    grammar: Callable[[], LightningArgumentParser] = parser,
    keys: Sequence[str] = KEYS,
) -> Namespace:
    """The configuration of a stack of files, later ones winning key by key, then of overrides ``--a.b value``.

    `grammar` and `keys` are those of what the stack is for: a recipe that trains, unless said otherwise.

    Raises:
        InputError: a missing file, an unknown key or trick, a value of the wrong type.
    """
    args = [arg for file in files for arg in ("-c", str(locate(file)))] + list(overrides)
    check_names(args, keys)
    try:
        config = grammar().parse_args(classes_as_files(args))
    except ArgumentError as error:
        raise refused(error) from error
    config.pop("config", None)
    refuse_nulls(config)
    return config


@functools.cache
def _space_parser() -> LightningArgumentParser:
    """A parser of the space and the data alone; other keys of a recipe are passed over by `space_and_spec`."""
    made = RecipeParser()
    made.add_argument("-c", "--config", action=ActionConfigFile)
    made.add_subclass_arguments(Space, "space", required=True)
    made.add_subclass_arguments(TensorDataModule, "data", required=False)
    return made


def space_and_spec(files: Sequence[str | Path], overrides: Sequence[str] = ()) -> tuple[Space, ImageSpec | None]:
    """The space of a stack, and what its data look like (None where the stack names no data).

    Raises:
        InputError: no space, or a value that cannot be.
    """
    args: list[str] = []
    check_names([part for file in files for part in ("-c", str(locate(file)))])
    for file in files:
        content = {key: value for key, value in read_yaml(file).items() if key in ("space", "data")}
        args += ["-c", json.dumps(content)]
    try:
        config = _space_parser().parse_args([*args, *classes_as_files(overrides)])
    except ArgumentError as error:
        raise refused(error) from error
    refuse_nulls(config)
    try:
        made = _space_parser().instantiate(config)
    except ValueError as error:
        raise refused(error) from error
    return made.space, None if made.get("data") is None else made.data.spec


def locate(file: str | Path) -> Path:
    """A recipe file by its path, or by its path among the shipped recipes.

    Raises:
        InputError: there is none.
    """
    path = Path(file)
    if path.is_file():
        return path
    shipped = Path(__file__).parent / "recipes"
    for candidate in (shipped / path, shipped.parent / path):
        if candidate.is_file():
            return candidate
    names = [str(p.relative_to(shipped)) for p in shipped.rglob("*.yaml")]
    raise unknown("recipe file", str(file).removeprefix("recipes/"), names)


def check_names(args: Sequence[str], keys: Sequence[str] = KEYS) -> None:
    """Refuse unknown tricks and top-level keys with the nearest name, in files and on the command line alike."""
    known = all_tricks()
    for position, arg in enumerate(args):
        if arg.startswith("--tricks."):
            name = arg.removeprefix("--tricks.").partition("=")[0].partition(".")[0]
            if name not in known:
                raise unknown("trick", name, known)
        if arg in ("-c", "--config") and position + 1 < len(args):
            content = read_yaml(args[position + 1])
            for name in content.get("tricks") or {}:
                if name not in known:
                    raise unknown("trick", name, known)
            for key in content:
                if key not in (*keys, *FIT_KEYS):
                    raise unknown(f"key of {args[position + 1]}", key, keys)


def read_yaml(file: str | Path) -> dict[str, Any]:
    """The mapping that a YAML file holds.

    Raises:
        InputError: a missing file, no YAML, or no mapping.
    """
    path = locate(file)
    try:
        content = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise InputError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    if content is None:
        content = {}
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a {type(content).__name__}: expected keys and values")
    return content


def refused(error: Exception) -> InputError:
    """What the parser of a recipe, or a constructor, refused, as one sentence."""
    return in_a_sentence(
        error, lambda: [o.removeprefix("--") for o in parser()._option_string_actions if o.startswith("--")]
    )


def with_seed(config: Namespace, seed: int) -> Namespace:
    """The same configuration under another seed."""
    changed = config.clone()
    changed.seed_everything = seed
    for part in (changed.get("data"), changed.get("model")):
        if part is not None:
            part.init_args.seed = seed
    return changed


def dump(config: Namespace, grammar: Callable[[], LightningArgumentParser] = parser) -> str:
    """The text of a resolved configuration; parsing it again with the same grammar gives the same one."""
    clean = config.clone()
    for key in ("config", "out", *FIT_KEYS):
        clean.pop(key, None)
    return grammar().dump(clean, skip_unset=False, skip_validation=True)  # it was validated when it was parsed
