"""Every shipped recipe is found by walking the tree, says what it is, and takes two steps."""

import itertools
import json
import os
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml

from nastricks.ablation.design import read_design
from nastricks.ablation.plan import arm_config
from nastricks.ablation.setting import text_of
from nastricks.cli import main
from nastricks.commands.listing import KINDS_OF_RECIPES
from nastricks.data import CIFAR10, CIFAR100, MNIST, FashionMNIST, RawImages, TensorDataModule
from nastricks.errors import InputError
from nastricks.modules import Trick
from nastricks.modules.registry import tricks
from nastricks.modules.tracking import finish
from nastricks.recipe import dump, resolve
from nastricks.rng import generator
from nastricks.run import Run, build
from proofs.small_runs import teacher

# Lightning 2.6 calls the parser by its old name.
pytestmark = pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning")

RECIPES = Path(__file__).parent.parent / "recipes"
FOUND = sorted(RECIPES.rglob("*.yaml"))
COUNTS = {
    "ablations": 14,
    "algorithms": 43,
    "child": 10,
    "data": 6,
    "loggers": 1,
    "search": 13,
    "sharing": 5,
    "spaces": 20,
    "stacks": 2,
    "stages": 8,
    "tricks": 36,
}
ARMS = {
    "child_reward": 11,
    "controllers": 23,
    "controller_choices": 14,
    "controller_masks": 4,
    "controllers_ppo": 9,
    "controllers_sequence": 6,
    "none_under_gumbel": 4,
    "quickstart": 10,
    "quickstart_darts": 4,
    "search_depth": 3,
    "spos_tricks": 10,
    "weight_sharing": 51,
    "weight_sharing_cifar10": 53,
}
ALGORITHMS = {path.stem for path in (RECIPES / "algorithms").glob("*.yaml")}
SAMPLED = {
    "autoslim",
    "bender_oneshot",
    "bignas",
    "enas",
    "fairnas",
    "mct_sampling",
    "ofa",
    "spos",
    "tunas",
}
NOT_OF_THE_FAMILY = {"darts", *SAMPLED}  # the base of algorithms.yaml, and those that sample paths
REWARDS = "recipes/search/rewards"
FAKE_KEY = "0123456789abcdef0123456789abcdef01234567"
DATA = os.environ.get("NASTRICKS_DATA")
TORCHVISION = {c.name: c for c in (MNIST, FashionMNIST, CIFAR10, CIFAR100)}

SMALL = {
    "data.init_args.train_size": 32,
    "data.init_args.search_size": 16,
    "data.init_args.validation_size": 16,
    "data.init_args.batch_size": 16,  # the size of a ghost
    "trainer.accelerator": "cpu",
    "trainer.max_epochs": 1,  # of two batches
}
TWO_EPOCHS = {"data.init_args.train_size": 16, "trainer.max_epochs": 2}  # a step each
HESSIAN_AT_ONCE = {f"tricks.early_stop_hessian.{key}": 1 for key in ("window", "distance", "first_epoch")}
DARTS_CELLS = {"space.init_args.channels": 4, "space.init_args.cells": 3}
SMALLER = {  # what is made for larger images or networks, or acts between epochs
    **{f"spaces/darts{own}": DARTS_CELLS for own in ("", "_s1", "_s2", "_s3", "_s4", "_free")},
    "spaces/elastic_published": {"space.init_args.resolutions": "[8,12]"},
    "child/darts": DARTS_CELLS,
    "child/darts_cifar10": {**DARTS_CELLS, "tricks.cutout.length": 4},
    **{f"algorithms/{name}": TWO_EPOCHS for name in ("darts_plus", "goldnas", "cpnas")},
    **{f"algorithms/published/{name}": {"tricks.weight_warmup.epochs": 0.5} for name in ("pcdarts", "fbnet")},
    # Of two steps the second is warm: alpha learns there, not only at every fifth.
    "algorithms/published/proxylessnas": {
        "tricks.weight_warmup.epochs": 0.5,
        "model.init_args.estimator.init_args.every": 1,
    },
    **{f"algorithms/published/{name}": TWO_EPOCHS for name in ("darts_plus", "cpnas", "goldnas")},
    "algorithms/ofa": {**TWO_EPOCHS, "tricks.progressive_shrinking.starts": "[0.0,0.5,0.5,0.5,0.5]"},
    "tricks/early_stop_hessian": HESSIAN_AT_ONCE,
    "tricks/progressive_shrinking": {"tricks.progressive_shrinking.starts": "[0.0,0.5,0.5,0.5,0.5]"},
    **{f"algorithms{own}/rdarts": {**TWO_EPOCHS, **HESSIAN_AT_ONCE} for own in ("", "/published")},
    "stacks/harder_augmentation_cifar10": {"tricks.cutout.length": 4},
    "tricks/freeze_prefix_cache": {"data.init_args.crop_padding": 0},
    "tricks/space_pruning": {"tricks.space_pruning.epochs": 1},
    "tricks/op_projection": {"tricks.op_projection.at_once": 3},
}
BASE = ["recipes/spaces/tiny64.yaml", "recipes/data/digits.yaml"]
SPOS, DARTS = "recipes/algorithms/spos.yaml", "recipes/algorithms/darts.yaml"


