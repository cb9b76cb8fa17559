"""The proofs run on a few cases, and their pages say what was found."""

import argparse
import os
from pathlib import Path

import pandas as pd
import pytest
import yaml

from nastricks.errors import InputError
from proofs import algorithms, cifar10, compatibility, derivations, gumbel
from proofs.__main__ import main
from proofs.compatibility import Found, Pair, examine, page

# Lightning and the recipe call jsonargparse by names that it renamed.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
]


@pytest.mark.parametrize(
    ("algorithm", "trick", "kind", "words"),
    [
        ("darts", None, "works", ""),
        ("darts", "drop_path", "works", ""),
        ("spos", "weight_warmup", "refuses", "UniformPath has no parameters"),
        ("fairdarts", "zero_one_loss", "part", ""),
        ("darts_plus", "cutout", "works", ""),
        ("pdarts", "op_dropout", "part", ""),
        ("pdarts", "cutout", "works", ""),
        ("pdarts", "early_stop_hessian", "works", ""),
        ("darts_pt", None, "works", ""),
        ("darts_pt", "space_pruning", "refuses", "Softmax cannot keep to one"),
        ("spos, groups", None, "works", ""),
        ("spos, prefix", "bn_calibration", "works", ""),
        ("spos, none", None, "works", ""),
        ("spos, none", "op_warmup", "refuses", "sharing ShareNone gives architectures weights of their own"),
    ],
)
def test_a_pair_works_or_refuses_or_is_part(algorithm: str, trick: str | None, kind: str, words: str) -> None:
    found = examine(Pair(algorithm, trick))
    assert found.kind == kind, found
    assert words in found.words


def test_a_sharing_stands_on_top_of_spos() -> None:
    recipes = compatibility.algorithms()
    assert {"spos, groups", "spos, prefix", "spos, none", "fewshot", "fairnas", "child"} <= set(recipes)
    expected = {"spos, groups": ["tiny64", "digits", "spos", "groups"], "fairnas": ["tiny64", "digits", "fairnas"]}
    for name, files in {**expected, "child": ["tiny64", "digits", "tiny64"]}.items():
        assert [Path(file).stem for file in compatibility.stack_of(recipes[name])] == files


def test_a_trick_that_does_not_resume_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compatibility, "difference_after_resuming", lambda *given: "state_dict differs")
    assert examine(Pair("spos", "cutout")) == Found("fails", "resumed, state_dict differs")


def test_the_page_numbers_each_sentence_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compatibility, "algorithms", lambda: {"one": "1.yaml", "two": "2.yaml"})
    monkeypatch.setattr(compatibility, "tricks", lambda: {"a": None, "b": None})
    found = {Pair(algorithm, None): Found("works") for algorithm in ("one", "two")}
    found |= {Pair("one", "a"): Found("works"), Pair("two", "a"): Found("refuses", "no skip")}
    found |= {Pair("one", "b"): Found("refuses", "no skip"), Pair("two", "b"): Found("part")}
    text = page(found)
    assert "| `a` | ● | 1 |" in text
    assert "| `b` | 1 | ◐ |" in text
    assert text.count("1. no skip") == 1
    assert "Every recipe runs and resumes alone." in text


def ablation(folder: Path) -> Path:
    """A finished ablation of two arms and two seeds, as `nastricks ablate` leaves it."""
    metrics = {"derived_accuracy": "max", "derived_rank": "min", "discretisation_loss": "min"}
    config = {"name": "algorithms", "metrics": metrics, "arms": {"base": {}, "gdas": {}}, "seeds": [0, 1]}
    (folder / "ablation.yaml").write_text(yaml.safe_dump(config))
    (folder / "answer.json").write_text('["No evidence."]')
    rows = []
    for arm, accuracy, derived in (("base", 0.95, "222"), ("gdas", 0.93, "244")):
        for seed in (0, 1):
            place = folder / "trials" / arm / f"seed={seed}"
            place.mkdir(parents=True)
            own = {"derived_accuracy": accuracy, "derived_rank": 3.0, "discretisation_loss": 2 * (accuracy - 0.9)}
            baselines = {"chance": {"derived_accuracy": 0.93, "derived_rank": 32.5}}
            row = {"arm": arm, "seed": seed, "status": "done", "seconds": 6.0, "peak_memory_mb": 1.0}
            result = {**row, "metrics": own, "baselines": baselines, "noise_ceiling": 0.9, "derived": derived}
            (place / "result.json").write_text(pd.Series(result).to_json())
            rows.append({**row, **own})
    pd.DataFrame(rows).to_csv(folder / "results.csv", index=False)
    effect = {"arm": "gdas", "metric": "derived_accuracy", "n": 2, "mean": 0.93, "difference": -0.02, "ci_low": -0.05}
    effect |= {"ci_high": 0.01, "p": 0.2, "p_holm": 0.2, "p_exact": 0.5, "seconds_ratio": 0.7, "seeds_needed": 9}
    lost = {**effect, "metric": "discretisation_loss", "difference": -0.04, "p_holm": 0.03, "verdict": "helps"}
    pd.DataFrame([{**effect, "verdict": "no evidence"}, lost]).to_csv(folder / "effects.csv", index=False)
    return folder


