"""Stages that start from earlier ones: from their options, their policy, their weights, their architecture."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import yaml

from nastricks import spaces
from nastricks.errors import InputError
from nastricks.modules.run_folder import load_checkpoint
from nastricks.policies import EdgeNormalised, Softmax
from nastricks.run import build, load_run
from nastricks.spaces import Choice, Option, Tiny64
from nastricks.stages import Stages, read_stages, run_stages
from nastricks.stages.check import check_stages
from nastricks.stages.options import kept_of, strongest_options
from nastricks.stages.run import StageResult

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
]

BASE = ["recipes/spaces/tiny64.yaml", "recipes/data/digits.yaml"]
DARTS = [*BASE, "recipes/algorithms/darts.yaml"]
SPOS = [*BASE, "recipes/algorithms/spos.yaml"]
CHILD = [*BASE, "recipes/child/tiny64.yaml"]
SMALL = {
    "data.init_args.train_size": 64,
    "data.init_args.search_size": 32,
    "data.init_args.validation_size": 32,
    "data.init_args.batch_size": 32,
    "trainer.accelerator": "cpu",
    "trainer.max_epochs": 2,
}


def written(folder: Path, stages: Mapping[str, Any]) -> Stages:
    """Stages through their file, each with the small settings under its own."""
    small = {name: {**stage, "set": {**SMALL, **(stage.get("set") or {})}} for name, stage in stages.items()}
    path = folder / "stages.yaml"
    path.write_text(yaml.safe_dump({"name": "search", "stages": small}, sort_keys=False))
    return read_stages(path)


# Options.


class Edges(Tiny64):
    """Two edges into a node; each may be absent, but not both."""

    def __init__(self) -> None:
        options = (Option("none", learns=False, absent=True), Option("conv"), Option("pool"), Option("skip", skip=True))
        self.choices = tuple(Choice(f"edge{i}", options, node="node") for i in (1, 2))

    def legal(self, prefix: Sequence[int]) -> tuple[int, ...]:
        return (1, 2, 3) if tuple(prefix) == (0,) else (0, 1, 2, 3)


def scores(*rows: Sequence[float]) -> dict[str, torch.Tensor]:
    return {f"edge{i}": torch.tensor(row) for i, row in enumerate(rows, start=1)}


def test_the_strongest_options_stay_and_ties_go_to_the_first() -> None:
    space = Tiny64()
    by = {f"layer{i}": torch.tensor(row) for i, row in enumerate([[1, 4, 3, 2], [5, 5, 5, 5], [0.1, 0.2, 0.3, 0.4]], 1)}
    kept = strongest_options(space, space.all_options(), by, 2)
    assert kept == {"layer1": (1, 2), "layer2": (0, 1), "layer3": (2, 3)}
    pruned = {"layer1": (0, 3), "layer2": (2,), "layer3": (0, 1, 2)}
    assert strongest_options(space, pruned, by, 2) == {"layer1": (0, 3), "layer2": (2,), "layer3": (1, 2)}


def test_the_option_that_is_no_connection_counts_and_always_stays() -> None:
    space = Edges()
    by = scores([0.0, 0.2, 0.3, 0.1], [0.9, 0.2, 0.1, 0.3])
    assert strongest_options(space, space.all_options(), by, 2) == {"edge1": (0, 2), "edge2": (0, 3)}


def test_options_that_leave_nothing_legal_are_refused() -> None:
    space = Edges()
    with pytest.raises(InputError, match=r"the 1 strongest options .* leave no architecture of tiny64: keep more"):
        kept_of(space, Softmax(space), 1)


def test_an_option_that_only_an_architecture_can_take_need_not_be_kept() -> None:
    space = spaces.DARTS(channels=4, cells=3, operations="s2")
    for policy in (Softmax(space), EdgeNormalised(space)):
        kept = kept_of(space, policy, 1)
        assert all(len(options) == 1 and options[0] > 0 for options in kept.values())


# Runs.


@pytest.fixture(scope="module")
def shrinking(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, StageResult]]:
    """Three searches whose options go from 4 to 3 to 2, and a narrower child."""
    folder = tmp_path_factory.mktemp("shrinking")
    stages = written(
        folder,
        {
            "four": {"stack": DARTS},
            "three": {"stack": DARTS, "options_of": "four", "keep": 3},
            "two": {"stack": DARTS, "options_of": "three", "keep": 2, "set": {"space.init_args.channels": 8}},
            "child": {"stack": CHILD, "architecture_of": "two", "set": {"space.init_args.channels": 24}},
        },
    )
    check_stages(stages)
    return folder, run_stages(stages, folder / "out", quiet=True)


def test_each_stage_keeps_the_strongest_options_of_the_one_before(
    shrinking: tuple[Path, dict[str, StageResult]],
) -> None:
    folder, results = shrinking
    runs = {name: load_run(folder / "out" / name).module for name in ("four", "three", "two")}
    for before, after, keep in (("four", "three", 3), ("three", "two", 2)):
        for choice in runs[before].space.choices:
            alpha = runs[before].policy.preferences()[choice.name]
            kept = runs[after].policy.allowed[choice.name]
            assert len(kept) == keep
            assert set(kept) <= set(runs[before].policy.allowed[choice.name])
            dropped = set(runs[before].policy.allowed[choice.name]) - set(kept)
            assert min(float(alpha[i]) for i in kept) >= max(float(alpha[i]) for i in dropped)
            held: Any = runs[after].networks[0].get_submodule(f"segments.{choice.name}.choice")
            assert held.options == kept, "the network holds what is allowed, and no more"
    derived = results["two"].derived
    assert derived is not None
    picked = runs["two"].space.parse(derived)
    allowed = [runs["two"].policy.allowed[choice.name] for choice in runs["two"].space.choices]
    assert all(index in options for index, options in zip(picked, allowed, strict=True))


def test_the_child_has_its_own_width_and_the_last_search_its_architecture(
    shrinking: tuple[Path, dict[str, StageResult]],
) -> None:
    folder, results = shrinking
    config = yaml.safe_load((folder / "out/child/config.yaml").read_text())
    assert config["model"]["init_args"]["architecture"] == results["two"].derived
    assert config["space"]["init_args"]["channels"] == 24
    assert 0 <= results["child"].metrics["accuracy"] <= 1
    assert results["child"].derived is None


def test_stages_that_are_done_are_read_and_their_time_is_kept(
    shrinking: tuple[Path, dict[str, StageResult]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, results = shrinking

    def no_fit(*args: object, **kwargs: object) -> None:
        raise AssertionError("nothing is left to train")

    monkeypatch.setattr(pl.Trainer, "fit", no_fit)
    assert run_stages(read_stages(folder / "stages.yaml"), folder / "out", quiet=True) == results
    assert all(result.seconds > 0 for result in results.values())


def test_a_search_on_darts_is_followed_by_a_child_of_another_width_depth_and_operations(tmp_path: Path) -> None:
    search = ["recipes/spaces/darts.yaml", BASE[1], "recipes/algorithms/published/darts.yaml"]
    size = {"space.init_args.channels": 4, "space.init_args.cells": 3, "trainer.max_epochs": 1}
    few = {"space.init_args.operations": ["none", "skip_connect", "sep_conv_3x3"]}
    child = ["recipes/spaces/darts.yaml", BASE[1], "recipes/child/darts.yaml"]
    stages = written(
        tmp_path,
        {
            "search": {"stack": search, "set": {**size, **few}},
            "child": {"stack": child, "architecture_of": "search", "set": {**size, "space.init_args.cells": 4}},
        },
    )
    check_stages(stages)
    results = run_stages(stages, tmp_path / "out", quiet=True)
    module = load_run(tmp_path / "out/child").module
    assert results["search"].derived == module.space.format(tuple(o[0] for o in module.policy.allowed.values()))
    assert "cell4" in dict(module.networks[0].segments)  # type: ignore[union-attr]


def test_a_later_stage_starts_from_weights_and_policy(tmp_path: Path) -> None:
    links = {"weights_of": "search", "policy_of": "search"}
    stages = written(tmp_path, {"search": {"stack": DARTS}, "tuned": {"stack": DARTS, **links}})
    check_stages(stages)
    run_stages(stages, tmp_path / "out", quiet=True)
    end = load_checkpoint(tmp_path / "out/search")["state_dict"]
    taken = [f"--model.init_args.{key}={tmp_path / 'out/search'}" for key in ("weights", "policy_weights")]
    start = build(stages.stages[1].config(taken), None, quiet=True).module.state_dict()
    assert start.keys() == end.keys()
    for name, value in start.items():
        assert value == end[name] if name.endswith("_extra_state") else torch.equal(value, end[name]), name
    tuned = load_checkpoint(tmp_path / "out/tuned")["state_dict"]
    assert not torch.equal(tuned["policy.alpha.layer1"], end["policy.alpha.layer1"])


def test_a_policy_brings_its_mask(tmp_path: Path) -> None:
    stages = written(
        tmp_path,
        {
            "all": {"stack": DARTS},
            "few": {"stack": DARTS, "options_of": "all", "keep": 2},
            "again": {"stack": DARTS, "policy_of": "few", "weights_of": "few"},
        },
    )
    check_stages(stages)
    run_stages(stages, tmp_path / "out", quiet=True)
    few, again = (load_run(tmp_path / "out" / name).module for name in ("few", "again"))
    assert few.policy.allowed == again.policy.allowed
    assert all(len(options) == 2 for options in again.policy.allowed.values())


def test_every_stage_runs_under_the_seed_that_is_asked_for(tmp_path: Path) -> None:
    stages = written(tmp_path, {"search": {"stack": DARTS}, "child": {"stack": CHILD, "architecture_of": "search"}})
    run_stages(stages, tmp_path / "one", seed=1, quiet=True)
    for name in ("search", "child"):
        config = yaml.safe_load((tmp_path / "one" / name / "config.yaml").read_text())
        assert config["seed_everything"] == 1


def test_tricks_with_nothing_left_to_act_on_are_left_out_and_told(tmp_path: Path) -> None:
    """Options are taken away by alpha, so that nobody can know before whether a skip remains."""
    stages = written(
        tmp_path,
        {
            "four": {"stack": DARTS, "set": {"model.init_args.policy.init_args.init_std": 0.0}},
            "two": {"stack": [*DARTS, "recipes/tricks/weight_warmup.yaml"], "options_of": "four", "keep": 2},
        },
    )
    from nastricks.callbacks.weight_warmup import WeightWarmup

    def refusal(self: WeightWarmup, module: Any) -> str | None:
        few = all(len(options) == 2 for options in module.policy.allowed.values())
        return "trick weight_warmup needs three options" if few else None

    before = WeightWarmup.refusal
    WeightWarmup.refusal = refusal  # type: ignore[method-assign]
    try:
        check_stages(stages)
        results = run_stages(stages, tmp_path / "out", quiet=True)
    finally:
        WeightWarmup.refusal = before  # type: ignore[method-assign]
    assert results["two"].left_out == {"weight_warmup": "trick weight_warmup needs three options"}
    assert yaml.safe_load((tmp_path / "out/two/config.yaml").read_text())["tricks"]["weight_warmup"] is None
    assert json.loads((tmp_path / "out/two/stage.json").read_text())["left_out"] == results["two"].left_out


# What cannot be.


@pytest.mark.parametrize(
    ("stages", "sentence"),
    [
        ({"a": {"stack": DARTS}, "b": {"stack": DARTS, "options_of": "a"}}, "they go together, give both"),
        ({"a": {"stack": DARTS}, "b": {"stack": DARTS, "keep": 2}}, "they go together, give both"),
        ({"a": {"stack": DARTS, "options_of": "a", "keep": 2}}, "takes options_of 'a', which is no earlier stage"),
        ({"a": {"stack": DARTS}, "b": {"stack": DARTS, "options_of": "a", "keep": 0}}, "keep of stage b .* is 0"),
        (
            {"a": {"stack": DARTS}, "b": {"stack": DARTS, "options_of": "a", "keep": 4}},
            "keep is 4, and no choice of stage a has more than 4 options: keep fewer",
        ),
        (
            {
                "a": {"stack": DARTS},
                "b": {"stack": DARTS, "options_of": "a", "keep": 3},
                "c": {"stack": DARTS, "options_of": "b", "keep": 3},
            },
            "stage c of search: keep is 3, and no choice of stage b has more than 3 options",
        ),
        (
            {"a": {"stack": SPOS}, "b": {"stack": DARTS, "options_of": "a", "keep": 2}},
            "UniformPath, which prefers no option to another",
        ),
        ({"a": {"stack": SPOS}, "b": {"stack": DARTS, "policy_of": "a"}}, "the policy UniformPath, and this one's is"),
        ({"a": {"stack": CHILD}, "b": {"stack": CHILD, "architecture_of": "a"}}, "a, which trains a child and derives"),
        ({"a": {"stack": DARTS}, "b": {"stack": DARTS, "architecture_of": "a"}}, "for a stage that trains a child"),
        (
            {
                "a": {"stack": DARTS, "set": {"space.init_args.channels": 8}},
                "b": {"stack": DARTS, "weights_of": "a"},
            },
            "the earlier weights do not fit at",
        ),
        (
            {
                "a": {"stack": ["recipes/spaces/weight_sharing_64.yaml", *DARTS[1:]]},
                "b": {"stack": DARTS, "options_of": "a", "keep": 2},
            },
            "a stage on weight_sharing_64, whose choices are not those of tiny64",
        ),
        (
            {
                "a": {"stack": ["recipes/spaces/nasbench201.yaml", *DARTS[1:]]},
                "b": {"stack": CHILD, "architecture_of": "a"},
            },
            "is no architecture of tiny64",
        ),
        (
            {
                "a": {"stack": DARTS},
                "b": {
                    "stack": DARTS,
                    "options_of": "a",
                    "keep": 2,
                    "set": {"model.init_args.allowed": {"layer1": [0, 1]}},
                },
            },
            "model.allowed does so too",
        ),
        ({"a": {"stack": DARTS, "set": {"tricks.weight_warmup": {"epochs": 9}}}}, "stage a of search: .* never learn"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_trains(
    stages: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=sentence):
        check_stages(written(tmp_path, stages))


def test_changes_reach_every_stage_tricks_only_supernets_and_named_keys_one(tmp_path: Path) -> None:
    stages = written(tmp_path, {"search": {"stack": DARTS}, "child": {"stack": CHILD, "architecture_of": "search"}})
    keys = ["--trainer.max_epochs=7", "--child.trainer.max_epochs=5"]
    search, child = (s.config() for s in stages.changed([], keys, ["--tricks.weight_warmup.epochs=1"]).stages)
    assert (search.trainer.max_epochs, child.trainer.max_epochs) == (7, 5)
    assert search.tricks.weight_warmup is not None
    assert child.tricks.weight_warmup is None


def test_stages_named_like_keys_are_refused(tmp_path: Path) -> None:
    for name in ("trainer", "a.b"):
        with pytest.raises(InputError, match="expected a name that is no key of a recipe, without dots"):
            written(tmp_path, {name: {"stack": DARTS}})
