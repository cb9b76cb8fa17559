"""`nastricks fit|validate|test`: LightningCLI on a stack of recipes."""

import os

from jsonargparse import ArgumentError

from nastricks.recipe import check_names, locate, refused
from nastricks.run import RecipeCLI
from nastricks.stacking import classes_as_files


def fit(arguments: list[str]) -> int:
    """Run LightningCLI; what it refuses becomes one sentence."""
    located = list(arguments)
    for position, argument in enumerate(arguments[:-1]):
        if argument in ("-c", "--config"):
            located[position + 1] = str(locate(arguments[position + 1]))
    check_names(located)
    try:
        cli = RecipeCLI(classes_as_files(located))
    except ArgumentError as error:
        raise refused(error) from error
    if cli.subcommand == "fit" and cli.trainer.is_global_zero:
        print(f"run folder: {os.path.relpath(cli.run_folder)}")
    return 0