def test_the_table_of_algorithms_is_made_from_an_ablation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(algorithms, "PAGE", tmp_path / "algorithms.md")
    (tmp_path / "run").mkdir()
    assert main(["algorithms", str(ablation(tmp_path / "run"))]) == 0
    text = (tmp_path / "algorithms.md").read_text()
    assert "| `darts` | 0.950 ± 0.000 | 3.0 ± 0.0 |  | 1.00 | 222 x2 |" in text
    assert "| -0.020 [-0.050, +0.010] against `darts`, no evidence | 0.70 | 244 x2 |" in text
    assert "| *chance* | 0.930 | 32.5 |" in text
    assert "Collapse to skips (two or more of the three layers are the identity, `4`): `gdas` 2 of 2." in text
    assert "`darts` 0.100. `gdas` 0.060, -0.040 [-0.050, +0.010] against `darts`: helps (p 0.03 after Holm)." in text
    assert "Searches that end below chance (0.930): `darts` 0 of 2 (lowest 0.950)." in text
    assert "one-level" not in text  # its arms were left out


def test_score_functions_are_unbiased_and_straight_through_gradients_are_not() -> None:
    found = {e.name: e for e in gumbel.study(epochs=2, samples=40, warm_up=200) if e.temperature in (None, 10.0)}
    relaxed = [e for e in found if e.startswith("Gumbel with a control variate")]
    assert len(relaxed) == 2
    for name in ("REINFORCE, moving baseline", "RELAX, learned control variate", *relaxed):
        # The squared distance of a mean over n draws has the squared standard error as its expectation.
        assert found[name].bias < 3 * found[name].error, found[name]
    hard = found["Gumbel hard, straight-through"]
    assert hard.bias > 3 * hard.error
    assert found["REINFORCE, moving baseline"].deviation < found["REINFORCE"].deviation
    assert "| REINFORCE |  |" in gumbel.page(list(found.values()), 2, 40, 200)


def test_rules_are_compared_on_the_same_supernet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(derivations.SIZE, "space.init_args.nodes", 2)
    monkeypatch.setitem(derivations.SIZE, "data.init_args.train_size", 64)
    found = derivations.study(["fairdarts"], [0, 1], epochs=1)
    assert len(found) == 2 * len(derivations.RULES)
    assert (found[found["rule"] == derivations.COMPARED]["same"] == 1).all()
    assert found["accuracy"].dropna().between(0, 1).all()
    kept = found[found["rule"] == "BestEdges, `none` kept"]
    assert len(kept) == 2
    text = derivations.page(found, 1)
    assert "| `fairdarts` | Perturbation |" in text
    assert "Threshold 0.85 in " in text


@pytest.mark.skipif("NASTRICKS_DATA" not in os.environ, reason="NASTRICKS_DATA does not name the folder of CIFAR-10")
def test_a_recipe_learns_on_cifar10() -> None:
    (watch,) = cifar10.prove("nasbench201", cifar10.recipes()["gdas"], os.environ["NASTRICKS_DATA"])
    before, after = watch.fixed
    assert len(watch.losses) >= cifar10.STEPS
    assert after < before


@pytest.mark.skipif("NASTRICKS_DATA" not in os.environ, reason="NASTRICKS_DATA does not name the folder of CIFAR-10")
def test_every_search_of_stages_takes_its_steps_on_cifar10() -> None:
    watched = cifar10.prove("nasbench201", cifar10.recipes()["pdarts"], os.environ["NASTRICKS_DATA"])
    assert len(watched) == 3
    assert all(len(watch.losses) >= cifar10.STEPS for watch in watched)


def test_without_data_or_a_run_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("NASTRICKS_DATA", raising=False)
    assert main(["cifar10"]) == 2
    assert main(["algorithms"]) == 2
    told = capsys.readouterr().err
    assert "NASTRICKS_DATA is not set" in told
    assert "name the finished run" in told
    with pytest.raises(InputError, match="is no ablation"):
        algorithms.main(argparse.Namespace(run="no-such-run"))