OF_DARTS = {"policy that learns", "mixture of options", "gradient through the gates"}  # needs that SPOS does not meet
NETWORKLESS = ("sequence", "tabular")  # spaces that are only searched
OF_SIZES = (
    "elastic",
    "elastic_published",
    "slimmable",
    "slimmable_mobilenet_v2",
)  # which cannot be mixed


def of_kind(*kinds: str, only: Callable[[Path], bool] = lambda path: True) -> Any:
    """Parametrises a test over the recipes of some kinds."""
    paths = [path for path in FOUND if kind_of(path) in kinds and only(path)]
    return pytest.mark.parametrize("path", paths, ids=lambda p: f"{kind_of(p)}/{p.stem}")


def has_network(path: Path) -> bool:
    return path.stem not in NETWORKLESS


def kind_of(path: Path) -> str:
    return path.relative_to(RECIPES).parts[0]


def name_of(path: Path) -> str:
    return str(path.relative_to(RECIPES).with_suffix(""))


def test_every_recipe_is_found_and_of_a_known_kind() -> None:
    assert Counter(kind_of(path) for path in FOUND) == COUNTS, "count a new recipe in COUNTS, and test its kind"
    assert set(COUNTS) <= set(KINDS_OF_RECIPES)
    assert {p.stem for p in FOUND if kind_of(p) == "tricks"} == set(tricks())


def test_every_kind_takes_two_steps_in_a_test_below() -> None:
    tested = {
        "algorithms",
        "child",
        "data",
        "loggers",
        "sharing",
        "spaces",
        "stacks",
        "tricks",
        "search",
        "ablations",
        "stages",
    }
    assert tested == set(COUNTS)


@pytest.mark.parametrize("path", FOUND, ids=lambda p: f"{kind_of(p)}/{p.stem}")
def test_the_head_says_what_it_is_and_how_it_runs(path: Path) -> None:
    head = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert path.read_text().startswith("# ")
    assert any("nastricks " in line for line in head[1:])


def test_recipes_that_heads_and_pages_name_exist() -> None:
    root = RECIPES.parent
    texts = [*FOUND, root / "README.md", *(root / "docs").rglob("*.md")]
    named = {name for path in texts for name in re.findall(r"recipes/[\w/]+\.yaml", path.read_text())}
    assert len(named) > 50
    assert sorted(name for name in named if not (root / name).exists()) == []


def two_steps(files: list[str], out: Path | None = None, **changes: Any) -> Run:
    """Train two batches; the weights moved, and every number is finite."""
    overrides = [f"--{key}={value}" for key, value in {**SMALL, **changes}.items()]
    run = build(resolve(files, overrides), out, quiet=True)
    before = [p.detach().clone() for p in run.module.networks.parameters()]
    run.fit()
    assert run.module.steps_seen == 2
    after = list(run.module.networks.parameters())
    assert any(not torch.equal(old, new) for old, new in zip(before, after, strict=True))
    assert all(bool(torch.isfinite(p).all()) for p in after)
    return run


