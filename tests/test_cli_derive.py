"""`nastricks derive` with another derivation than the run's own."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from nastricks.cli import main
from nastricks.commands.derive import named_derivation
from nastricks.derivations import Argmax, BestRanked, Perturbation, Trained
from nastricks.modules import SupernetModule
from nastricks.ranking.rank import scored
from nastricks.run import load_run

pytestmark = [
    pytest.mark.xdist_group("cli"),
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
]

STACK = ["recipes/spaces/tiny64.yaml", "recipes/data/digits.yaml", "recipes/algorithms/darts.yaml"]
SMALL = {
    "data.init_args.train_size": 64,
    "data.init_args.search_size": 32,
    "data.init_args.validation_size": 64,
    "data.init_args.batch_size": 32,
    "model.init_args.derivation": "nastricks.derivations.Perturbation",
    "model.init_args.derivation.init_args.seed": 5,
    "trainer.accelerator": "cpu",
    "trainer.max_epochs": 1,
}

Told = Callable[..., list[str]]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    stack = [part for file in STACK for part in ("-c", file)]
    assert main(["fit", *stack, *(f"--{key}={value}" for key, value in SMALL.items()), "--out", str(folder)]) == 0
    return folder


@pytest.fixture
def told(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Told:
    """``told(*arguments)`` derives from the trained run, and gives what is printed, or refused."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, code: int = 0) -> list[str]:
        capsys.readouterr()
        assert main(["derive", str(trained), *arguments]) == code
        out, err = capsys.readouterr()
        return (out if code == 0 else err).splitlines()

    return run


def test_other_derivations_read_the_same_supernet(told: Told, trained: Path) -> None:
    run = load_run(trained)
    module = run.module
    assert isinstance(module, SupernetModule)
    children = scored(module, run.data, list(module.space.architectures()), None)
    expected = {
        kind.__name__: kind().derive(
            Trained(module.space, module.policy, lambda: {a: s.accuracy for a, s in children.items()})
        )
        for kind in (Argmax, BestRanked)
    }
    assert module.space.format(expected["Argmax"]) != module.space.format(expected["BestRanked"])
    own = told()
    assert json.loads((trained / "result.json").read_text())["derived"] == own[0]
    for name, architecture in expected.items():
        printed = told("--derivation", name)
        assert printed == [module.space.format(architecture), f"drawing: {trained / f'derived_{name}.svg'}"]
        assert module.space.format(architecture) in (trained / f"derived_{name}.svg").read_text()
    assert json.loads((trained / "result.json").read_text())["derived"] == own[0]


def test_arguments_are_those_given_and_none_is_left_over(told: Told, trained: Path) -> None:
    own = told()[0]
    again = told("--derivation", "nastricks.derivations.Perturbation", "--derivation.seed", "5", "--out", "elsewhere")
    assert again == [own, "drawing: elsewhere/derived_Perturbation.svg"]
    assert [p.name for p in Path("elsewhere").iterdir()] == ["derived_Perturbation.svg"]
    plain = named_derivation("Perturbation", [])
    assert plain == {"class_path": "nastricks.derivations.Perturbation", "init_args": {"edges": 2, "seed": 0}}
    for overrides, seed in ([], 5), (["--model.init_args.derivation", json.dumps(plain)], 0):
        module = load_run(trained, overrides).module
        assert isinstance(module, SupernetModule)
        assert isinstance(module.derivation, Perturbation)
        assert module.derivation.seed == seed


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--derivation", "BestEdges"], "needs edges into nodes, and tiny64 has none: use Argmax"),
        (["--derivation", "BestEdge"], "BestEdge"),
        (
            ["--derivation", "Threshold", "--derivation.threshold", "2"],
            "derivation.threshold is 2.0: expected a number",
        ),
        (["--derivation", "Threshold", "--derivation.treshold", "0.5"], "treshold"),
        (["--derivation", "MostLikely"], "needs a policy that draws architectures; Softmax draws none"),
        (["--derivation.edges", "1"], "--derivation.edges needs the derivation's name: add --derivation"),
        (["--derivation", "Argmax", "--tricks.sam.rho", "1"], "--tricks.sam.rho is no argument of a derivation"),
    ],
)
def test_what_cannot_be_is_refused(arguments: list[str], words: str, told: Told) -> None:
    (sentence,) = told(*arguments, code=2)
    assert words in sentence


@pytest.mark.parametrize(
    ("space", "arguments", "words"),
    [
        (
            "darts",
            ["BestEdges", "none=kept"],
            "may leave node normal_node3 with fewer than the 2 inputs that darts demands",
        ),
        ("darts", ["BestEdges", "edges=1"], "derivation.edges is 1, and node normal_node2 of darts takes at least 2"),
        ("weight_sharing_64", ["BestEdges", "edges=1"], "an edge of weight_sharing_64 cannot be left out"),
        ("darts", ["Threshold", "threshold=1.0"], "derivation.threshold is 1.0: expected a number in (0, 1)"),
        ("tiny64", ["Perturbation", "edges=0"], "derivation.edges is 0: expected at least 1, or null"),
    ],
)
def test_fit_refuses_before_training(
    space: str, arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, *given = arguments
    stack = ["-c", f"recipes/spaces/{space}.yaml", "-c", STACK[1], "-c", STACK[2]]
    changed = [f"--model.init_args.derivation=nastricks.derivations.{name}"]
    changed += [f"--model.init_args.derivation.init_args.{setting}" for setting in given]
    assert main(["fit", *stack, *changed, "--trainer.accelerator=cpu", "--out", str(tmp_path / "run")]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
