"""The commands on tiny runs: what they print, what they write, and what a second call does."""

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
import yaml

from nastricks.cli import main
from nastricks.commands.listing import recipes
from nastricks.modules.run_folder import load_checkpoint
from nastricks.ranking.metrics import kendall_tau, s_tau
from nastricks.ranking.tables import load_table, shipped_table
from nastricks.spaces import Tiny64

pytestmark = [
    pytest.mark.xdist_group("cli"),
    # Lightning 2.6 calls the parser by its old name.
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
]

SMALL = {
    "data.init_args.train_size": 64,
    "data.init_args.search_size": 32,
    "data.init_args.validation_size": 64,
    "data.init_args.batch_size": 32,
    "trainer.accelerator": "cpu",
    "trainer.max_epochs": 1,
}
STACK = ["recipes/spaces/tiny64.yaml", "recipes/data/digits.yaml", "recipes/algorithms/spos.yaml"]
SPACE_DATA = [part for file in STACK[:2] for part in ("-c", file)]
SET = [f"--{key}={value}" for key, value in SMALL.items()]
SPOS = [*SPACE_DATA, "-c", STACK[2], *SET]
CHILD = [*SPACE_DATA, "-c", "recipes/child/tiny64.yaml", *SET]
CALIBRATED = [*SPOS, "--tricks.bn_calibration.batches", "2"]

