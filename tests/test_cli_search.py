"""`nastricks search` as it is typed: what it prints and writes, and one sentence for each bad input."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from nastricks.cli import main

pytestmark = [
    pytest.mark.xdist_group("cli_search"),
    # Lightning 2.6 calls the parser by its old name.
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
]

TINY = ["-c", "recipes/spaces/tiny64.yaml", "-c", "recipes/data/digits.yaml"]
CHILD = ["-c", "recipes/child/tiny64.yaml", "-c", "recipes/search/rewards/trained_child.yaml"]
PPO = [*TINY, "-c", "recipes/search/nasnet_ppo.yaml"]
RANDOM = [*TINY, "-c", "recipes/search/random_search.yaml"]
ESTIMATOR = "--search.algorithm.init_args.estimator.init_args"

Refused = Callable[..., str]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands run in an empty folder, so that what they write by default is seen."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    """``refused(*arguments)`` runs a command that must end with 2, and gives its one sentence."""

    def run(*arguments: str) -> str:
        capsys.readouterr()
        assert main(list(arguments)) == 2
        lines = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
        assert len(lines) == 1, lines
        return lines[0]

    return run


def test_a_search_prints_its_best_and_repeats(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["search", *RANDOM, "--search.evaluations", "20", "--out", "out"]
    assert main(command) == 0
    told = capsys.readouterr().out
    result = json.loads((tmp_path / "out/result.json").read_text())
    assert f"best: {result['best']}, reward {result['metrics']['best_reward']:.4f}" in told
    assert f"its true accuracy: {result['metrics']['best_true']:.4f}" in told
    assert "a random architecture on average: 0.9300" in told
    assert "the best of the table: 0.9660" in told
    before = (tmp_path / "out/evaluations.csv").read_bytes()
    assert main(command) == 0
    assert (tmp_path / "out/evaluations.csv").read_bytes() == before
    assert main(["search", *RANDOM, "--search.evaluations", "5"]) == 0
    assert (tmp_path / "runs/search-tiny64-randomsearch/result.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([*PPO, f"{ESTIMATOR}.clip", "0"], "estimator.clip is 0.0: expected a number above 0"),
        ([*PPO, f"{ESTIMATOR}.episodes", "0"], "estimator.episodes is 0: an update needs at least 1 architecture"),
        (
            [
                *PPO,
                f"{ESTIMATOR}.baseline={{class_path: nastricks.estimators.FixedBaseline, init_args: {{value: 1.5}}}}",
            ],
            "baseline.value is 1.5: expected a number from 0 to 1",
        ),
        ([*PPO, f"{ESTIMATOR}.discount", "0"], "estimator.discount is 0.0"),
        ([*RANDOM, *CHILD, "--workers", "-1"], "--workers is -1: expected at least 1"),
        ([*RANDOM, "--workers", "0"], "--workers is 0: expected at least 1"),
        ([*RANDOM, "--ray", "127.0.0.1:1"], "no Ray cluster answers at 127.0.0.1:1"),
        ([*RANDOM, "--search.evaluations", "0"], "search.evaluations is 0"),
        ([*RANDOM, "--search.reward.diverged", "2"], "diverged"),
        ([*TINY], "names no search.algorithm"),
        ([*TINY, "-c", "recipes/search/nasnet_pppo.yaml"], "did you mean 'search/nasnet_ppo.yaml'"),
        ([*PPO, "--search.algorithm.init_args.policy={class_path: nastricks.policies.Softmax}"], "draws none"),
    ],
)
def test_bad_input_is_one_sentence(refused: Refused, arguments: list[str], words: str, tmp_path: Path) -> None:
    assert words in refused("search", *arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_table_without_an_architecture_that_is_drawn(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "gaps.csv").write_text("architecture,accuracy\n111,0.5\n112,0.6\n")
    sentence = refused("search", *RANDOM, "--search.reward.table", "gaps.csv", "--out", "out")
    assert "lacks 1 architectures of the space" in sentence


def test_an_unreachable_ray_address(refused: Refused) -> None:
    command = ["search", *RANDOM, *CHILD, "--search.evaluations", "2", "--trainer.max_epochs", "1", "--out", "out"]
    assert "no Ray cluster answers at 127.0.0.1:1" in refused(*command, "--ray", "127.0.0.1:1")


def test_a_folder_of_something_else(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/notes.txt").write_text("mine")
    assert "holds no search" in refused("search", *RANDOM, "--out", "out")


def test_kill_9_then_the_same_command_equals_the_uninterrupted_search(tmp_path: Path) -> None:
    small = {"data.init_args.train_size": 32, "data.init_args.search_size": 16, "data.init_args.batch_size": 16}
    overrides = [f"--{key}={value}" for key, value in {**small, "trainer.max_epochs": 2}.items()]
    command = ["search", *PPO, *CHILD, *overrides, "--search.evaluations", "24", "--out"]
    assert main([*command, "straight"]) == 0
    started = [sys.executable, "-m", "nastricks.cli", *command, "killed"]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(started, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"})
        deadline = time.monotonic() + 120
        while len(list(tmp_path.glob("killed/children/*.json"))) < 5:
            assert process.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("killed/children/*.json")}
    assert main([*command, "killed"]) == 0
    assert all(path.stat().st_mtime_ns == written for path, written in kept.items())  # none was trained again
    results = [
        pd.read_csv(tmp_path / name / "evaluations.csv").drop(columns="seconds") for name in ("straight", "killed")
    ]
    pd.testing.assert_frame_equal(*results)


def test_fit_does_not_search(refused: Refused) -> None:
    assert "unknown key" in refused("fit", *RANDOM)
