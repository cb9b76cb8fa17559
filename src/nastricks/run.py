"""From a resolved configuration to the objects that run.

Everything that trains goes through `build`: the command line, a trial of an ablation, a replica of a table.
"""

import copy
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import yaml
from jsonargparse import Namespace
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI

from nastricks.data import TensorDataModule
from nastricks.errors import InputError
from nastricks.memory import keep_freed_memory
from nastricks.modules import Calibration, SupernetModule, TrainingModule, Trick
from nastricks.modules.measures import Measures, strengths_of
from nastricks.modules.registry import tricks as all_tricks
from nastricks.modules.run_folder import LAST, MetricsFile, RunFolder, load_checkpoint
from nastricks.modules.tracking import Tracked
from nastricks.modules.trick import in_order
from nastricks.nulls import refuse_nulls
from nastricks.recipe import FIT_KEYS, RecipeParser, add_arguments, dump, parser, refused, resolve


@dataclass
class Run:
    """What a configuration builds."""

    trainer: pl.Trainer
    module: TrainingModule
    data: TensorDataModule
    tricks: list[Trick]
    out: Path | None
    config: Namespace = field(repr=False)

    def check(self, *, prepared: bool = True) -> None:
        """Refuse now what training would refuse at its start.

        `prepared` False leaves out what only training reads from elsewhere, such as a teacher.

        Raises:
            InputError: a trick cannot act in this run.
        """
        for reason in self.refusals().values():
            raise InputError(reason)
        for trick in self.tricks if prepared else ():
            trick.prepare(self.module)

    def refusals(self) -> dict[str, str]:
        """Name -> reason of the tricks that cannot act in this run."""
        self.module.trainer = self.trainer
        self.trainer.datamodule = self.data  # type: ignore[attr-defined]
        reasons = {trick.name: trick.refusal(self.module) for trick in self.tricks}
        return {name: reason for name, reason in reasons.items() if reason is not None}

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
    for key in ("config", *FIT_KEYS):
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
    keep_freed_memory()
    module = made.model
    if isinstance(module, SupernetModule):
        module.measures = _measures(module, made.measures)
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
    return Run(trainer, module, made.data, tricks, out, copy.copy(config))


def _measures(module: SupernetModule, asked: Namespace) -> Measures | None:
    """What is measured at the end of every epoch; None where it is off, or the policy has no strengths."""
    costly = {key: value for key, value in vars(asked).items() if value is True and key != "gates"}
    if not strengths_of(module.policy):
        if costly:
            raise InputError(
                f"measures.{next(iter(costly))} needs a policy with strengths, and {type(module.policy).__name__} has "
                "none: leave it out, or use another algorithm"
            )
        return None
    if not asked.gates:
        if costly:
            raise InputError(f"measures.{next(iter(costly))} is asked for and measures.gates is false: leave that true")
        return None
    return Measures(
        module.space, module.policy, module.derivation, asked.discretisation, asked.hessian, asked.every_n_epochs
    )


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
        refuse_nulls(config)
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


def load_run(folder: str | Path, overrides: Sequence[str] = ()) -> Run:
    """A finished run: its configuration, built, with the weights of its last checkpoint, and its data.

    `overrides` change the configuration, such as how an architecture is derived.

    Raises:
        InputError: the folder holds no finished run of nastricks, or a checkpoint of another space.
    """
    run = _restored(Path(folder), Path(folder), overrides)
    run.data.prepare_data()
    run.data.setup("validate")
    return run


def load_module(where: str | Path) -> TrainingModule:
    """What a run trained, by its folder or by a checkpoint in it; its data are not read [a teacher].

    Raises:
        InputError: as `load_run`, or the checkpoint lies in no run's folder, which alone says what network it is of.
    """
    path = Path(where)
    folder = path if path.is_dir() or not path.exists() else path.resolve().parent.parent
    if path.is_file() and not (folder / "config.yaml").is_file():
        raise InputError(
            f"{where} lies in no run's folder, and a checkpoint alone does not say of what network it is: give the "
            "folder that `nastricks fit` wrote"
        )
    threads = torch.get_num_threads()
    try:
        return _restored(folder, path, ()).module
    finally:
        torch.set_num_threads(threads)  # those of the run that asks


def _restored(folder: Path, checkpoint_at: Path, overrides: Sequence[str]) -> Run:
    if not (folder / "config.yaml").is_file():
        raise InputError(f"{folder} holds no run: expected a folder that `nastricks fit` wrote")
    run = build(resolve([folder / "config.yaml"], ["--loggers.wandb", "null", *overrides]), None, quiet=True)
    checkpoint = load_checkpoint(checkpoint_at)
    run.check(prepared=False)
    for trick in run.tricks:
        trick.operate(run.module)
    run.module.use_tricks(run.tricks)
    run.module.on_load_checkpoint(checkpoint)
    try:
        run.module.load_state_dict(checkpoint["state_dict"])
    except RuntimeError as error:
        raise InputError(f"the checkpoint of {folder} does not fit its config.yaml: {error}") from error
    return run


def calibration_of(config: Namespace) -> Calibration | None:
    """What the tricks of a configuration that act after training ask for."""
    for name, settings in vars(config.tricks).items():
        if settings is not None and all_tricks()[name].after_training:
            made = all_tricks()[name](**vars(settings.init_args)).calibration()
            if made is not None:
                return made
    return None


def new_run_folder(kind: str) -> Path:
    """A folder under runs/ that does not exist yet."""
    stem = Path("runs") / f"{kind}-{datetime.now():%Y%m%d-%H%M%S}"
    number, path = 1, stem
    while path.exists():
        number += 1
        path = stem.with_name(f"{stem.name}-{number}")
    return path
