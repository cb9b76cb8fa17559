"""From a stack of YAML files to a configuration, and from a configuration to the objects that run.

The parser is LightningCLI's, with a key a trick (``tricks.sam.rho``), so that files merge trick by trick. Everything
that trains goes through `build`: the command line, a trial of an ablation, a replica of a table.
"""

import copy
import functools
import json
import logging
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import yaml
from jsonargparse import ActionConfigFile, ArgumentError, Namespace  # type: ignore[attr-defined]
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI

from nastricks.data import ImageSpec, TensorDataModule
from nastricks.errors import InputError, unknown
from nastricks.modules import TrainingModule, Trick
from nastricks.modules.registry import tricks as all_tricks
from nastricks.modules.run_folder import LAST, MetricsFile, RunFolder, load_checkpoint
from nastricks.modules.tracking import Tracked, WandbTracking
from nastricks.modules.trick import in_order
from nastricks.spaces import Space

# Lightning announces devices, advertises loggers and repeats its stopping rule at every fit.
logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)

TRAINER_DEFAULTS: dict[str, Any] = {
    "accelerator": "auto",
    "devices": 1,
    "logger": False,  # build() adds metrics.csv, and the loggers of the recipe
    "enable_checkpointing": False,  # build() adds the checkpoint at the end
    "enable_model_summary": False,
    "log_every_n_steps": 1,  # nothing is logged a step; this keeps Lightning from warning of short epochs
    "num_sanity_val_steps": 0,
    "limit_val_batches": 0,  # `nastricks rank` judges; validating every epoch would cost more than a tiny epoch
}
KEYS = (
    "seed_everything", "space", "data", "model", "tricks", "loggers", "checkpoint", "trainer", "threads", "out",
)  # fmt: skip


class RecipeParser(LightningArgumentParser):
    """Raises instead of exiting, so that the command line can print one sentence."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs["exit_on_error"] = False
        super().__init__(*args, **kwargs)
        self.allow_abbrev = False  # a key that is not spelt out is an unknown key


def add_arguments(parser: LightningArgumentParser) -> None:
    """The arguments of a recipe, beside LightningCLI's own."""
    parser.add_lightning_class_args(pl.Trainer, "trainer")
    parser.set_defaults({f"trainer.{key}": value for key, value in TRAINER_DEFAULTS.items()})
    parser.add_subclass_arguments(Space, "space", required=True)
    parser.add_subclass_arguments(TensorDataModule, "data", required=True)
    parser.add_subclass_arguments(TrainingModule, "model", required=True)
    for name, trick in all_tricks().items():
        parser.add_argument(f"--tricks.{name}", type=trick | None, default=None, help=_first_line(trick))
    parser.add_argument("--loggers.wandb", type=WandbTracking | None, default=None, help=_first_line(WandbTracking))
    parser.add_argument("--checkpoint.every_n_epochs", type=int | None, default=None, help="also save this often")
    parser.add_argument("--checkpoint.every_n_steps", type=int | None, default=None, help="also save this often")
    parser.add_argument("--threads", type=int | None, default=None, help="torch threads on the CPU (default: torch's)")
    parser.add_argument("--out", type=str | None, default=None, help="the run's folder (default: a new one in runs/)")
    parser.link_arguments("seed_everything", "data.init_args.seed")
    parser.link_arguments("seed_everything", "model.init_args.seed")
    parser.link_arguments("space", "model.init_args.space", apply_on="instantiate")
    parser.link_arguments("data", "model.init_args.spec", compute_fn=_spec, apply_on="instantiate")


def _spec(data: TensorDataModule) -> ImageSpec:
    return data.spec


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


def resolve(files: Sequence[str | Path], overrides: Sequence[str] = ()) -> Namespace:
    """The configuration of a stack of files, later ones winning key by key, then of overrides ``--a.b value``.

    Raises:
        InputError: a missing file, an unknown key or trick, a value of the wrong type.
    """
    args = [arg for file in files for arg in ("-c", str(locate(file)))] + list(overrides)
    check_names(args)
    try:
        config = parser().parse_args(args)
    except ArgumentError as error:
        raise refused(error) from error
    config.pop("config", None)
    return config


