"""Every bad input ends with exit code 2 and one sentence on stderr that names what is wrong."""

import errno
import json
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
import yaml

from nastricks.cli import main

pytestmark = [
    pytest.mark.xdist_group("cli_bad_input"),
    # Lightning 2.6 calls the parser by its old name.
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
]

SPACE, DATA = ["-c", "recipes/spaces/tiny64.yaml"], ["-c", "recipes/data/digits.yaml"]
SMALL = {
    "data.init_args.train_size": 64,
    "data.init_args.search_size": 32,
    "data.init_args.validation_size": 32,
    "data.init_args.batch_size": 32,
    "trainer.accelerator": "cpu",
    "trainer.max_epochs": 1,
}
SET = [f"--{key}={value}" for key, value in SMALL.items()]
SPOS = [*SPACE, *DATA, "-c", "recipes/algorithms/spos.yaml", *SET]
DARTS = [*SPACE, *DATA, "-c", "recipes/algorithms/darts.yaml", *SET]
SIZES = ["-c", "recipes/spaces/elastic.yaml", *DATA, "-c", "recipes/algorithms/spos.yaml", *SET]
CHILD = [*SPACE, *DATA, "-c", "recipes/child/tiny64.yaml", *SET]
ONE_LEVEL, GDAS, SNAS, FAIR, SECOND = (
    [*SPACE, *DATA, "-c", f"recipes/algorithms/{name}.yaml", *SET]
    for name in ("single_level", "gdas", "snas", "fairdarts", "darts_second_order")
)
CELLS = ["-c", "recipes/spaces/darts.yaml", *DATA, "-c", "recipes/algorithms/published/darts.yaml", *SET]
CELLS += ["--space.init_args.channels=4", "--space.init_args.cells=3"]
POLICY, ESTIMATOR = "--model.init_args.policy=nastricks.policies", "--model.init_args.estimator=nastricks.estimators"
LEARNS = [f"{ESTIMATOR}.FirstOrder", "--model.init_args.policy_optimizer={class_path: torch.optim.Adam}"]
TEMPERATURE = "--model.init_args.policy.init_args.temperature.init_args"
S4 = ["-c", "recipes/spaces/darts_s4.yaml"]

CALLBACK = "[{class_path: nastricks.ranking.interference.Interference, init_args: {batches: x}}]"

Refused = Callable[..., str]


