"""Fine-tuning before ranking: the shared weights at zero, a plain loop after some batches, and what is refused."""

import copy
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch.nn import functional as F

from nastricks.cli import main
from nastricks.errors import InputError
from nastricks.modules import Calibration
from nastricks.ranking.evaluate import score_children
from nastricks.ranking.fine_tuning import batches_of, draw_fine_tuning, fine_tune
from nastricks.ranking.rank import find_table, rank, scored
from nastricks.run import Run
from nastricks.spaces import Architecture

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
]

CHILDREN: list[Architecture] = [(0, 1, 2), (1, 1, 1), (3, 2, 0), (2, 0, 1)]


@pytest.fixture(scope="module")
def folder(make: Callable[..., Run], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("supernet") / "run"
    make("spos", {"bn_calibration": {"batches": 2}}, out=folder).fit()
    return folder


@pytest.fixture(scope="module")
def trained(make: Callable[..., Run]) -> Run:
    run = make("spos")
    run.fit()
    return run


def test_after_zero_batches_it_is_the_ranking_itself(trained: Run) -> None:
    before = copy.deepcopy(trained.module.state_dict())
    table = find_table(trained.module.space, trained.data, None)
    found = fine_tune(trained.module, trained.data, table, CHILDREN, [0, 2], calibration=Calibration(2))
    scores = scored(trained.module, trained.data, CHILDREN, Calibration(2))
    first = found.children[found.children["batches"] == 0]
    assert first["loss"].tolist() == pytest.approx([scores[a].loss for a in CHILDREN], rel=1e-5)
    judged = rank(trained.module, trained.data, table, architectures=CHILDREN, calibration=Calibration(2))
    assert found.metrics["gt_tau_after_0"] == pytest.approx(judged.metrics["gt_tau"])
    assert found.baseline == pytest.approx(judged.baselines["params"]["gt_tau"])
    assert found.ceiling == judged.ceiling
    after = trained.module.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before if isinstance(before[k], torch.Tensor))
    assert set(found.curve["batches"]) == {0, 2}


def test_some_batches_are_a_plain_loop(trained: Run) -> None:
    """SGD with the recipe's momentum and decay on the first training batches, on the child's path alone."""
    module, data, child = trained.module, trained.data, CHILDREN[0]
    found = fine_tune(module, data, None, [child], [3], rate=0.02)
    network = copy.deepcopy(module.networks[0]).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.02, momentum=0.9, nesterov=True, weight_decay=3e-4)
    for step in range(3):
        batch = data.batch("train", step)
        optimizer.zero_grad()
        F.cross_entropy(network(batch.images, module.space.gates(child)), batch.labels).backward()
        optimizer.step()
    scoring = data.evaluation_batches("validation")
    expected = score_children(module.space, network, [child], scoring)[child]  # type: ignore[arg-type]
    assert found.children["loss"].tolist() == pytest.approx([expected.loss], rel=1e-5)
    assert (found.baseline, found.ceiling, list(found.curve)) == (None, None, ["batches", "mean_accuracy", "mean_loss"])


def test_a_child_does_not_depend_on_those_before_it(trained: Run) -> None:
    alone = fine_tune(trained.module, trained.data, None, CHILDREN[2:3], [2]).children
    among = fine_tune(trained.module, trained.data, None, CHILDREN, [2]).children
    assert among["loss"].iloc[2] == alone["loss"].iloc[0]


def test_the_rate_is_a_tenth_of_the_recipe_s(trained: Run) -> None:
    one, other = (fine_tune(trained.module, trained.data, None, CHILDREN[:1], [2], rate=r) for r in (None, 0.01))
    assert one.children["loss"].tolist() == other.children["loss"].tolist()


def test_the_command_writes_a_curve_and_a_picture(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["rank", str(folder), "--children", "6", "--fine-tune", "0,1,3", "--out", str(tmp_path)]
    assert main(command) == 0
    told = capsys.readouterr().out
    curve = pd.read_csv(tmp_path / "fine_tuning.csv")
    assert curve["batches"].tolist() == [0, 1, 3]
    assert {"gt_tau", "gt_tau_by_loss", "mean_accuracy"} <= set(curve.columns)
    assert len(pd.read_csv(tmp_path / "fine_tuned_children.csv")) == 18
    assert f"after 3 batches of a child's own: gt_tau {curve['gt_tau'].iloc[-1]:.3f}" in told
    words = "".join(ET.fromstring((tmp_path / "fine_tuning.svg").read_text()).itertext())
    for part in ("by accuracy", "by loss", "counting parameters", "noise ceiling", "batches of fine-tuning"):
        assert part in words


def test_without_a_table_the_picture_is_of_the_mean(trained: Run) -> None:
    found = fine_tune(trained.module, trained.data, None, CHILDREN[:2], [0, 1])
    words = "".join(ET.fromstring(draw_fine_tuning(found, "t")).itertext())
    assert "mean over the children" in words
    assert "tau" not in words


def test_numbers_of_batches() -> None:
    assert batches_of("0, 1,5,10") == [0, 1, 5, 10]
    for text in ("", "0", "1,1", "5,1", "1,x", "-1,2", "1.5"):
        with pytest.raises(InputError, match="expected rising numbers of batches, such as 0,1,5,10"):
            batches_of(text)


def test_bad_input(folder: Path, trained: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--fine-tune-rate is 0: expected a number above 0"):
        fine_tune(trained.module, trained.data, None, CHILDREN, [1], rate=0.0)
    for more in (["--fine-tune", "ten"], ["--fine-tune-rate", "0.1"]):
        assert main(["rank", str(folder), *more, "--out", str(tmp_path / "out")]) == 2
    assert main(["rank", "--scores", "x.csv", "--fine-tune", "0,1"]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 3
    assert not (tmp_path / "out").exists()
