"""`nastricks search` over a trained supernet: bounds, fronts, scores that are kept, refusals before any score."""

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from nastricks.cli import main
from nastricks.ranking import rank
from nastricks.recipe import resolve
from nastricks.run import Run, build

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
]

TINY = ["-c", "recipes/spaces/tiny64.yaml", "-c", "recipes/data/digits.yaml"]
SHARED = ["-c", "recipes/search/rewards/shared_weights.yaml"]
NSGA2 = [*TINY, "-c", "recipes/search/nsga2.yaml", *SHARED, "--search.algorithm.init_args.population", "5"]
RANDOM = [*TINY, "-c", "recipes/search/random_search.yaml", *SHARED]
SLIM_STAGES = [{"channels": 8, "blocks": 1, "stride": 1}, {"channels": 16, "blocks": 1, "stride": 2}]
SLIM = [
    "-c", "recipes/spaces/slimmable.yaml", "-c", "recipes/data/digits.yaml",
    "--space.init_args.stages", json.dumps(SLIM_STAGES), "--space.init_args.widths", "[0.5, 1.0]",
]  # fmt: skip


@pytest.fixture(scope="module")
def supernet(make: Callable[..., Run], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("supernet") / "run"
    make("spos", {"bn_calibration": {"batches": 1}}, out=folder).fit()
    return folder


@pytest.fixture(scope="module")
def slim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slim") / "run"
    small = {"train_size": 32, "search_size": 16, "validation_size": 16, "batch_size": 16}
    files = [SLIM[1], SLIM[3], "recipes/algorithms/spos.yaml"]
    overrides = [*SLIM[4:], *(f"--data.init_args.{key}={value}" for key, value in small.items())]
    build(resolve(files, [*overrides, "--trainer.max_epochs=1"]), folder, quiet=True).fit()
    return folder


def searched(folder: Path, arguments: list[str], run: Path, budget: int) -> pd.DataFrame:
    command = ["search", *arguments, "--search.reward.init_args.run", str(run), "--search.evaluations", str(budget)]
    assert main([*command, "--out", str(folder)]) == 0
    return pd.read_csv(folder / "evaluations.csv", dtype={"architecture": str}).drop(columns="seconds")


@pytest.mark.parametrize("arguments", [NSGA2, RANDOM], ids=["nsga2", "random"])
def test_an_interrupted_search_scores_nothing_twice_and_ends_alike(
    arguments: list[str], supernet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bounded = [*arguments, "--search.most.params", "2500"]
    straight = searched(tmp_path / "straight", bounded, supernet, 20)
    assert straight["meets"].all()
    assert (straight["params"] <= 2500).all()
    assert len(list((tmp_path / "straight/children").iterdir())) == (~straight["repeat"]).sum()
    first = searched(tmp_path / "cut", bounded, supernet, 9)
    pd.testing.assert_frame_equal(first, straight.iloc[:9])
    scored: list[int] = []
    score = rank.score_children

    def counted(space, network, architectures, *rest, **more):  # type: ignore[no-untyped-def]
        scored.append(len(architectures))
        return score(space, network, architectures, *rest, **more)

    monkeypatch.setattr(rank, "score_children", counted)
    pd.testing.assert_frame_equal(searched(tmp_path / "cut", bounded, supernet, 20), straight)
    assert sum(scored) == (~straight["repeat"]).sum() - (~first["repeat"]).sum()


def test_the_front_and_its_picture(supernet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = searched(
        tmp_path, [*NSGA2, "--search.algorithm.init_args.cost", "params", "--search.front", "params"], supernet, 20
    )
    front = pd.read_csv(tmp_path / "front.csv", dtype={"architecture": str})
    for _, one in front.iterrows():
        better = (rows["reward"] >= one["reward"]) & (rows["params"] <= one["params"])
        strictly = (rows["reward"] > one["reward"]) | (rows["params"] < one["params"])
        assert not (better & strictly).any()
    assert front["params"].is_monotonic_increasing
    assert [row["architecture"] for row in json.loads((tmp_path / "front.json").read_text())] == list(
        front["architecture"]
    )
    assert "parameters of the child" in (tmp_path / "pareto.svg").read_text()
    assert f"front: {len(front)} networks" in capsys.readouterr().out


def test_a_latency_of_a_table_bounds_the_search(supernet: Path, tmp_path: Path) -> None:
    table = tmp_path / "ms.csv"
    assert main(["latency", *TINY, "--repeats", "1", "--warmup", "0", "--out", str(table)]) == 0
    rows = pd.read_csv(table)
    rows["milliseconds"] = range(len(rows))
    rows.to_csv(table, index=False)
    within = ["--search.latency", str(table), "--search.most.latency", "20", "--search.front", "latency"]
    found = searched(tmp_path / "out", [*RANDOM, *within], supernet, 12)
    assert (found["latency"] <= 20).all()
    assert "milliseconds of the child" in (tmp_path / "out/pareto.svg").read_text()
    against = ["--search.latency", str(table), "--search.algorithm.init_args.cost", "latency"]
    found = searched(tmp_path / "nsga2", [*NSGA2, *against, "--search.front", "latency"], supernet, 12)
    front = pd.read_csv(tmp_path / "nsga2/front.csv", dtype={"architecture": str})
    assert front["latency"].is_monotonic_increasing
    assert front["reward"].is_monotonic_increasing
    assert front["latency"].iloc[0] == found["latency"].min()


def test_greedy_slimming_ends_within_the_bounds(slim: Path, tmp_path: Path) -> None:
    arguments = [*SLIM, "-c", "recipes/search/greedy_slimming.yaml"]
    whole = searched(tmp_path / "whole", arguments, slim, 50)
    assert whole["meets"].all()
    assert whole["flops"].iloc[0] == whole["flops"].max()
    most = str(float(whole["flops"].median()))
    rows = searched(tmp_path / "bounded", [*arguments, "--search.most.flops", most], slim, 50)
    assert rows["meets"].sum() >= 1
    result = json.loads((tmp_path / "bounded/result.json").read_text())
    best = rows[rows["architecture"] == result["best"]].iloc[0]
    assert best["meets"]
    assert best["reward"] == rows[rows["meets"]]["reward"].max()
    assert "outside the bounds" in (tmp_path / "bounded/pareto.svg").read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([*RANDOM, "--search.most.flops", "10"], "no architecture of tiny64 meets search.most.flops 10: the nearest"),
        ([*NSGA2, "--search.least.params", "1e9"], "no architecture of tiny64 meets search.least.params 1e+09"),
        ([*RANDOM, "--search.most.latency", "3"], "search.latency is not set: name a table"),
        ([*RANDOM, "--search.front=null", "--search.latency=ms.csv"], "latency is ms.csv, and nothing asks for costs"),
        ([*RANDOM, "--search.goal", "1.5"], "search.goal is 1.5: expected at most 1, which is the most there is"),
        ([*RANDOM, "--search.most.params", "-1"], "search.most.params is -1: expected a number above 0"),
        (
            [*TINY, "-c", "recipes/search/nasnet_ppo.yaml", *SHARED, "--search.most.flops", "1e6"],
            "takes no constraints",
        ),
        ([*TINY, "-c", "recipes/search/greedy_slimming.yaml"], "have no order of sizes"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_scored(
    arguments: list[str],
    words: str,
    supernet: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rank, "score_children", None)
    command = ["search", *arguments, "--search.reward.init_args.run", str(supernet), "--out", str(tmp_path / "out")]
    assert main(command) == 2
    (sentence,) = capsys.readouterr().err.strip().splitlines()
    assert words in sentence
    assert not (tmp_path / "out").exists()


def test_a_supernet_of_other_choices_is_refused(slim: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = [part if part != "[0.5, 1.0]" else "[0.25, 1.0]" for part in SLIM]
    command = [
        "search",
        *other,
        "-c",
        "recipes/search/greedy_slimming.yaml",
        "--search.reward.init_args.run",
        str(slim),
    ]
    assert main([*command, "--out", str(tmp_path / "out")]) == 2
    assert "have other choices of slimmable" in capsys.readouterr().err