def shared(name: str, arguments: str) -> list[str]:
    """The override that names a sharing."""
    return ["--model.init_args.sharing", f"{{class_path: nastricks.sharing.{name}, init_args: {arguments}}}"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands run in an empty folder, so that what they write by default is seen."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    """``refused(*arguments)`` runs a command that must end with `code`, and gives its one sentence."""

    def run(*arguments: str, code: int = 2) -> str:
        capsys.readouterr()
        assert main(list(arguments)) == code
        lines = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
        assert len(lines) == 1, lines
        assert lines[0].startswith("nastricks: ")
        return lines[0]

    return run


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([*SPOS, "--tricks.samm.rho", "0.1"], ["trick 'samm'", "did you mean 'sam'"]),
        ([*SPOS, "--tricks.sam.roh", "0.1"], ["roh"]),
        ([*SPOS, "--trainer.max_epoch", "3"], ["max_epoch", "trainer.max_epochs"]),
        ([*SPOS, "--model.init_args.optimiser", "3"], ["optimiser"]),
        ([*SPOS, "--tricks.sam.rho", "-0.1"], ["sam.rho is -0.1", "at least 0"]),
        ([*SPOS, "--tricks.sam.rho", "big"], ["big"]),
        ([*SPOS, "--tricks.drop_path.probability", "1"], ["drop_path.probability is 1"]),
        ([*SPOS, "--tricks.drop_path.probability", "1.5"], ["drop_path.probability is 1.5"]),
        ([*SPOS, "--tricks.drop_path.probability", "-0.1"], ["drop_path.probability is -0.1"]),
        ([*SPOS, "--tricks.ghost_batch_norm.size", "0"], ["ghost_batch_norm.size is 0"]),
        ([*SPOS, "--tricks.ghost_batch_norm.size", "33"], ["ghost_batch_norm.size is 33", "32"]),
        ([*SPOS, "--tricks.sgdr.t_0", "0"], ["sgdr.t_0 is 0"]),
        ([*SPOS, "--tricks.mixup.alpha", "0"], ["mixup.alpha is 0"]),
        ([*SPOS, "--tricks.mixup.alpha", "-1"], ["mixup.alpha is -1"]),
        ([*SPOS, "--tricks.cutout.length", "9"], ["cutout.length is 9", "8 pixels"]),
        ([*SPOS, "--tricks.cutout.length", "0"], ["cutout.length is 0"]),
        ([*SPOS, "--tricks.bn_calibration.batches", "0"], ["bn_calibration.batches is 0"]),
        ([*SPOS, "--tricks.weight_warmup.epochs", "1"], ["weight_warmup"]),
        ([*SPOS, "--tricks.weight_warmup.fraction", "0.5"], ["weight_warmup", "UniformPath has no parameters"]),
        ([*DARTS, "--tricks.weight_warmup.epochs", "1"], ["weight_warmup.epochs is 1", "never learn"]),
        ([*SPOS, "--tricks.resource_penalty.weight", "1"], ["resource_penalty", "UniformPath has no parameters"]),
        ([*DARTS, "--tricks.resource_penalty.weight", "-1"], ["resource_penalty.weight is -1"]),
        ([*DARTS, "--tricks.resource_penalty.kind", "target"], ["kind target needs one"]),
        (
            [*DARTS, "--tricks.resource_penalty.cost=latency", "--tricks.resource_penalty.latency", "none.csv"],
            ["none.csv", "does not exist"],
        ),
        ([*DARTS, "--model.init_args.policy_optimizer", "null"], ["policy_optimizer"]),
        ([*ONE_LEVEL, "--model.init_args.estimator.init_args.order=before"], ["SingleLevel", "'order'"]),
        ([*GDAS, f"{TEMPERATURE}.end=0"], ["temperature.end is 0.0", "above 0"]),
        ([*DARTS, "--model.init_args.policy=nastricks.policies.EdgeNormalised"], ["no node of tiny64 has several"]),
        ([*S4, *DARTS[2:], "--model.init_args.policy=nastricks.policies.GroupedSoftmax"], ["has one of each"]),
        # A policy, an estimator and a derivation that do not go together.
        ([*SIZES, f"{POLICY}.Softmax", *LEARNS], ["policy Softmax weighs options", "is a size"]),
        ([*ONE_LEVEL, f"{POLICY}.BinaryGates"], ["BinaryGates runs one path without weights", "use FirstOrder"]),
        ([*DARTS, f"{ESTIMATOR}.Reinforce"], ["Reinforce learns from drawn architectures", "Softmax draws none"]),
        ([*DARTS, f"{POLICY}.Sigmoid", f"{ESTIMATOR}.GumbelRelax"], ["those of Sigmoid are no probabilities"]),
        ([*SPOS, f"{ESTIMATOR}.FirstOrder"], ["FirstOrder has nothing to update", "UniformPath"]),
        ([*SECOND, "--model.init_args.optimizer=torch.optim.Adam"], ["model.optimizer is Adam", "use torch.optim.SGD"]),
        ([*DARTS, "--model.init_args.derivation=nastricks.derivations.BestEdges"], ["tiny64 has none", "use Argmax"]),
        ([*CELLS, "--model.init_args.derivation.init_args.none=kept"], ["fewer than the 2 inputs", "'left out'"]),
        ([*CELLS, "--model.init_args.derivation.init_args.edges=1"], ["derivation.edges is 1", "at least 2 inputs"]),
        ([*CELLS, "--model.init_args.derivation.init_args.edges=3"], ["derivation.edges is 3", "at most 2 inputs"]),
        # Thresholds and temperatures.
        ([*FAIR, "--model.init_args.derivation.init_args.threshold=1"], ["derivation.threshold is 1.0", "(0, 1)"]),
        ([*FAIR, "--model.init_args.derivation.init_args.threshold=0"], ["derivation.threshold is 0.0", "(0, 1)"]),
        ([*FAIR, "--model.init_args.derivation.init_args.threshold=.nan"], ["derivation.threshold is nan"]),
        ([*DARTS, "--tricks.op_pruning={rule: threshold, threshold: 1.5}"], ["op_pruning.threshold is 1.5", "(0, 1)"]),
        ([*GDAS, f"{TEMPERATURE}.start=-1"], ["temperature.start is -1.0", "above 0"]),
        ([*SNAS, f"{TEMPERATURE}.floor=0"], ["temperature.floor is 0.0", "above 0"]),
        ([*DARTS, "--model.init_args.gradient_clip_val=.nan"], ["gradient_clip_val is nan", "above 0"]),
        ([*DARTS, "--model.init_args.schedule.init_args.eta_min=.nan"], ["eta_min is nan", "at least 0"]),
        ([*DARTS, "--tricks.weight_warmup.epochs=.nan"], ["weight_warmup.epochs is nan", "at least 0"]),
        # What the tricks of the family cannot do.
        ([*DARTS, "--tricks.op_dropout.restart=1"], ["op_dropout.restart is 1.0", "[0, 1)"]),
        ([*DARTS, "--tricks.partial_channels.parts=3"], ["16 channels", "choose a divisor"]),
        ([*DARTS, "--tricks.early_stop_hessian.factor=1"], ["early_stop_hessian.factor is 1.0", "above 1"]),
        ([*DARTS, "--tricks.early_stop_hessian", "{}"], ["may stop after epoch 16", "the run has 1"]),
        ([*DARTS, "--tricks.arch_perturbation.kind=worst"], ["worst"]),
        ([*DARTS, "--tricks.op_projection", "{}"], ["the run has 1", "set trainer.max_epochs to 12"]),
        ([*SPOS, "--space.init_args.channels", "0"], ["space.channels is 0"]),
        ([*SPOS, "--data.init_args.fraction", "2"], ["fraction 2"]),
        ([*SPOS, "--data.init_args.train_size", "5000"], ["5000"]),
        ([*CHILD, "--model.init_args.architecture", "215"], ["'215'", "tiny64"]),
        ([*CHILD, "--model.init_args.weights", "nowhere"], ["nowhere"]),
        ([*SPOS, "-c", "recipes/tricks/samm.yaml"], ["samm.yaml", "tricks/sam.yaml"]),
        ([*SPOS, "--ckpt_path", "nowhere.ckpt"], ["nowhere.ckpt"]),
        ([*SPOS, "--tricks.sync_batch_norm", "{}"], ["sync_batch_norm needs GPUs"]),
        ([*SPOS, "--tricks.norm_swap.kind", "batch"], ["batch"]),
        ([*SPOS, "--tricks.inplace_distillation.temperature", "1"], ["UniformPath runs no such paths"]),
        ([*SPOS, "--tricks.distillation.teacher", "nowhere"], ["nowhere holds no run"]),
        ([*SIZES, "--tricks.progressive_shrinking.phases", "[kernle]"], ["'kernle'", "did you mean 'kernel'"]),
        ([*SPOS, "--tricks.progressive_shrinking.phases", "[kernel]"], ["tiny64 has none"]),
        ([*SPOS, *shared("GroupSharing", "{groups: [['111'], ['112']]}")], ["leaves out 62 children of tiny64"]),
        ([*SPOS, *shared("PrefixSharing", "{blocks: 4}")], ["sharing.blocks is 4 and tiny64 has 3 blocks"]),
        ([*DARTS, *shared("GroupSharing", "{groups: 2}")], ["GroupSharing gives", "Softmax runs several options"]),
        ([*SPOS, "--model.init_args.policy=nastricks.policies.Sandwich"], ["layer1 of tiny64 has no order of sizes"]),
        ([*SPOS, "--tricks.sam.rho", "1e999"], ["sam.rho is inf", "at least 0"]),
        ([*SPOS, "--tricks.op_warmup.fraction", "half"], ["tricks.op_warmup.fraction is half: expected a number"]),
        ([*SPOS, "--tricks.op_warmup.fraction", "null"], ["fraction is null: expected a number", "its default 0.25"]),
        ([*SPOS, "--tricks.space_pruning.by", "luck"], ["tricks.space_pruning.by is luck: expected one of 'accuracy'"]),
        ([*SPOS, "--model.init_args.policy.init_args.paths", "two"], ["model.policy.paths is two: expected a whole"]),
        ([*SPOS, "--model.init_args.policy.init_args.paths=null"], ["model.policy.paths is null", "default 1"]),
        ([*SPOS, "--model.init_args.policy.class_path=nastricks.policies.Unifrom"], ["did you mean 'UniformPath'?"]),
        ([*SPOS, "--model.init_args.policy.init_args.path=2"], ["argument of UniformPath: 'path'", "'paths'"]),
        ([*SPOS, *shared("PrefixSharing", "{}")], ["model.sharing lacks blocks: give it a value"]),
        ([*SPOS, *shared("GroupSharing", "{groups: [[111]]}")], ["model.sharing.groups is 111", "stand in quotes"]),
        ([*SPOS, "--trainer.callbacks", CALLBACK], ["trainer.callbacks.batches is x: expected a whole number"]),
    ],
    ids=lambda value: " ".join(a for a in value[-2:] if isinstance(a, str)) if isinstance(value, list) else "",
)
def test_fit_refuses(refused: Refused, arguments: list[str], words: list[str], tmp_path: Path) -> None:
    sentence = refused("fit", *arguments, "--out", "run")
    for word in words:
        assert word in sentence
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"tricks": {"mixupp": {"alpha": 1.0}}}, ["trick 'mixupp'", "did you mean 'mixup'"]),
        ({"tricks": {"mixup": {"alfa": 1.0}}}, ["alfa"]),
        ({"trick": {"mixup": None}}, ["'trick'", "did you mean 'tricks'"]),
        ({"trainer": {"max_epoch": 3}}, ["max_epoch"]),
        ([1, 2], ["expected keys and values"]),
        ("a: [", ["is no YAML"]),
    ],
    ids=str,
)
def test_files_of_recipes_are_checked(refused: Refused, content: Any, words: list[str]) -> None:
    Path("mine.yaml").write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    sentence = refused("fit", *SPOS, "-c", "mine.yaml", "--out", "run")
    for word in words:
        assert word in sentence


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["fitt"], ["fitt"]),
        (["ls", "trick"], ["'trick'", "did you mean 'tricks'"]),
        (["cp", "tricks/samm", "x.yaml"], ["tricks/samm", "did you mean 'tricks/sam'"]),
        (["show", *SPACE, *DATA, "21"], ["'21' is no architecture of tiny64"]),
        (["show", *SPACE, "213"], ["add a data recipe"]),
        (["show", *SPACE, "--costs"], ["add a data recipe"]),
        (["show", *SPACE, "--space.init_args.cells", "5"], ["Tiny64 takes no cells: it has no depth"]),
        (["show", *SPACE, "--space.init_args.chanels", "5"], ["argument of Tiny64", "did you mean 'channels'"]),
        (["show", *SPACE, *DATA, "213", "--costs"], ["leave the architectures out"]),
        (["show", *DATA], ["space"]),
        (["show", *SPACE, *DATA, "--file", "none.txt"], ["no file none.txt"]),
        (["show", *SPACE, *DATA, "--draw", "x.svg"], ["--draw takes one architecture"]),
        (["show", *SPACE, *DATA, "213", "--latency", "none.csv"], ["none.csv", "does not exist"]),
        (["show", *SPACE, *DATA, "--latency", "none.csv"], ["--latency needs architectures"]),
        (["latency", *SPACE, *DATA], ["--out"]),
        (["latency", *SPACE, "--out", "x.csv"], ["add a data recipe"]),
        (["latency", *SPACE, *DATA, "--out", "x.csv", "--batch", "0"], ["--batch is 0"]),
        (["latency", *SPACE, *DATA, "--out", "x.csv", "--threads", "0"], ["threads is 0"]),
        (["latency", "-c", "recipes/spaces/nasnet.yaml", *DATA, "--out", "x.csv"], ["nasnet", "do not add up"]),
        (["rank"], ["needs a run folder"]),
        (["rank", "nowhere"], ["nowhere holds no run"]),
        (["rank", "nowhere", "--tricks.sam.rho", "1"], ["--tricks.sam.rho"]),
        (["rank", "--scores", "none.csv"], ["--table"]),
        (["rank", "--scores", "none.csv", "--table", "none.csv"], ["none.csv"]),
        (["derive", "nowhere"], ["nowhere holds no run"]),
        (["report", "nowhere"], ["nowhere holds no ablation"]),
        (["run", "nowhere.yaml"], ["nowhere.yaml"]),
        (["ablate", "nowhere.yaml"], ["nowhere.yaml"]),
        (["bench", *SPOS], ["add a child recipe"]),
        (["bench", *CHILD, "--replicas", "0"], ["--replicas is 0"]),
        (["bench", *CHILD, "--workers", "-1"], ["--workers is -1"]),
        (["check", *SPOS], ["no trick to check"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_commands_refuse(refused: Refused, arguments: list[str], words: list[str]) -> None:
    sentence = refused(*arguments)
    for word in words:
        assert word in sentence


# A run, its checkpoint, and tables.


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A supernet of tiny64, one epoch."""
    out = tmp_path_factory.mktemp("trained") / "run"
    assert main(["fit", *SPOS, "--out", str(out)]) == 0
    return out


def table(rows: Sequence[str]) -> str:
    Path("table.csv").write_text("\n".join(["architecture,accuracy", *rows]) + "\n")
    return "table.csv"


ROWS = [f"{a}{b}{c},0.{a}{b}{c}" for a in range(1, 5) for b in range(1, 5) for c in range(1, 5)]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (ROWS[:-2], ["lacks 2 architectures"]),
        ([*ROWS[:-1], "444,nan"], ["'444'", "nan", "not a number"]),
        ([*ROWS[:-1], "444,"], ["'444'", "not a number"]),
        ([*ROWS, ROWS[0]], ["two rows for '111'"]),
        ([*ROWS, "555,0.5"], ["'555' is no architecture of tiny64"]),
    ],
    ids=["lacking", "nan", "empty", "duplicate", "of another space"],
)
def test_tables_that_cannot_be_used(refused: Refused, trained: Path, rows: list[str], words: list[str]) -> None:
    sentence = refused("rank", str(trained), "--table", table(rows), "--out", "out")
    for word in [*words, "table.csv"]:
        assert word in sentence
    assert not Path("out").exists()


