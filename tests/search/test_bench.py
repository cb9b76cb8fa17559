"""Tables of ground truth: every child and replica trained once, the same after an interruption."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from jsonargparse import Namespace

from nastricks.cli import main
from nastricks.errors import InputError
from nastricks.ranking.tables import load_table
from nastricks.recipe import resolve
from nastricks.search import bench
from nastricks.search.bench import make_table
from nastricks.search.engine import InProcess
from nastricks.spaces import Architecture, Tiny64

# Lightning 2.6 calls the parser by its old name.
pytestmark = pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning")

STACK = ["recipes/spaces/tiny64.yaml", "recipes/data/digits.yaml", "recipes/child/tiny64.yaml"]
SET = [
    "--data.init_args.train_size=32",
    "--data.init_args.search_size=16",
    "--data.init_args.validation_size=16",
    "--data.init_args.batch_size=16",
    "--trainer.accelerator=cpu",
    "--trainer.max_epochs=1",
]
NAMES = ["111", "213", "444"]


@pytest.fixture(scope="module", autouse=True)
def three_children() -> Iterator[None]:
    """tiny64 with three of its children, to keep this short."""

    def architectures(self: Tiny64) -> Iterator[Architecture]:
        return iter([self.parse(name) for name in NAMES])

    patch = pytest.MonkeyPatch()
    patch.setattr(Tiny64, "architectures", architectures)
    yield
    patch.undo()


def config(*more: str) -> Namespace:
    return resolve(STACK, [*SET, *more])


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench") / "out"
    make_table(config(), 2, folder, InProcess())
    return folder


@pytest.fixture
def copy(straight: Path, tmp_path: Path) -> Path:
    return shutil.copytree(straight, tmp_path / "out")


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Every replica that is trained."""
    seen: list[tuple[str, int]] = []
    original = bench.train_replica

    def noted(replica: bench.Replica) -> float:
        seen.append((replica.architecture, replica.number))
        return original(replica)

    monkeypatch.setattr(bench, "train_replica", noted)
    return seen


def test_a_row_a_child_and_a_column_a_replica(straight: Path) -> None:
    table = load_table(straight / "table.csv", Tiny64().parse)
    assert table.architectures == NAMES
    assert table.replicas.shape == (3, 2)
    assert (table.replicas[:, 0] != table.replicas[:, 1]).any(), "replicas have seeds of their own"
    for i, name in enumerate(NAMES):
        for number in (0, 1):
            result = json.loads((straight / f"trials/{name}/replica={number}.json").read_text())
            assert result["architecture"] == name
            assert result["accuracy"] == table.replicas[i, number]


def test_the_same_again_trains_nothing(straight: Path, copy: Path, trained: list[tuple[str, int]]) -> None:
    told: list[str] = []
    make_table(config(), 2, copy, InProcess(), told.append)
    assert told == 6 * ["kept"]
    assert not trained
    assert (copy / "table.csv").read_bytes() == (straight / "table.csv").read_bytes()


def test_continued_after_an_interruption(straight: Path, copy: Path, trained: list[tuple[str, int]]) -> None:
    (copy / "table.csv").unlink()
    (copy / "trials/213/replica=1.json").unlink()
    shutil.rmtree(copy / "trials/444")
    make_table(config(), 2, copy, InProcess())
    assert sorted(trained) == [("213", 1), ("444", 0), ("444", 1)]
    assert (copy / "table.csv").read_bytes() == (straight / "table.csv").read_bytes()


def test_replicas_can_be_added(straight: Path, copy: Path, trained: list[tuple[str, int]]) -> None:
    make_table(config(), 3, copy, InProcess())
    assert trained == [(name, 2) for name in NAMES]
    before, after = load_table(straight / "table.csv"), load_table(copy / "table.csv")
    assert (after.replicas[:, :2] == before.replicas).all()


def test_the_table_of_another_recipe_is_refused(copy: Path, trained: list[tuple[str, int]]) -> None:
    with pytest.raises(InputError, match="table of another recipe"):
        make_table(config("--trainer.max_epochs=2"), 2, copy, InProcess())
    assert not trained


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stack = [part for file in STACK for part in ("-c", file)]
    assert main(["bench", *stack, *SET, "--replicas", "1", "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert f"table: {tmp_path / 'out' / 'table.csv'}" in printed
    assert "noise ceiling: none from one replica" in printed
    assert load_table(tmp_path / "out/table.csv").replicas.shape == (3, 1)
