"""A later class of a stack comes without the arguments of the class that it replaces."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonargparse import Namespace

from nastricks.commands.fit import fit
from nastricks.errors import InputError
from nastricks.recipe import resolve, space_and_spec
from nastricks.run import RecipeCLI
from nastricks.search.recipe import resolve_search
from nastricks.stacking import classes_as_files

# Lightning 2.6 calls the parser by its old name.
pytestmark = pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning")

CHILD = ["recipes/spaces/tiny64.yaml", "recipes/data/digits.yaml", "recipes/child/tiny64.yaml"]
SEARCH = ["recipes/spaces/sequence.yaml", "recipes/search/rewards/objective.yaml"]
REINFORCE = ["recipes/search/nasnet_reinforce.yaml", *SEARCH]
ESTIMATOR = "search.algorithm.init_args.estimator"
BASELINE = f"{ESTIMATOR}.init_args.baseline"


@pytest.fixture
def file(tmp_path: Path) -> Any:
    def write(content: dict[str, Any]) -> str:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.yaml"
        path.write_text(yaml.safe_dump(content))
        return str(path)

    return write


def test_a_files_class_replaces_the_earlier_one_with_its_arguments(file: Any) -> None:
    ours = file({"data": {"init_args": {"validation_size": 123, "test_size": 7, "resolution": 4}}})
    swapped = resolve([*CHILD, ours, "recipes/data/cifar10.yaml"]).data
    assert swapped == resolve([CHILD[0], "recipes/data/cifar10.yaml", CHILD[2]]).data
    assert resolve([*CHILD, ours]).data.init_args.resolution == 4


def test_the_same_class_keeps_what_was_said(file: Any) -> None:
    for name in ("nastricks.data.Digits", "nastricks.data.digits.Digits", "Digits"):
        again = file({"data": {"class_path": name, "init_args": {"batch_size": 7}}})
        data = resolve([*CHILD, again]).data.init_args
        assert (data.batch_size, data.train_size) == (7, 600)
    unnamed = file({"data": {"init_args": {"batch_size": 7}}})
    assert resolve([*CHILD, unnamed]).data.init_args.train_size == 600


def test_a_class_inside_a_class_is_replaced_too(file: Any) -> None:
    inner = file({"model": {"init_args": {"optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.3}}}}})
    model = resolve([*CHILD, inner]).model.init_args
    assert model.optimizer.init_args.weight_decay == 0.01  # AdamW's own, not the 3e-4 of the recipe's SGD
    assert model.architecture == "213"


@pytest.mark.parametrize("later", ["relax", "nasnet_ppo"])
def test_an_algorithm_after_another_is_as_if_alone(later: str) -> None:
    stacked = resolve_search(["recipes/search/nasnet_reinforce.yaml", f"recipes/search/{later}.yaml", *SEARCH])
    alone = resolve_search([f"recipes/search/{later}.yaml", *SEARCH])
    assert stacked.search == alone.search


@pytest.mark.parametrize(
    "override",
    [
        [f"--{ESTIMATOR}.class_path=nastricks.estimators.PPO"],
        [f"--{ESTIMATOR}.class_path", "nastricks.estimators.PPO"],
        ["--search.algorithm.estimator.class_path=PPO"],
        [f"--{ESTIMATOR}={json.dumps({'class_path': 'nastricks.estimators.PPO'})}"],
    ],
)
def test_an_override_that_names_a_class(override: list[str]) -> None:
    def estimator(*overrides: str) -> Namespace:
        return resolve_search(REINFORCE, overrides).search.algorithm.init_args.estimator

    assert estimator().init_args.entropy == 1e-3
    replaced = estimator(*override)
    assert replaced.class_path == "nastricks.estimators.PPO"
    assert (replaced.init_args.entropy, replaced.init_args.baseline) == (0.0, None)
    assert estimator(*override, f"--{ESTIMATOR}.entropy=0.5").init_args.entropy == 0.5
    assert estimator(f"--{ESTIMATOR}.class_path=nastricks.estimators.Reinforce").init_args.entropy == 1e-3


def test_a_whole_class_by_its_name() -> None:
    assert resolve(CHILD, ["--data=CIFAR10"]).data.init_args.train_size is None
    assert resolve(CHILD, ["--data=Digits"]).data.init_args.train_size == 600


@pytest.mark.parametrize(
    ("recipe", "part", "argument"),
    [
        ("tunas", "estimator", "resource"),
        ("tunas", "estimator", "baseline"),
        ("published/fairdarts", "derivation", "edges"),
    ],
)
def test_an_argument_of_an_argument_can_be_null(recipe: str, part: str, argument: str, file: Any) -> None:
    """On the command line as in a file, also where the class is built later: policies and estimators are callables."""
    stack = [*CHILD[:2], f"recipes/algorithms/{recipe}.yaml"]
    written = resolve([*stack, file({"model": {"init_args": {part: {"init_args": {argument: None}}}}})])
    assert resolve(stack).model.init_args[part].init_args[argument] is not None
    assert written.model.init_args[part].init_args[argument] is None
    for override in ([f"--model.init_args.{part}.init_args.{argument}", "null"], [f"--model.{part}.{argument}=null"]):
        assert resolve(stack, override) == written


def test_an_override_that_is_no_yaml_is_one_sentence() -> None:
    with pytest.raises(InputError, match=r"--model\.init_args\.optimizer is \{class_path: , which is no YAML"):
        resolve(CHILD, ["--model.init_args.optimizer", "{class_path: "])


def test_other_overrides_are_left_alone() -> None:
    args = [
        "fit",
        "-c",
        "a.yaml",
        "--tricks.sam.rho",
        "0.1",
        "--trainer.max_epochs=3",
        "--data.batch_size=5",
        "--out",
        "x",
    ]
    assert classes_as_files(args) == args
    assert classes_as_files(["--model.policy=Uniform", "--data=null"]) == ["--model.policy=Uniform", "--data=null"]


def test_a_class_that_does_not_exist_is_one_sentence() -> None:
    for overrides in (["--data.class_path=nastricks.data.Photographs"], ["--data.class_path=no.such.module"]):
        with pytest.raises(InputError, match=r"Photographs|no\.such"):
            resolve(CHILD, overrides)


def test_the_commands_fit_and_show_stack_alike(file: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Namespace] = []

    def stop(self: RecipeCLI) -> None:
        seen.append(self.config[self.subcommand])
        raise KeyboardInterrupt

    monkeypatch.setattr(RecipeCLI, "instantiate_classes", stop)
    told = [part for name in [*CHILD, "recipes/data/cifar10.yaml"] for part in ("-c", name)]
    for args in (told, [*told[:6], "--data.class_path=nastricks.data.CIFAR10"]):
        with pytest.raises(KeyboardInterrupt):
            fit(["fit", *args])
    assert seen[0].data.init_args.test_size is None
    assert seen[1].data.init_args.train_size is None
    small = file({"data": {"init_args": {"resolution": 4}}})
    for later, size in (([], 4), (["recipes/data/cifar10.yaml"], 32)):
        spec = space_and_spec([*CHILD[:2], small, *later])[1]
        assert spec is not None
        assert spec.size == size