@functools.cache
def _space_parser() -> LightningArgumentParser:
    """A parser of the space and the data alone; other keys of a recipe are passed over by `space_and_spec`."""
    made = RecipeParser()
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
        content = read_yaml(file)
        args += [f"--{key}={json.dumps(content[key])}" for key in ("space", "data") if content.get(key)]
    try:
        config = _space_parser().parse_args([*args, *overrides])
    except ArgumentError as error:
        raise refused(error) from error
    made = _space_parser().instantiate(config)
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


def check_names(args: Sequence[str]) -> None:
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
                if key not in (*KEYS, "ckpt_path", "verbose", "weights_only"):
                    raise unknown(f"key of {args[position + 1]}", key, KEYS)


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
    """What a parser or a constructor refused, as one sentence.

    Constructors' own refusals come wrapped in the parser's account of every type that it tried.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, InputError):
            return cause
        cause = cause.__cause__ or cause.__context__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    tried = [
        line for line in lines if not line.startswith(("Does not validate", "Subtypes:", "Errors:", "Given value"))
    ]
    told = [line.removeprefix("- ") for line in tried if "<class 'NoneType'>" not in line]
    given = next((line.removeprefix("Given value: ") for line in lines if line.startswith("Given value: ")), None)
    sentence = " ".join(told).replace("Parser key ", "key ")
    unrecognised = re.search(r"unrecognized arguments: --([\w.]+)", sentence, re.IGNORECASE)
    if unrecognised is not None:
        names = [o.removeprefix("--") for o in parser()._option_string_actions if o.startswith("--")]
        return unknown("key", unrecognised.group(1), names)
    short = given is not None and len(given) < 80 and "(" not in given
    return InputError(f"{sentence}, and it was given {given!r}" if short else sentence)


def with_seed(config: Namespace, seed: int) -> Namespace:
    """The same configuration under another seed."""
    changed = config.clone()
    changed.seed_everything = seed
    changed.data.init_args.seed = seed
    changed.model.init_args.seed = seed
    return changed


def dump(config: Namespace) -> str:
    """The text of a resolved configuration; parsing it again gives the same one."""
    clean = config.clone()
    for key in ("config", "out", "ckpt_path", "verbose", "weights_only"):
        clean.pop(key, None)
    return parser().dump(clean, skip_unset=False)


@dataclass
class Run:
    """What a configuration builds."""

    trainer: pl.Trainer
    module: TrainingModule
    data: TensorDataModule
    tricks: list[Trick]
    out: Path | None
    config: Namespace = field(repr=False)

    def check(self) -> None:
        """Refuse now what training would refuse at its start.

        Raises:
            InputError: a trick cannot act in this run.
        """
        self.module.trainer = self.trainer
        self.trainer.datamodule = self.data  # type: ignore[attr-defined]
        for trick in self.tricks:
            reason = trick.refusal(self.module)
            if reason is not None:
                raise InputError(reason)

    def fit(self, ckpt_path: str | None = None) -> None:
        self.trainer.fit(self.module, datamodule=self.data, ckpt_path=ckpt_path, weights_only=True)


def build(config: Namespace, out: Path | None, *, quiet: bool = False, tracked: Tracked | None = None) -> Run:
    """The trainer, module, data and tricks of a configuration. `out` None writes nothing.

    `quiet` shows no progress bar; `tracked` names the place of the run in an ablation for the loggers.
    """
    try:
        made = parser().instantiate(_without_fit_arguments(config))
    except ValueError as error:
        raise refused(error) from error
    return assemble(config, made, out, quiet=quiet, tracked=tracked)


def _without_fit_arguments(config: Namespace) -> Namespace:
    clean = config.clone()
    for key in ("config", "ckpt_path", "verbose", "weights_only"):
        clean.pop(key, None)
    return clean


def assemble(
    config: Namespace, made: Namespace, out: Path | None, *, quiet: bool = False, tracked: Tracked | None = None
) -> Run:
    """Put instantiated parts together."""
    if made.threads is not None:
        if made.threads < 1:
            raise InputError(f"threads is {made.threads}: expected at least 1, or null for torch's own choice")
        torch.set_num_threads(made.threads)
    tricks = in_order([trick for trick in vars(made.tricks).values() if trick is not None])
    settings = dict(made.trainer.__dict__)
    callbacks = list(settings.pop("callbacks") or []) + tricks
    logger = settings.pop("logger") or False
    loggers: list[Any] = (
        list(logger) if isinstance(logger, list) else [logger] if logger not in (True, False, None) else []
    )
    if out is not None:
        text = dump(config)
        every = made.checkpoint
        loggers.insert(0, MetricsFile(out))
        callbacks.append(RunFolder(out, text, every.every_n_epochs, every.every_n_steps))
        if made.loggers.wandb is not None:
            place = tracked or Tracked(name=out.name)
            loggers.append(made.loggers.wandb.logger(out, yaml.safe_load(text), [t.name for t in tricks], place))
    if quiet:
        settings["enable_progress_bar"] = False
    trainer = pl.Trainer(**settings, callbacks=callbacks, logger=loggers or False)
    return Run(trainer, made.model, made.data, tricks, out, copy.copy(config))


class RecipeCLI(LightningCLI):
    """``nastricks fit|validate|test``: LightningCLI on a recipe, into a run folder."""

    def __init__(self, args: list[str]) -> None:
        before = sys.argv
        sys.argv = [before[0], *args]  # what Lightning types again to start the other processes of a DDP run
        try:
            super().__init__(
                parser_class=RecipeParser,
                save_config_callback=None,  # RunFolder saves it, into the run's own folder
                auto_configure_optimizers=False,
                load_from_checkpoint_support=False,
                seed_everything_default=0,
            )
        finally:
            sys.argv = before

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        skipped = {"model", "datamodule"}
        return {
            "fit": skipped | {"train_dataloaders", "val_dataloaders"},
            "validate": skipped | {"dataloaders"},
            "test": skipped | {"dataloaders"},
        }

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--seed_everything", type=int, default=0, help="the key of everything random")

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        add_arguments(parser)

    def instantiate_classes(self) -> None:
        config = self.config[self.subcommand]
        out = Path(config.out) if config.out else new_run_folder(self.subcommand or "run")
        config.out = str(out)
        if self.subcommand == "fit":
            config.weights_only = True
            self._refuse_finished(out, config.get("ckpt_path"))
        elif config.trainer.limit_val_batches == 0:
            config.trainer.limit_val_batches = 1.0
        if config.get("ckpt_path") is not None:
            load_checkpoint(config.ckpt_path)  # refuses what is missing, foreign, or would run code
        try:
            self.config_init = self.parser.instantiate(self.config)
        except ValueError as error:
            raise refused(error) from error
        made = self.config_init[self.subcommand]
        run = assemble(config, made, out if self.subcommand == "fit" else None)
        self.trainer, self.model, self.datamodule, self.run_folder = run.trainer, run.module, run.data, out

    def _refuse_finished(self, out: Path, ckpt_path: str | None) -> None:
        if ckpt_path is None and (out / "config.yaml").exists():
            raise InputError(
                f"{out} already holds a run: choose another --out, remove it, or continue it with "
                f"--ckpt_path {out / LAST}"
            )

    def _parse_ckpt_path(self) -> None:
        """Checkpoints hold no hyper-parameters here, so that they cannot override the command line."""


def new_run_folder(kind: str) -> Path:
    """A folder under runs/ that does not exist yet."""
    from datetime import datetime

    stem = Path("runs") / f"{kind}-{datetime.now():%Y%m%d-%H%M%S}"
    number, path = 1, stem
    while path.exists():
        number += 1
        path = stem.with_name(f"{stem.name}-{number}")
    return path