Told = Callable[..., str]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Told:
    """``told(*arguments)`` runs a command that must succeed, and gives what it prints."""

    def run(*arguments: str, code: int = 0) -> str:
        capsys.readouterr()
        assert main(list(arguments)) == code
        return capsys.readouterr().out

    return run


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two calibrated supernets of tiny64 with their own seeds."""
    folder = tmp_path_factory.mktemp("trained")
    runs = [folder / name for name in ("first", "second")]
    for seed, run in enumerate(runs):
        assert main(["fit", *CALIBRATED, "--seed_everything", str(seed), "--out", str(run)]) == 0
    return runs


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one at every training."""
    counted: list[int] = []
    original = pl.Trainer.fit

    def counting(self: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        counted.append(1)
        original(self, *args, **kwargs)

    monkeypatch.setattr(pl.Trainer, "fit", counting)
    return counted


def ranking(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, dtype={"architecture": str})


# fit, validate, test.


def test_fit_leaves_a_run_folder(trained: list[Path]) -> None:
    for run in trained:
        assert {p.name for p in run.iterdir()} == {"config.yaml", "metrics.csv", "checkpoints"}
        assert load_checkpoint(run)["nastricks"]["steps_seen"] == 2
        assert len(pd.read_csv(run / "metrics.csv")) == 1
        config = yaml.safe_load((run / "config.yaml").read_text())
        assert config["tricks"]["bn_calibration"] is not None
        assert config["data"]["init_args"]["train_size"] == 64
    checkpoints = [load_checkpoint(run)["state_dict"] for run in trained]
    assert any(
        not torch.equal(checkpoints[0][key], checkpoints[1][key])
        for key in checkpoints[0]
        if key.startswith("networks.")
    )


def test_later_files_and_keys_win_trick_by_trick(told: Told) -> None:
    Path("a.yaml").write_text("tricks: {sam: {rho: 0.2, adaptive: true}, mixup: {alpha: 0.3}}")
    Path("b.yaml").write_text("tricks: {sam: {rho: 0.3}, cutout: {length: 2}}")
    arguments = ["-c", "a.yaml", "-c", "b.yaml", "--tricks.mixup", "null", "--tricks.cutout.length", "3"]
    assert "run folder: run" in told("fit", *SPOS, *arguments, "--out", "run")
    kept = yaml.safe_load(Path("run/config.yaml").read_text())["tricks"]
    settings = {name: trick["init_args"] for name, trick in kept.items() if trick is not None}
    assert settings == {"sam": {"rho": 0.3, "adaptive": True}, "cutout": {"length": 3}}


def test_a_saved_configuration_trains_the_same_run(told: Told, trained: list[Path]) -> None:
    told("fit", "-c", str(trained[1] / "config.yaml"), "--out", "again")
    assert Path("again/metrics.csv").read_bytes() == (trained[1] / "metrics.csv").read_bytes()
    first, second = load_checkpoint("again")["state_dict"], load_checkpoint(trained[1])["state_dict"]
    assert all(torch.equal(first[key], second[key]) for key in second if key.startswith("networks."))


@pytest.mark.parametrize("command", ["validate", "test"])
def test_validate_and_test_a_checkpoint(told: Told, trained: list[Path], command: str) -> None:
    split = {"validate": "validation", "test": "test"}[command]
    checkpoint = str(trained[0] / "checkpoints" / "last.ckpt")
    assert f"{split}/accuracy" in told(command, *SPOS, "--ckpt_path", checkpoint)
    assert list(Path().iterdir()) == []


def test_a_child_starts_from_a_supernets_weights(told: Told, trained: list[Path]) -> None:
    weights = [f"--model.init_args.weights={trained[0]}", "--model.init_args.architecture=231"]
    told("fit", *CHILD, *weights, "--model.init_args.optimizer.init_args.lr=0.0", "--out", "child")
    child, supernet = load_checkpoint("child")["state_dict"], load_checkpoint(trained[0])["state_dict"]
    parameters = [k for k in child if k.startswith("networks.") and k.endswith("weight")]
    assert parameters
    assert all(torch.equal(child[key], supernet[key]) for key in parameters)


# rank, derive.


def test_rank_one_run(told: Told, trained: list[Path]) -> None:
    printed = told("rank", str(trained[0]), "--out", "out")
    for words in ("gt_tau", "params", "FLOPs", "chance", "noise ceiling", "calibrated over 2", "derived architecture"):
        assert words in printed
    rows = ranking(Path("out/ranking.csv"))
    assert list(rows.columns) == ["architecture", "accuracy", "loss", "params", "flops", "truth"]
    assert list(rows["architecture"]) == [Tiny64().format(a) for a in Tiny64().architectures()]
    shipped = shipped_table("tiny64", "digits")
    assert shipped is not None
    np.testing.assert_allclose(rows["truth"], load_table(shipped).truth(rows["architecture"].tolist()))
    metrics = json.loads(Path("out/result.json").read_text())["metrics"]
    assert metrics["gt_tau"] == pytest.approx(kendall_tau(rows["accuracy"].to_numpy(), rows["truth"].to_numpy()))
    assert not (trained[0] / "ranking.csv").exists()


def test_rank_several_runs(told: Told, trained: list[Path]) -> None:
    printed = told("rank", *map(str, trained), "--out", "out", "--children", "20")
    rows = [ranking(Path("out") / run.name / "ranking.csv") for run in trained]
    assert f"S-Tau over 2 runs: {s_tau([r['accuracy'].to_numpy() for r in rows]):.3f}" in printed
    assert "GT-Tau over 2 runs" in printed
    assert [len(r) for r in rows] == [20, 20]
    assert list(rows[0]["architecture"]) == list(rows[1]["architecture"])
    assert list(rows[0]["accuracy"]) != list(rows[1]["accuracy"])


def test_rank_against_a_table_of_ones_own(told: Told, trained: list[Path]) -> None:
    names = [Tiny64().format(a) for a in Tiny64().architectures()]
    text = "".join(f"{name},{i / 100}\n" for i, name in enumerate(names))
    Path("mine.csv").write_text("architecture,accuracy\n" + text)
    printed = told("rank", str(trained[0]), "--table", "mine.csv", "--out", "out")
    assert "one replica" in printed
    assert list(ranking(Path("out/ranking.csv"))["truth"]) == [i / 100 for i in range(64)]


def test_scores_made_anywhere(told: Told) -> None:
    table = shipped_table("tiny64", "digits")
    assert table is not None
    truth = load_table(table)
    best = kendall_tau(truth.mean, truth.mean)  # a little below 1: equal accuracies are no agreement
    assert best > 0.95
    for sign in (1, -1):
        frame = pd.DataFrame({"architecture": truth.architectures, "score": sign * truth.mean})
        frame.to_csv("scores.csv", index=False)
        printed = told("rank", "--scores", "scores.csv", "--table", str(table), "--out", f"out{sign}")
        (line,) = (line for line in printed.splitlines() if " gt_tau " in line)
        assert f"{sign * best:.3f}" in line
    assert len(ranking(Path("out1/ranking.csv"))) == 64


def test_derive_prints_and_draws_the_best_of_the_ranking(told: Told, trained: list[Path]) -> None:
    told("rank", str(trained[0]), "--out", "out")
    rows = ranking(Path("out/ranking.csv"))
    best = rows.sort_values(["accuracy", "architecture"], ascending=[False, True])["architecture"].iloc[0]
    assert told("derive", str(trained[0]), "--out", "drawn").splitlines()[0] == best
    assert best in "".join(ElementTree.parse("drawn/derived.svg").getroot().itertext())
    assert json.loads(Path("drawn/result.json").read_text())["derived"] == best


# show, ls, cp, check.


def test_show_describes_a_space(told: Told) -> None:
    printed = told("show", *SPACE_DATA[:2])
    assert "tiny64: 64 architectures, 3 choices" in printed
    assert "52 of them are distinct" in printed
    assert "layer1 (parallel): 1 max_pool_3x3, 2 sep_conv_3x3, 3 sep_conv_5x5, 4 identity" in printed


def test_show_counts_what_is_named_and_listed(told: Told) -> None:
    Path("codes").write_text("444\n\n213\n")
    listed = json.loads(told("show", *SPACE_DATA, "213", "--file", "codes", "--json"))
    assert [row["architecture"] for row in listed] == ["213", "444", "213"]
    assert listed[1] == {"architecture": "444", "params": 346, "flops": 2 * (64 * 144 + 160)}
    assert "346" in told("show", *SPACE_DATA, "444")
    wide = json.loads(told("show", *SPACE_DATA, "444", "--json", "--space.init_args.channels=32"))
    assert wide[0]["params"] == 32 * 9 + 64 + 32 * 10 + 10
    told("show", *SPACE_DATA, "213", "--draw", "new/213.svg")
    assert "tiny64 213" in "".join(ElementTree.parse("new/213.svg").getroot().itertext())


def test_costs_of_options_add_up_to_those_of_a_child(told: Told) -> None:
    rows = [line.split() for line in told("show", *SPACE_DATA, "--costs").splitlines()]
    params = {
        " ".join(row[:-2]): int(row[-2].replace(",", ""))
        for row in rows
        if row[0].startswith(("layer", "what")) and row[-1].replace(",", "").isdigit()
    }
    assert len(params) == 3 * 4 + 1
    (child,) = json.loads(told("show", *SPACE_DATA, "213", "--json"))
    picked = ["layer1 sep_conv_3x3", "layer2 max_pool_3x3", "layer3 sep_conv_5x5", "what all children have"]
    assert sum(params[name] for name in picked) == child["params"]


def test_latency_is_measured_and_shown(told: Told) -> None:
    printed = told(
        "latency", *SPACE_DATA, "--repeats", "2", "--warmup", "1", "--threads", "1", "--out", "new/latency.csv"
    )
    assert "tiny64 on cpu, 1 thread, batches of 1: 8 operations" in printed
    assert "children timed whole: " in printed
    table = pd.read_csv("new/latency.csv", keep_default_na=False)
    assert list(table["choice"]) == ["base"] + [f"layer{i}" for i in (1, 2, 3) for _ in range(4)]
    table["milliseconds"] = range(len(table))
    table.to_csv("mine.csv", index=False)
    (row,) = json.loads(told("show", *SPACE_DATA, "213", "--latency", "mine.csv", "--json"))
    assert row["milliseconds"] == 0 + 2 + 5 + 11
    assert "18.000" in told("show", *SPACE_DATA, "213", "--latency", "mine.csv").splitlines()[1]


def test_ls_and_cp(told: Told) -> None:
    printed = told("ls")
    for name in recipes():
        assert any(line.split()[:1] == [name] and len(line.split()) > 3 for line in printed.splitlines())
    assert told("ls", "tricks").splitlines()[0] == "tricks:"
    assert "spaces/tiny64" not in told("ls", "tricks")
    assert told("cp", "tricks/sam", "deep/mine.yaml").strip() == "deep/mine.yaml"
    assert Path("deep/mine.yaml").read_bytes() == recipes()["tricks/sam"].read_bytes()
    told("cp", "tricks/sam", "deep/mine.yaml", code=2)  # what is there is not overwritten
    assert told("cp", "recipes/tricks/sam.yaml", "deep").strip() == "deep/sam.yaml"


def test_check_tells_the_living_from_the_dead(told: Told) -> None:
    printed = told("check", *SPOS, "--tricks.sam.rho", "0.05", "--tricks.mixup.alpha", "1.0", "--out", "out")
    assert printed.count("alive") == 2
    report = json.loads(Path("out/check.json").read_text())
    assert {t["trick"]: t["alive"] for t in report["tricks"]} == {"sam": True, "mixup": True}
    assert "DEAD" in told("check", *SPOS, "--tricks.sam.rho", "0", code=1)


# run, ablate, report.


def stages(**more: Any) -> str:
    content = {
        "name": "search",
        "stages": {
            "supernet": {"stack": STACK, "set": SMALL, **more},
            "child": {
                "stack": [*STACK[:2], "recipes/child/tiny64.yaml"],
                "set": SMALL,
                "architecture_of": "supernet",
                "weights_of": "supernet",
            },
        },
    }
    Path("stages.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return "stages.yaml"


def results(printed: str) -> list[str]:
    """What was told of each stage, without the progress bars."""
    return [line for line in printed.splitlines() if line.startswith(("supernet: ", "child: "))]


def test_stages_run_once_and_continue(told: Told, fits: list[int]) -> None:
    printed = results(told("run", stages(), "--out", "out"))
    assert len(fits) == 2
    derived = json.loads(Path("out/supernet/result.json").read_text())["derived"]
    assert printed[0] == f"supernet: derived {derived}"
    assert printed[1].startswith("child: accuracy 0.")
    assert yaml.safe_load(Path("out/child/config.yaml").read_text())["model"]["init_args"]["architecture"] == derived
    assert Path("out/supernet/derived.svg").is_file()
    result = Path("out/child/result.json").read_bytes()
    # Again: nothing is trained, the same is told.
    assert results(told("run", stages(), "--out", "out")) == printed
    assert len(fits) == 2
    # A stage that was deleted is trained again, from the one before it, with the same result.
    shutil.rmtree("out/child")
    assert results(told("run", stages(), "--out", "out")) == printed
    assert len(fits) == 3
    assert Path("out/child/result.json").read_bytes() == result
    # One that was killed after its training goes on from its checkpoint.
    Path("out/child/result.json").unlink()
    assert results(told("run", stages(), "--out", "out")) == printed
    assert Path("out/child/result.json").read_bytes() == result
    # Other settings do not mix with what is there.
    told("run", stages(set={**SMALL, "seed_everything": 1}), "--out", "out", code=2)


def test_report_is_rebuilt_from_finished_trials(told: Told, fits: list[int]) -> None:
    content = {
        "stack": STACK,
        "set": SMALL,
        "arms": {"bn_calibration": {"bn_calibration": {"batches": 2}}},
        "seeds": 2,
        "metrics": {"gt_tau": "max"},
        "children": "20",
    }
    Path("small.yaml").write_text(yaml.safe_dump(content))
    printed = told("ablate", "small.yaml")
    assert len(fits) == 2
    out = Path("runs/small")
    assert f"report: {out / 'report.html'}" in printed
    made = {name: (out / name).read_bytes() for name in ("results.csv", "effects.csv", "answer.json")}
    for name in (*made, "report.html"):
        (out / name).unlink()
    assert told("report", str(out)) == printed
    assert len(fits) == 2
    assert {name: (out / name).read_bytes() for name in made} == made
    assert "<html" in (out / "report.html").read_text()


# Start-up.


@pytest.mark.parametrize("arguments", [["--help"], ["ls"], ["ablate", "--help"]], ids=" ".join)
def test_help_and_listings_import_no_torch_and_answer_within_a_second(arguments: list[str]) -> None:
    code = (
        "import sys; from nastricks.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit as done: assert not done.code, done.code\n"
        "heavy = {'torch', 'pytorch_lightning', 'numpy', 'pandas', 'jsonargparse'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, capture_output=True, env={**os.environ})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0