def spaces_of(path: Path) -> list[str]:
    """The spaces that the line at a recipe's head runs it on."""
    return re.findall(r"-c recipes/spaces/(\w+)\.yaml", path.read_text())


def stack(path: Path) -> list[str]:
    """The recipe on a stack that it fits."""
    kind, own = kind_of(path), str(path)
    if kind == "spaces":
        return [own, BASE[1], SPOS]
    if kind == "child":
        # A child's recipe bears its space's name, and that of its data where it names them.
        space = f"recipes/spaces/{path.stem.removesuffix('_cifar10')}.yaml"
        return [space, own, BASE[1]] if path.stem.endswith("_cifar10") else [space, BASE[1], own]
    if kind == "algorithms":
        space = spaces_of(path)[0]
        return [f"recipes/spaces/{space}.yaml", BASE[1], own]
    if kind == "tricks" and OF_DARTS & set(tricks()[path.stem].needs):
        return [*BASE, DARTS, own]
    if kind == "tricks":
        return [f"recipes/spaces/{spaces_of(path)[0]}.yaml", BASE[1], SPOS, own]
    return [*BASE, SPOS, own]


@of_kind("algorithms", "child", "sharing", "spaces", "stacks", only=has_network)
def test_two_steps(path: Path) -> None:
    space = f"spaces/{spaces_of(path)[0]}" if kind_of(path) == "algorithms" else ""
    two_steps(stack(path), **{**SMALLER.get(space, {}), **SMALLER.get(name_of(path), {})})


@of_kind("tricks")
def test_tricks_act_within_two_steps(path: Path) -> None:
    changes = dict(SMALLER.get(name_of(path), {}))
    changes |= TWO_EPOCHS if tricks()[path.stem].on_epoch is not Trick.on_epoch else {}
    if "nastricks.policies.Sandwich" in path.read_text():  # as the line at its head says
        changes["model.init_args.policy"] = "nastricks.policies.Sandwich"
    if path.stem == "distillation":
        changes["tricks.distillation.teacher"] = teacher()
    if path.stem == "sync_batch_norm":
        with pytest.raises(InputError, match="needs GPUs"):
            two_steps(stack(path))
        return
    run = two_steps(stack(path), **changes)
    (trick,) = run.tricks
    assert trick.name == path.stem
    assert trick.acts > 0 or trick.after_training
    assert trick.calibration() is not None or not trick.after_training


@of_kind("spaces", only=lambda path: path.stem in OF_SIZES)
def test_the_sandwich_rule_takes_two_steps_in_every_space_of_sizes(path: Path) -> None:
    sandwich = {"model.init_args.policy": "nastricks.policies.Sandwich", **SMALLER.get(name_of(path), {})}
    two_steps([str(path), BASE[1], SPOS], **sandwich)


@of_kind("spaces", only=lambda path: has_network(path) and path.stem not in OF_SIZES)
def test_darts_takes_two_steps_in_every_other_space(path: Path) -> None:
    run = two_steps([str(path), BASE[1], DARTS], **SMALLER.get(name_of(path), {}))
    assert all(p.grad is not None for p in run.module.policy.parameters())


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Callable[[type[TensorDataModule]], None]:
    """``drawn(module)`` lets a data set be noise of its own shape and classes; nothing is read."""

    def draw(module: type[TensorDataModule]) -> None:
        spec, rng = module.description.spec, generator("noise", module.name)

        def images(n: int) -> torch.Tensor:
            shape = (n, spec.channels, spec.size, spec.size)
            return torch.randint(256, shape, generator=rng, dtype=torch.uint8)

        def labels(n: int) -> torch.Tensor:
            return torch.randint(spec.classes, (n,), generator=rng)

        raw = RawImages(images(64), labels(64), images(16), labels(16))
        monkeypatch.setattr(module, "load", staticmethod(lambda root: raw))

    return draw


