"""Tables of ground truth: what is read from a CSV file, and what is refused."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from nastricks.errors import InputError
from nastricks.ranking import tables
from nastricks.ranking.tables import Table, load_table, shipped_table, write_table

Write = Callable[[str], Path]


@pytest.fixture
def csv(tmp_path: Path) -> Write:
    def write(text: str) -> Path:
        path = tmp_path / "table.csv"
        path.write_text(text)
        return path

    return write


def test_architectures_stay_text_and_other_columns_are_left_out(csv: Write) -> None:
    table = load_table(
        csv("architecture,params,accuracy_0,accuracy_1,mean,acc_std\n000,7,0.5,0.7,0.6,9\nNA,8,0.25,0.25,0.25,9\n")
    )
    assert table.architectures == ["000", "NA"]
    np.testing.assert_array_equal(table.replicas, [[0.5, 0.7], [0.25, 0.25]])
    np.testing.assert_allclose(table.mean, [0.6, 0.25])
    np.testing.assert_allclose(table.std, [0.2 / np.sqrt(2), 0])


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ("accuracy,loss", 1),
        ("acc0,acc1", 2),
        ("Accuracy,accuracy_1", 2),
        ("replica_0,replica_1", 2),
        ("accuracy_seed=0,accuracy_seed=1", 2),
        ("gt_mean,gt_std", 1),
        ("accuracy,mean", 1),
        ("accelerator,accuracy", 1),
    ],
)
def test_which_columns_are_accuracies(csv: Write, header: str, found: int) -> None:
    assert load_table(csv(f"architecture,{header}\na,0.5,0.5\n")).replicas.shape == (1, found)


def test_named_columns_are_taken(csv: Write) -> None:
    path = csv("code,accuracy,test_1\n01,0.1,0.9\n")
    table = load_table(path, columns=["test_1"], architecture_column="code")
    assert table.architectures == ["01"]
    np.testing.assert_array_equal(table.replicas, [[0.9]])
    assert np.isnan(table.std).all()


def test_percent_becomes_a_fraction(csv: Write) -> None:
    table = load_table(csv("architecture,acc\na,45.32\nb,0.5\n"))
    np.testing.assert_allclose(table.mean, [0.4532, 0.005])


def refuse_nonsense(text: str) -> str:
    if not text.isdigit():
        raise InputError(f"{text!r} is no architecture: write three digits")
    return text


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not a CSV"),
        ("code,accuracy\na,0.5\n", "no column 'architecture'"),
        ("architecture,params\na,5\n", "no accuracy column, only architecture, params"),
        ("architecture,accuracy_std\na,0.5\n", "no accuracy column"),
        ("architecture,accuracy\n1,0.5\n2,nan\n", "'2'.*'nan'"),
        ("architecture,accuracy\n1,0.5\n2,\n", "not a number"),
        ("architecture,accuracy\n1,0.5\n2,good\n", "'good'"),
        ("architecture,accuracy\n1,0.5\n2,inf\n", "'inf'"),
        ("architecture,accuracy\n1,0.5\n2,-0.5\n", "-0.5"),
        ("architecture,accuracy\n1,150\n", "1.5"),
        ("architecture,accuracy\n1,0.5\n1,0.6\n", "two rows for '1'"),
        ("architecture,accuracy\n1,0.5\n 1,0.6\n", "two rows for '1'"),
        ("architecture,accuracy\n,0.5\n", "without an architecture"),
        ("architecture,accuracy\n", "0 architectures"),
        ("architecture,accuracy\nnonsense,0.5\n", "'nonsense' is no architecture"),
        ("architecture,accuracy\n1,0.5,0.7\n", "not a CSV"),
        ("architecture,accuracy\n1,0.5\n2,0.5,0.7\n", "not a CSV"),
        ("architecture,accuracy_0,accuracy_1\n1,0.5\n", "not a number"),
    ],
)
def test_refused_in_one_sentence(csv: Write, text: str, says: str) -> None:
    with pytest.raises(InputError, match=says) as refused:
        load_table(csv(text), parse=refuse_nonsense)
    assert "\n" not in str(refused.value)


def test_refused_files_and_columns(tmp_path: Path, csv: Write) -> None:
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(InputError, match="does not exist"):
            load_table(path)
    path = csv("architecture,accuracy\n1,0.5\n")
    for wrong in ({"columns": ["acc"]}, {"columns": []}, {"architecture_column": "child"}):
        with pytest.raises(InputError):
            load_table(path, **wrong)
    (tmp_path / "binary.csv").write_bytes(b"\x80\x81\xff\x00")
    with pytest.raises(InputError, match="not a CSV"):
        load_table(tmp_path / "binary.csv")


def test_every_architecture_of_the_space_is_required() -> None:
    table = Table(["00", "01", "10"], np.array([[0.1], [0.2], [0.3]]))
    np.testing.assert_array_equal(table.truth(["10", "00"]), [0.3, 0.1])
    with pytest.raises(InputError, match="lacks 1 architectures of the space"):
        table.require(["00", "11"])
    with pytest.raises(InputError, match="lacks"):
        table.truth(["11"])


def test_a_table_cannot_be_changed() -> None:
    given = np.array([[0.1], [0.2]])
    table = Table(["a", "b"], given)
    given[:] = 5
    np.testing.assert_array_equal(table.mean, [0.1, 0.2])
    with pytest.raises(ValueError, match="read-only"):
        table.replicas[0] = 1


def test_written_tables_read_back_exactly_and_appear_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = Table(["000", "001"], np.array([[1 / 3, 0.1], [2 / 3, 1.0]]))
    path = tmp_path / "new" / "table.csv"
    write_table(path, table)
    back = load_table(path)
    assert back.architectures == table.architectures
    np.testing.assert_array_equal(back.replicas, table.replicas)

    def full_disk(*args: object, **kwargs: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(tables.pd.DataFrame, "to_csv", full_disk)
    before = path.read_bytes()
    with pytest.raises(OSError, match="no space"):
        write_table(path, table)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_shipped_tables_are_found_by_space_and_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert shipped_table("no_such_space", "digits") is None
    (tmp_path / "tiny64_digits.csv").touch()
    monkeypatch.setattr(tables, "SHIPPED", tmp_path)
    assert shipped_table("tiny64", "digits") == tmp_path / "tiny64_digits.csv"


@pytest.mark.skipif("NASTRICKS_DATA" not in os.environ, reason="NASTRICKS_DATA does not name the folder of shared data")
def test_shared_tables_are_read() -> None:
    folder = Path(os.environ["NASTRICKS_DATA"]) / "tables"
    macro = load_table(folder / "nas_bench_macro.csv")
    assert macro.replicas.shape == (6561, 3)
    assert macro.architectures[0] == "00000000"
    assert macro.replicas[0, 0] == pytest.approx(0.4532)
    children = load_table(folder / "weight_sharing_64_cifar10.csv")
    assert children.replicas.shape == (64, 1)
    assert children.truth(["111", "434"]).tolist() == [0.70139, 0.85161]
