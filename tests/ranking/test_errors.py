"""The errors of weight sharing, each against another way to compute it, and the command that tells them."""

import itertools
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nastricks.cli import main
from nastricks.commands.errors import _children
from nastricks.errors import InputError
from nastricks.modules import SupernetModule
from nastricks.modules.teacher import teacher_gates
from nastricks.ranking.errors import Errors, errors_of
from nastricks.ranking.evaluate import score_children
from nastricks.ranking.gradient_error import compared, gradient_error
from nastricks.ranking.tables import Table, load_table
from nastricks.recipe import resolve
from nastricks.run import Run, build, load_run
from nastricks.table_files import locate_table

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
]


def loaded(folder: Path) -> tuple[Run, SupernetModule]:
    run = load_run(folder)
    assert isinstance(run.module, SupernetModule)
    return run, run.module


@pytest.fixture(scope="module")
def searched(make: Callable[..., Run], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small DARTS run."""
    folder = tmp_path_factory.mktemp("searched") / "run"
    make("darts", out=folder).fit()
    return folder


def table_of(name: str) -> Table:
    return load_table(locate_table(name))


def tau(one: Sequence[float], other: Sequence[float]) -> float:
    """Kendall's, pair by pair."""
    pairs = list(itertools.combinations(range(len(one)), 2))
    signs = [np.sign(one[i] - one[j]) * np.sign(other[i] - other[j]) for i, j in pairs]
    return float(np.sum(signs)) / len(pairs)


# Gradients.


def test_gradients_are_compared_by_direction_and_length() -> None:
    one = torch.tensor([3.0, 4.0])
    assert compared(one, 2 * one) == pytest.approx((1.0, 0.5))
    assert compared(one, torch.tensor([-4.0, 3.0])) == pytest.approx((0.0, 1.0))
    assert compared(one, -one) == pytest.approx((-1.0, 1.0))
    assert math.isnan(compared(one, torch.zeros(2)).cosine)


def test_a_virtual_step_of_no_length_is_first_order(make: Callable[..., Run], tmp_path: Path) -> None:
    make("darts", changes={"model.init_args.optimizer.init_args.lr": 1e-9}, out=tmp_path).fit()
    run, module = loaded(tmp_path)
    found = gradient_error(module, run.data, batches=2)
    assert found.second_order == pytest.approx((1.0, 1.0), abs=1e-5)
    assert found.batches == 2


def test_gradients_differ_at_a_real_rate_and_nothing_is_left_behind(searched: Path) -> None:
    run, module = loaded(searched)
    before = {name: value.clone() for name, value in module.networks.state_dict().items()}
    found = gradient_error(module, run.data, batches=4)
    assert all(torch.equal(before[name], value) for name, value in module.networks.state_dict().items())
    assert all(p.grad is None for p in module.policy.parameters())
    for pair in (found.second_order, found.implicit, found.halves):
        assert -1 <= pair.cosine <= 1 + 1e-9
        assert pair.length > 0
    assert found.second_order.cosine < 1 - 1e-6
    assert found.implicit != found.second_order
    assert gradient_error(module, run.data, batches=4) == found


def test_the_first_order_gradient_is_that_of_autograd(searched: Path) -> None:
    """`halves` compares the means of two halves: here of one batch each, taken by hand."""
    run, module = loaded(searched)
    network: Any = module.networks[0]
    slopes = []
    for number in range(2):
        batch = run.data.batch("search", module.steps_seen + number)
        with module.frozen_statistics():
            logits = network.train()(batch.images, module.policy.propose(module.moment("policy"))[0])
        loss = torch.nn.functional.cross_entropy(logits, batch.labels)
        slopes.append(torch.cat(torch.autograd.grad(loss, list(module.policy.parameters()))).double())
    assert gradient_error(module, run.data, batches=2).halves == pytest.approx(compared(*slopes), rel=1e-4)


def test_gates_without_weights_have_no_gradient(make: Callable[..., Run]) -> None:
    run = make("spos")
    assert isinstance(run.module, SupernetModule)
    with pytest.raises(InputError, match="the gates of UniformPath have no gradient"):
        gradient_error(run.module, run.data)


# The others.


@pytest.fixture(scope="module")
def found(searched: Path) -> Errors:
    run, module = loaded(searched)
    children = [child for number, child in enumerate(module.space.architectures()) if number % 4 == 0]
    tables = table_of("tiny64_digits"), table_of("tiny64_digits_6_epochs")
    return errors_of(module, run.data, (1, 2, 3), children, *tables, batches=2)


def test_shared_weights_are_judged_against_the_same_children_alone(searched: Path, found: Errors) -> None:
    run, module = loaded(searched)
    network: Any = module.networks[0]
    children = [child for number, child in enumerate(module.space.architectures()) if number % 4 == 0]
    truth = table_of("tiny64_digits")
    names = [module.space.format(child) for child in children]
    for shared, batches in ((found.calibrated, run.data.calibration_batches(10)), (found.uncalibrated, [])):
        assert shared is not None
        accuracies = []
        for child in [*children, (1, 2, 3)]:  # one at a time
            scores = score_children(module.space, network, [child], run.data.evaluation_batches("test"), batches)
            accuracies.append(scores[child].accuracy)
        gaps = np.array(accuracies[:-1]) - truth.truth(names)
        assert shared.mean == pytest.approx(gaps.mean(), abs=1e-6)
        assert shared.derived == pytest.approx(accuracies[-1] - truth.truth(["234"])[0], abs=1e-6)
        assert shared.tau == pytest.approx(tau(accuracies[:-1], list(truth.truth(names))), abs=0.02)
    assert found.children == 16


def test_the_chain_from_supernet_to_child_adds_up(found: Errors) -> None:
    assert found.calibrated is not None
    assert found.alone is not None
    assert found.supernet - found.discretisation - found.calibrated.derived == pytest.approx(found.alone, abs=1e-6)
    assert found.best == table_of("tiny64_digits").mean.max()


def test_deployment_is_the_agreement_of_two_tables(searched: Path, found: Errors) -> None:
    search, final = table_of("tiny64_digits"), table_of("tiny64_digits_6_epochs")
    both = list(search.truth(search.architectures)), list(final.truth(search.architectures))
    assert found.final_tau == pytest.approx(tau(*both), abs=1e-9)
    assert found.common == 64
    assert found.final_alone == final.truth(["234"])[0]
    assert found.final_best == final.mean.max()


def test_without_tables_only_what_needs_none_is_known(searched: Path) -> None:
    run, module = loaded(searched)
    found = errors_of(module, run.data, (1, 2, 3), [], None, None, batches=2)
    assert (found.calibrated, found.uncalibrated, found.alone, found.final_tau) == (None, None, None, None)
    assert found.discretisation == found.supernet - found.path
    assert found.gradient is not None
    assert json.loads(json.dumps(found.as_dict()))["shared_weights"] == {"calibrated": None, "uncalibrated": None}


def test_tables_without_a_common_architecture_are_refused(searched: Path) -> None:
    run, module = loaded(searched)
    other = Table(["a", "b"], np.array([[0.1], [0.2]]), "the table 'other'")
    with pytest.raises(InputError, match="share 0 architectures"):
        errors_of(module, run.data, (0, 0, 0), [(0, 0, 0), (1, 1, 1)], table_of("tiny64_digits"), other, batches=2)


# The command.


def test_the_command_prints_a_table_and_writes_json(searched: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = ["errors", str(searched), "--children", "8", "--final-table", "tiny64_digits_6_epochs"]
    assert main(told) == 0
    printed = capsys.readouterr().out
    for word in ("gradient of alpha", "shared weights", "discretisation", "deployment", "errors.json"):
        assert word in printed
    written = json.loads((searched / "errors.json").read_text())
    assert written["children"] == 8
    assert written["derived"] == json.loads(json.dumps(written["derived"]))
    assert written["gradient"]["batches"] == 10
    assert -1 <= written["final_tau"] <= 1


def test_the_command_says_what_is_unknown(
    make: Callable[..., Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make("spos", out=tmp_path).fit()
    assert main(["errors", str(tmp_path), "--children", "8"]) == 0
    printed = capsys.readouterr().out
    assert "have no gradient" in printed
    assert "deployment is unknown" in printed


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [(["--table", "nowhere.csv"], "nowhere.csv"), (["--children", "1"], "--children is '1'")],
)
def test_bad_arguments_are_one_sentence(
    arguments: list[str], sentence: str, searched: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["errors", str(searched), *arguments]) == 2
    assert sentence in capsys.readouterr().err


def test_a_child_is_refused(make: Callable[..., Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make("child", out=tmp_path).fit()
    assert main(["errors", str(tmp_path)]) == 2
    assert "its weights are shared with nobody" in capsys.readouterr().err


def test_children_of_a_search_without_none_are_found() -> None:
    """In S2 the supernet does not hold `none`, by which every child leaves edges out all the same."""
    stack = ["recipes/spaces/darts_s2.yaml", "recipes/data/digits.yaml", "recipes/algorithms/published/darts.yaml"]
    small = ["--space.init_args.channels=4", "--space.init_args.cells=3"]
    module = build(resolve(stack, small), None, quiet=True).module
    assert isinstance(module, SupernetModule)
    assert len(_children(module, "5")) == 5
    name = module.space.format(_children(module, "2")[0])
    gates = teacher_gates(module, name, "earlier")  # a teacher's architecture is held as well
    assert sum(gate.active == (0,) for gate in gates.values()) == 28 - 16