@pytest.mark.parametrize("children", ["0", "1", "65", "some", "-3", "2.5"])
def test_numbers_of_children_that_cannot_be(refused: Refused, trained: Path, children: str) -> None:
    assert f"--children is '{children}'" in refused("rank", str(trained), f"--children={children}")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("architecture,score\n111,0.5\n111,0.6\n", ["'111' twice"]),
        ("architecture,name\n111,a\n112,b\n", ["expected architecture and score"]),
        ("architecture,score\n111,0.5\n999,0.6\n", ["999"]),
        ("architecture,score\n111,0.5\n112,\n", ["scores.csv gives '112' no score"]),
        ("", ["is no CSV"]),
    ],
    ids=["twice", "no score", "unknown", "nan", "empty"],
)
def test_scores_that_cannot_be_judged(refused: Refused, text: str, words: list[str]) -> None:
    Path("scores.csv").write_text(text)
    sentence = refused("rank", "--scores", "scores.csv", "--table", table(ROWS)).lower()
    for word in words:
        assert word.lower() in sentence


def test_a_checkpoint_of_another_space(refused: Refused, trained: Path) -> None:
    other = ["-c", "recipes/spaces/weight_sharing_64.yaml", *DATA, "-c", "recipes/algorithms/spos.yaml", *SET]
    checkpoint = str(trained / "checkpoints" / "last.ckpt")
    sentence = refused("fit", *other, "--ckpt_path", checkpoint, "--out", "run")
    assert "tiny64" in sentence
    assert "weight_sharing_64" in sentence