@of_kind("data")
def test_data(path: Path, drawn: Callable[[type[TensorDataModule]], None], tmp_path: Path) -> None:
    """Digits as they are; torchvision's sets as noise of their shape, which needs no download."""
    changes: dict[str, Any] = {}
    if path.stem in TORCHVISION:
        drawn(TORCHVISION[path.stem])
        changes = {"data.init_args.root": tmp_path}
    run = two_steps([BASE[0], str(path), SPOS], **changes)
    assert run.data.name == {"digits_1024": "digits"}.get(path.stem, path.stem)
    assert run.module.spec == type(run.data).description.spec
    if run.data.name != path.stem:
        return  # splits of its own
    # The recipe spells out the class's own defaults.
    written = yaml.safe_load(path.read_text())["data"]["init_args"]
    sizes = tuple(written.get(f"{split}_size") for split in ("train", "search", "validation", "test"))
    described = type(run.data).description
    assert (sizes, written["crop_padding"], written["flip"]) == (
        described.sizes,
        described.crop_padding,
        described.flip,
    )


@pytest.mark.skipif(DATA is None, reason="NASTRICKS_DATA is not set: the folder that holds CIFAR-10")
def test_weight_sharing_64_takes_two_steps_on_cifar10() -> None:
    files = ["recipes/spaces/weight_sharing_64.yaml", "recipes/data/cifar10.yaml", SPOS]
    run = two_steps(files, **{"data.init_args.root": DATA})
    assert run.module.spec.channels == 3


