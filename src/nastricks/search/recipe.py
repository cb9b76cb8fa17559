"""The configuration of a search: a recipe with a `search` key, whose data and child recipe may be left out.

search:
  algorithm: {class_path: nastricks.search.RegularizedEvolution, init_args: {population: 20}}
  reward: {class_path: nastricks.search.TableReward}
  evaluations: 200
  most: {flops: 1.0e+6}
"""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

from jsonargparse import ActionConfigFile, Namespace  # type: ignore[attr-defined]
from pytorch_lightning.cli import LightningArgumentParser

from nastricks.errors import InputError
from nastricks.recipe import FIT_KEYS, RecipeParser, add_arguments, dump, parser, read_yaml, refused, resolve
from nastricks.recipe import KEYS as RECIPE_KEYS
from nastricks.search.algorithm import SearchAlgorithm
from nastricks.search.constraints import COSTS, UNITS, CostName
from nastricks.search.reward import Reward
from nastricks.spaces import Space

KEYS = (*RECIPE_KEYS, "search")


@functools.cache
def search_parser() -> LightningArgumentParser:
    """The parser of a search; built once a process."""
    made = RecipeParser()
    made.add_argument("-c", "--config", action=ActionConfigFile, help="a recipe file; later ones win key by key")
    made.add_argument("--seed_everything", type=int, default=0, help="the key of everything random")
    add_arguments(made, trains=False)
    made.add_argument("--search.algorithm", type=Callable[[Space, int], SearchAlgorithm], help="what proposes")
    made.add_argument("--search.reward", type=Reward, help="what an architecture is worth")
    made.add_argument("--search.evaluations", type=int, default=100, help="budget in full evaluations")
    for cost in COSTS:
        made.add_argument(
            f"--search.most.{cost}", type=float | None, default=None, help=f"most {UNITS[cost]} of a child"
        )
        made.add_argument(f"--search.least.{cost}", type=float | None, default=None, help=f"least {UNITS[cost]}")
    made.add_argument("--search.latency", type=str | None, default=None, help="table of `nastricks latency`")
    made.add_argument("--search.front", type=CostName | None, default=None, help="cost of the Pareto front")
    made.add_argument("--search.truth", type=str | None, default=None, help="table of true accuracies to judge by")
    made.add_argument("--search.goal", type=float | None, default=None, help="true accuracy whose reaching is timed")
    return made


def resolve_search(files: Sequence[str | Path], overrides: Sequence[str] = ()) -> Namespace:
    """As `nastricks.recipe.resolve`, of a stack that searches.

    Raises:
        InputError: as there, and for a stack without an algorithm or a reward.
    """
    config = resolve(files, overrides, grammar=search_parser, keys=KEYS)
    for key in ("algorithm", "reward"):
        if config.search.get(key) is None:
            raise InputError(f"the stack names no search.{key}: add one, such as -c recipes/search/random_search.yaml")
    if config.search.evaluations < 1:
        raise InputError(f"search.evaluations is {config.search.evaluations}: expected at least 1")
    return config


def resolve_any(files: Sequence[str | Path], overrides: Sequence[str] = ()) -> Namespace:
    """The configuration of a stack that searches, where any of it names `search`; else of one that trains."""
    named = any("search" in read_yaml(file) for file in files) or any(o.startswith("--search.") for o in overrides)
    return resolve_search(files, overrides) if named else resolve(files, overrides)


def searches(config: Namespace) -> bool:
    """Whether a resolved configuration is of a search."""
    return config.get("search") is not None


def dump_any(config: Namespace) -> str:
    """The text of a resolved configuration of either sort; parsing it again gives the same one."""
    return dump(config, search_parser if searches(config) else parser)


def instantiated(config: Namespace) -> Namespace:
    """Space, data and search; what a child needs is built once a child."""
    clean = config.clone()
    for key in (*FIT_KEYS, "config"):
        clean.pop(key, None)
    clean.model = None
    for trick in list(vars(clean.tricks)):
        clean.tricks[trick] = None
    clean.loggers.wandb = None
    try:
        return search_parser().instantiate(clean)
    except ValueError as error:
        raise refused(error) from error