def test_weights_of_another_width(refused: Refused, trained: Path) -> None:
    wide = ["--space.init_args.channels=17", f"--model.init_args.weights={trained}"]
    assert "another space or width" in refused("fit", *CHILD, *wide, "--out", "run")


def test_a_checkpoint_that_does_not_fit_its_config(refused: Refused, trained: Path) -> None:
    Path("run/checkpoints").mkdir(parents=True)
    Path("run/checkpoints/last.ckpt").write_bytes((trained / "checkpoints" / "last.ckpt").read_bytes())
    config = yaml.safe_load((trained / "config.yaml").read_text())
    config["space"]["init_args"]["channels"] = 17
    Path("run/config.yaml").write_text(yaml.safe_dump(config))
    assert "does not fit its config.yaml" in refused("rank", "run")


class Explosive:
    """Writes a file when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.write_text, (Path("exploded"), "boom"))


@pytest.mark.parametrize("kind", ["torch", "pickle", "noise", "empty", "plain"])
@pytest.mark.parametrize("command", ["rank", "derive", "weights", "ckpt_path"])
def test_checkpoints_from_strangers_run_no_code(refused: Refused, trained: Path, kind: str, command: str) -> None:
    path = Path("run/checkpoints/last.ckpt")
    path.parent.mkdir(parents=True)
    Path("run/config.yaml").write_bytes((trained / "config.yaml").read_bytes())
    stranger = {"state_dict": {}, "nastricks": Explosive()}
    if kind == "torch":
        torch.save(stranger, path)
    elif kind == "plain":
        torch.save({"state_dict": {}}, path)
    else:
        path.write_bytes({"pickle": pickle.dumps(stranger), "noise": b"\x00\x01 no checkpoint", "empty": b""}[kind])
    arguments = {
        "rank": ["rank", "run"],
        "derive": ["derive", "run"],
        "weights": ["fit", *CHILD, "--model.init_args.weights=run", "--out", "new"],
        "ckpt_path": ["fit", *SPOS, "--ckpt_path", str(path), "--out", "new"],
    }[command]
    sentence = refused(*arguments)
    assert "last.ckpt" in sentence or "not written by nastricks" in sentence
    assert not Path("exploded").exists()


def test_the_explosive_checkpoint_would_explode() -> None:
    """The test above can fail: loaded without weights_only the same file runs its code."""
    torch.save(Explosive(), "x.ckpt")
    torch.load("x.ckpt", weights_only=False)
    assert Path("exploded").exists()


def test_an_output_folder_that_holds_a_run(refused: Refused, trained: Path) -> None:
    assert "already holds a run" in refused("fit", *SPOS, "--out", str(trained))


def test_ranking_a_child_is_refused(refused: Refused) -> None:
    assert main(["fit", *CHILD, "--out", "child"]) == 0
    assert "trained a child" in refused("rank", "child")
    assert "nothing to derive" in refused("derive", "child")


# Ablations.

ABLATION: dict[str, Any] = {
    "name": "small",
    "stack": ["recipes/spaces/tiny64.yaml", "recipes/data/digits.yaml", "recipes/algorithms/spos.yaml"],
    "set": SMALL,
    "arms": {"sam": {"sam": {"rho": 0.05}}, "mixup": {"mixup": {}}},
    "seeds": 2,
    "metrics": {"gt_tau": "max"},
}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"interactions": [["sam", "mixup", "sam+mixup"]]}, ["'sam+mixup'", "interactions"]),
        ({"interactions": [["sam", "mixup"]]}, ["interactions"]),
        ({"arms": {"a": {"sam": {"rho": 0.1}}, "b": {"sam": {"rho": 0.1}}}}, ["'a' and 'b'", "same setting"]),
        ({"arms": {"a": {"tricks": {}}}}, ["'base' and 'a'", "same setting"]),
        ({"arms": {"a": {"samm": {}}}}, ["trick 'samm'", "did you mean 'sam'"]),
        ({"arms": {"a": {"sam": {"rho": -1}}}}, ["'a'", "sam.rho is -1"]),
        ({"arms": {"a": {"sam": {"roh": 1}}}}, ["roh"]),
        ({"arms": {"a": {"weight_warmup": {}}}}, ["'a'", "weight_warmup"]),
        ({"arms": {}}, ["no arm beside base"]),
        ({"seeds": 0}, ["seeds"]),
        ({"seeds": [1, 1]}, ["seed twice"]),
        ({"metrics": {"gt_tua": "max"}}, ["'gt_tua'", "did you mean 'gt_tau'"]),
        ({"metrics": {"gt_tau": "up"}}, ["gt_tau", "'up'"]),
        ({"desing": {}}, ["'desing'", "did you mean 'design'"]),
        ({"design": {"kind": "crosed", "tricks": ["sam"]}}, ["design 'crosed'", "did you mean 'crossed'"]),
        ({"table": "none.csv"}, ["none.csv"]),
        ({"children": "65"}, ["65"]),
        ({"stack": ["recipes/spaces/tiny65.yaml"]}, ["tiny65.yaml", "spaces/tiny64.yaml"]),
    ],
    ids=str,
)
def test_ablations_refuse_before_anything_runs(refused: Refused, changes: dict[str, Any], words: list[str]) -> None:
    Path("ablation.yaml").write_text(yaml.safe_dump({**ABLATION, **changes}))
    sentence = refused("ablate", "ablation.yaml", "--out", "out")
    for word in words:
        assert word in sentence
    assert not Path("out").exists()


def test_output_folders_that_hold_something_else(refused: Refused) -> None:
    Path("ablation.yaml").write_text(yaml.safe_dump(ABLATION))
    Path("out").mkdir()
    Path("out/thesis.tex").write_text("mine")
    assert "holds no ablation" in refused("ablate", "ablation.yaml", "--out", "out")
    assert "holds no table" in refused("bench", *CHILD, "--out", "out")
    assert [p.name for p in Path("out").iterdir()] == ["thesis.tex"]


# Data, disks.


def test_a_data_set_absent_and_offline(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: object, **kwargs: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", offline)
    space = ["-c", "recipes/spaces/weight_sharing_64.yaml"]
    stack = [*space, "-c", "recipes/data/cifar10.yaml", "-c", "recipes/algorithms/spos.yaml"]
    sentence = refused("fit", *stack, "--data.init_args.root=absent", "--out", "run")
    assert "CIFAR-10 is not in" in sentence
    assert "no route to host" in sentence


def test_a_full_disk_is_one_sentence_and_exit_code_1(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "run/config.yaml")

    monkeypatch.setattr("nastricks.files.os.replace", full)
    sentence = refused("fit", *SPOS, "--out", "run", code=1)
    assert "No space left on device" in sentence
    assert "run/config.yaml" in sentence


def test_a_latency_table_that_lacks_a_block(refused: Refused) -> None:
    options = ("max_pool_3x3", "sep_conv_3x3", "sep_conv_5x5", "identity")
    rows = [f"layer{layer},{option},0.1" for layer in (1, 2) for option in options]
    Path("latency.csv").write_text("\n".join(["choice,option,milliseconds", "base,,0.5", *rows]) + "\n")
    latency = ["--tricks.resource_penalty.cost=latency", "--tricks.resource_penalty.latency=latency.csv"]
    sentence = refused("fit", *DARTS, *latency, "--out", "run")
    assert "lacks layer3 max_pool_3x3 (rows are missing for 1 of 4 blocks)" in sentence
    assert not Path("run/checkpoints").exists()


def test_stages_that_cannot_be(refused: Refused) -> None:
    stage = {"stack": ABLATION["stack"], "set": SMALL}
    search = {"stack": [*ABLATION["stack"][:2], "recipes/algorithms/darts.yaml"], "set": SMALL}
    for content, word in (
        ({}, "has no stages"),
        ({"stages": {"a": {"set": SMALL}}}, "lacks a stack"),
        ({"stages": {"a": {**stage, "architecture": "x"}}}, "architecture_of"),
        ({"stages": {"a": {**stage, "weights_of": "b"}, "b": stage}}, "no earlier stage"),
        ({"stages": {"a": stage}, "seed": 3}, "'seed'"),
        (
            {"stages": {"a": search, "b": {**search, "options_of": "a", "keep": 4}}},
            "stage b of stages: keep is 4, and no choice of stage a has more than 4 options",
        ),
    ):
        Path("stages.yaml").write_text(json.dumps(content))
        assert word in refused("run", "stages.yaml", "--out", "out")
    assert not Path("out").exists()