@of_kind("loggers")
def test_loggers_run_offline_and_no_key_reaches_the_run_folder(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_API_KEY", FAKE_KEY)
    monkeypatch.chdir(tmp_path)
    try:
        two_steps([*BASE, SPOS, str(path)], tmp_path / "run")
    finally:
        finish()
    written = [p for p in (tmp_path / "run").rglob("*") if p.is_file()]
    assert any(p.suffix == ".wandb" for p in written)
    assert [p for p in written if FAKE_KEY.encode() in p.read_bytes()] == []
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def searched(content: dict[str, Any]) -> dict[str, Any]:
    """An ablation of searches with twelve evaluations each, without the metrics at larger numbers.

    An arm that has a number of its own keeps the proportion.
    """
    metrics = {name: way for name, way in content["metrics"].items() if not name.startswith("best_true_at_")}
    whole, key = content["set"]["search.evaluations"], "search.evaluations"
    arms = {
        name: {**arm, "set": {**arm["set"], key: 12 * arm["set"][key] // whole}} if key in arm.get("set", {}) else arm
        for name, arm in content["arms"].items()
    }
    return {**content, "set": {**content["set"], key: 12}, "arms": arms, "metrics": metrics}


def shrunk(content: dict[str, Any]) -> dict[str, Any]:
    """A recipe's mapping with the small settings on top of its own."""
    return {**content, "set": {**(content.get("set") or {}), **SMALL}}


def small_stage(stage: dict[str, Any]) -> dict[str, Any]:
    """A stage of steps enough for its tricks, one an epoch, on digits."""
    small: dict[str, Any] = {**SMALL, **TWO_EPOCHS}
    given, files = stage.get("set") or {}, [file for file in stage["stack"] if file != "recipes/data/cifar10.yaml"]
    if "recipes/spaces/darts.yaml" in files:
        small |= DARTS_CELLS
    if "recipes/child/darts_cifar10.yaml" in files:
        small["tricks.cutout.length"] = 4
    if "tricks.weight_warmup" in given:
        small["tricks.weight_warmup"] = {"epochs": 1}
    if "recipes/spaces/elastic.yaml" in files:  # 40 networks to rank
        small["space.init_args.stages"] = [{"channels": 16, "stride": 1}]
    if "recipes/tricks/op_projection.yaml" in files:
        small |= {"tricks.op_projection.at_once": 28, "tricks.op_projection.tune_epochs": 1, "trainer.max_epochs": 3}
    return {**stage, "stack": [*files, "recipes/data/digits.yaml"], "set": {**given, **small}}


@of_kind("stages")
def test_stages(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = yaml.safe_load(path.read_text())
    content["stages"] = {name: small_stage(stage) for name, stage in content["stages"].items()}
    if "projection" in content["stages"] and "published" in path.parts:  # an evaluation for each of 28 x 8 options
        for name in ("search", "projection"):
            content["stages"][name]["set"]["space.init_args.operations"] = ["none", "skip_connect", "sep_conv_3x3"]
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    assert main(["run", str(tmp_path / "small.yaml"), "--out", str(tmp_path / "out")]) == 0
    told = capsys.readouterr().out
    for stage in content["stages"]:
        assert f"{stage}: " in told
        assert (tmp_path / "out" / stage / "result.json").is_file()


@pytest.fixture(scope="module")
def supernet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a supernet of two steps."""
    folder = tmp_path_factory.mktemp("supernet") / "run"
    two_steps([*BASE, SPOS], folder)
    return folder


@of_kind("search")
def test_searches(path: Path, supernet: Path, tmp_path: Path) -> None:
    """A search evaluates twelve architectures; a reward is tried by random search."""
    files, overrides = [*BASE, str(path)], ["--search.evaluations=12"]
    if path.parent.name == "rewards":
        files = [*BASE, "recipes/child/tiny64.yaml", "recipes/search/random_search.yaml", str(path)]
        overrides = ["--search.evaluations=3", *(f"--{key}={value}" for key, value in SMALL.items())]
    if path.stem == "shared_weights":
        overrides.append(f"--search.reward.init_args.run={supernet}")
    if path.stem == "greedy_slimming":
        folder = tmp_path / "slimmable"
        files[0] = "recipes/spaces/slimmable.yaml"
        two_steps([*files[:2], SPOS], folder)
        overrides = ["--search.evaluations=20", f"--search.reward.init_args.run={folder}"]
    if path.stem == "objective":
        files = ["recipes/spaces/sequence.yaml", *files[3:]]
        overrides = overrides[:1]
    told = [part for file in files for part in ("-c", file)]
    assert main(["search", *told, *overrides, "--out", str(tmp_path / "out")]) == 0
    result = json.loads((tmp_path / "out/result.json").read_text())
    assert result["evaluations"] >= 3
    assert 0 <= result["metrics"]["best_reward"] <= 1


@of_kind("spaces", only=lambda path: not has_network(path))
def test_spaces_without_a_network_are_searched(path: Path, tmp_path: Path) -> None:
    reward = "objective" if path.stem == "sequence" else "table"
    files = [
        str(path),
        "recipes/search/random_search.yaml",
        *([f"{REWARDS}/objective.yaml"] if reward == "objective" else []),
    ]
    told = [part for file in files for part in ("-c", file)]
    assert main(["search", *told, "--search.evaluations=5", "--out", str(tmp_path / "out")]) == 0


STUDIES = ("weight_sharing", "weight_sharing_cifar10")
# An arm of each kind, and the steps of their own that several paths a step or another batch size give them.
STUDY_ARMS = ("other_paths", "chance_2", "watched", "fixed_order", "sandwich", "four_paths")
STUDY_ARMS += ("largest_too", "no_calibration", "batch_statistics")


def small_study(content: dict[str, Any]) -> dict[str, Any]:
    """Some arms of a study, the questions that these answer, and children few enough to score often."""
    arms = {name: json.loads(json.dumps(content["arms"][name])) for name in STUDY_ARMS}
    for arm in arms.values():
        arm.get("set", {}).pop("trainer.max_epochs", None)
        for callback in arm.get("set", {}).get("trainer.callbacks", []):
            given = callback["init_args"]
            given |= {"children": "4", "calibration_batches": 1}
            given |= {"last_epochs": 1, "last_steps": 2} if "last_steps" in given else {}
            given |= {"batches": [0, 2]} if "FineTuning" in callback["class_path"] else {}
    kept = ("stability", "over_time", "interference", "calibration", "fine_tuning", "favours", "sandwich")
    questions = {name: content["questions"][name] for name in kept}
    questions["stability"]["sources"] = {"all three": "base", "paths": "other_paths"}
    return {**content, "arms": arms, "questions": questions}


@of_kind("ablations", only=lambda path: path.stem in STUDIES)
def test_studies(path: Path, tmp_path: Path, drawn: Callable[[type[TensorDataModule]], None]) -> None:
    """Every arm resolves to its own setting; some of them run, and the questions that they answer are answered."""
    content, given = yaml.safe_load(path.read_text()), {}
    if "table" in content:
        content["arms"]["pruned_by_truth"]["tricks"]["space_pruning"]["table"] = str(tmp_path / "table.csv")
        drawn(CIFAR10)
        codes = ["".join(code) for code in itertools.product("1234", repeat=3)]
        rows = [f"{code},0.{70 + i % 20},0.{71 + i % 19}" for i, code in enumerate(codes)]
        (tmp_path / "table.csv").write_text("\n".join(["architecture,accuracy_0,accuracy_1", *rows]))
        given = {"table": str(tmp_path / "table.csv")}
        content["set"] |= {"space.init_args.channels": 4, "space.init_args.stem_channels": 4}
        content["set"]["data.init_args.resolution"] = 8
        content["set"]["data.init_args.root"] = str(tmp_path)
    content = {**shrunk(content), **given}
    (tmp_path / "whole.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    design = read_design(tmp_path / "whole.yaml")
    assert len({text_of(arm_config(design, arm, ())) for arm in design.arms.values()}) == ARMS[path.stem]
    assert yaml.safe_load(path.read_text())["seeds"] >= 5
    small = {**small_study(content), "seeds": 2, "children": "8", "tricks": {"bn_calibration": {"batches": 1}}}
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(small, sort_keys=False))
    assert main(["ablate", str(tmp_path / "small.yaml"), "--out", str(tmp_path / "out")]) == 0
    results = pd.read_csv(tmp_path / "out/results.csv")
    assert set(results["status"]) == {"done"}
    assert len(results) == 2 * (1 + len(STUDY_ARMS))
    said = json.loads((tmp_path / "out/answer.json").read_text())
    assert len(said) == 1 + len(small["questions"])
    assert not [line for line in said if "No trial" in line]
    assert {p.stem for p in (tmp_path / "out/questions").glob("*.csv")} >= set(small["questions"])


@of_kind("ablations", only=lambda path: path.stem not in STUDIES)
def test_ablations(path: Path, tmp_path: Path) -> None:
    """One seed; the seeds and arms that are shipped are counted first."""
    content = yaml.safe_load(path.read_text())
    assert content["seeds"] >= 5
    if path.stem == "algorithms":  # an arm a recipe, and every recipe is tried by itself
        assert {name for name in ALGORITHMS if name not in content["arms"]} == NOT_OF_THE_FAMILY
        content["arms"] = {name: content["arms"][name] for name in ("gdas", "milenas", "zero_one_loss")}
    small = shrunk(content) if "search.evaluations" not in content.get("set", {}) else searched(content)
    children, seeds = ("2", 2) if "truth_arm" in content else ("20", 1)
    if "truth_arm" in content:
        small["set"]["trainer.max_epochs"] = 3  # one of its arms trains for one
    (tmp_path / "small.yaml").write_text(
        yaml.safe_dump({**small, "seeds": seeds, "children": children}, sort_keys=False)
    )
    assert main(["ablate", str(tmp_path / "small.yaml"), "--out", str(tmp_path / "out")]) == 0
    described = yaml.safe_load((tmp_path / "out/ablation.yaml").read_text())
    rows = (tmp_path / "out/results.csv").read_text().splitlines()[1:]
    assert [row.split(",")[:3] for row in rows] == [
        [arm, str(s), "done"] for arm in described["arms"] for s in range(seeds)
    ]
    assert len(rows) == seeds * (len(described["arms"]) if path.stem == "algorithms" else ARMS[path.stem])


@pytest.mark.skipif(DATA is None, reason="NASTRICKS_DATA is not set: the folder that holds CIFAR-10")
def test_child_reward_on_cifar10(tmp_path: Path) -> None:
    """One more file puts CIFAR-10, with its own splits and augmentation, in the place of digits."""
    content = yaml.safe_load((RECIPES / "ablations/child_reward.yaml").read_text())
    arms = {name: content["arms"][name] for name in ("full", "half_the_resolution")}
    small = {**content, "arms": arms, "children": "2", "seeds": 2}
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(small, sort_keys=False))
    few = {"data.init_args.train_size": 16, "data.init_args.validation_size": 16, "data.init_args.root": DATA}
    few |= {"trainer.max_epochs": 1, "trainer.accelerator": "cpu"}
    told = ["-c", "recipes/data/cifar10.yaml", *(f"--{key}={value}" for key, value in few.items())]
    assert main(["ablate", str(tmp_path / "small.yaml"), *told, "--out", str(tmp_path / "out")]) == 0
    data = {arm: resolve([tmp_path / f"out/trials/{arm}/seed=1/config.yaml"]).data for arm in ("base", *arms)}
    assert {d.class_path for d in data.values()} == {"nastricks.data.CIFAR10"}
    alone = resolve([BASE[0], "recipes/data/cifar10.yaml", SPOS]).data.init_args
    changed = {key: value for key, value in vars(data["base"].init_args).items() if alone[key] != value}
    assert changed == {"train_size": 16, "validation_size": 16, "root": DATA, "batch_size": 128, "seed": 1}
    assert data["half_the_resolution"].init_args.resolution == 0.5
    rows = (tmp_path / "out/results.csv").read_text().splitlines()[1:]
    assert [row.split(",")[2] for row in rows] == ["done"] * 6


@pytest.mark.skipif(DATA is None, reason="NASTRICKS_DATA is not set: the folder that holds the published tables")
def test_controllers_on_another_table(tmp_path: Path) -> None:
    """NAS-Bench-Macro through `tabular`, as docs/search.md says; Hyperband has no shorter trainings there."""
    small = searched(yaml.safe_load((RECIPES / "ablations/controllers.yaml").read_text()))
    (tmp_path / "small.yaml").write_text(yaml.safe_dump({**small, "seeds": 1}, sort_keys=False))
    told = ["-c", "recipes/spaces/tabular.yaml", f"--space.init_args.table={DATA}/tables/nas_bench_macro.csv"]
    told += ["--search.goal=0.93", "--without", "hyperband"]
    assert main(["ablate", str(tmp_path / "small.yaml"), *told, "--out", str(tmp_path / "out")]) == 0
    described = yaml.safe_load((tmp_path / "out/ablation.yaml").read_text())
    assert described["space"] == "Tabular"
    rows = (tmp_path / "out/results.csv").read_text().splitlines()[1:]
    assert [row.split(",")[2] for row in rows] == ["done"] * (ARMS["controllers"] - 1)
    found = (tmp_path / "out/trials/reinforce/seed=0/evaluations.csv").read_text().splitlines()[1:]
    assert all(len(row.split(",")[2]) == 8 for row in found)


@pytest.mark.parametrize("files", [[*BASE, SPOS], [*BASE, DARTS], [*BASE, "recipes/child/tiny64.yaml"]])
def test_a_resolved_configuration_round_trips(files: list[str], tmp_path: Path) -> None:
    every = [f"recipes/tricks/{name}.yaml" for name in tricks() if name != "weight_warmup"]
    text = dump(resolve([*files, *every]))
    (tmp_path / "config.yaml").write_text(text)
    assert dump(resolve([tmp_path / "config.yaml"])) == text
