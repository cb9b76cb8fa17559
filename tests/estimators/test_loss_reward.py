"""What paths earn by their training loss, in whole runs too: it is remembered, and resumed to the last bit."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor

from nastricks.errors import InputError
from nastricks.estimators import LossReward
from nastricks.modules import SupernetModule, TrainingModule
from nastricks.modules.proof import Observer
from nastricks.modules.training import TrainingStep
from nastricks.policies import MonteCarloTree, Prioritised, Softmax
from nastricks.ranking.rank import trained_supernet
from nastricks.recipe import resolve
from nastricks.run import Run, build
from nastricks.spaces import Architecture, Tiny64
from proofs.small_runs import INTERRUPTIONS, SMALL, difference_after_resuming

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
]

SPACE = Tiny64(channels=4)
POLICIES = ("MonteCarloTree", "Prioritised")
BEST_RANKED = {"model.init_args.derivation": "nastricks.derivations.BestRanked"}


def step(outcomes: Sequence[tuple[Architecture | None, float]], factor: float = 1.0) -> Any:
    """A step that ran this; the mean over ranks is `factor` times what this rank saw."""
    return SimpleNamespace(
        outcomes=lambda: [(a, torch.tensor(loss)) for a, loss in outcomes],
        average=lambda tensors: [factor * t for t in tensors],
    )


def test_a_path_earns_the_average_loss_over_its_own() -> None:
    policy = MonteCarloTree(SPACE)
    estimator = LossReward(policy, decay=0.5)
    estimator.update(step([((0, 1, 2), 2.0)]))
    assert policy.nodes[0, 1, 2] == (1, 1.0)
    estimator.update(step([((3, 3, 3), 1.0), (None, 7.0), ((0, 0, 0), 4.0)]))
    assert policy.nodes[3,] == (1, pytest.approx(1.5 / 1.0))
    assert policy.nodes[0, 0, 0] == (1, pytest.approx((0.5 * 1.5 + 0.5 * 4.0) / 4.0))
    assert policy.nodes[()][0] == 3  # several options at once taught nothing
    assert estimator.average == pytest.approx(2.75)


def test_ranks_agree_on_the_mean_of_their_losses() -> None:
    policy = Prioritised(SPACE, decay=0.0)
    estimator = LossReward(policy, decay=0.0)
    estimator.update(step([((0, 1, 2), 2.0)], factor=1.5))
    assert estimator.average == pytest.approx(3.0)


@pytest.mark.parametrize("loss", [0.0, float("nan"), float("inf")])
def test_losses_that_cannot_be_divided_by_are_refused(loss: float) -> None:
    with pytest.raises(InputError, match=f"the training loss of a path is {loss}.*lower the learning rate"):
        LossReward(Prioritised(SPACE)).update(step([((0, 1, 2), loss)]))


def test_bad_settings_are_refused() -> None:
    with pytest.raises(InputError, match="Softmax remembers none of it: take Prioritised or MonteCarloTree"):
        LossReward(Softmax(SPACE))
    with pytest.raises(InputError, match=r"estimator.decay is 1.0: expected a number in \[0, 1\)"):
        LossReward(Prioritised(SPACE), decay=1.0)


def run(more: Any, out: Path | None, policy: str = "MonteCarloTree", *files: str) -> Run:
    stack = ["spaces/tiny64", "data/digits", "algorithms/mct_sampling", *files]
    keys = {**SMALL, "model.init_args.policy": f"nastricks.policies.{policy}", **more}
    if policy != "MonteCarloTree":
        keys |= BEST_RANKED
    return build(
        resolve([f"recipes/{name}.yaml" for name in stack], [f"--{key}={value}" for key, value in keys.items()]),
        out,
        quiet=True,
    )


class Losses(pl.Callback):
    """What every step ran, with its loss."""

    def __init__(self) -> None:
        self.seen: list[list[tuple[Architecture | None, Tensor]]] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, TrainingModule)
        update = pl_module._update_weights

        def noted(step: TrainingStep, joined: bool) -> Any:
            result = update(step, joined)
            self.seen.append(list(step.outcomes()))
            return result

        pl_module._update_weights = noted  # type: ignore[method-assign]


@pytest.mark.parametrize("policy", POLICIES)
def test_it_learns_after_its_warm_up_from_the_losses_of_the_steps(policy: str) -> None:
    made, losses = run({}, None, policy), Losses()
    made.trainer.callbacks.append(losses)  # type: ignore[attr-defined]
    before = {key: tensor.clone() for key, tensor in made.module.policy.memory().items()}
    made.fit()
    assert len(losses.seen) == 8
    estimator = made.module.estimator
    assert isinstance(estimator, LossReward)
    average: float | None = None
    other = LossReward(MonteCarloTree(made.module.space) if policy == "MonteCarloTree" else Prioritised(SPACE))
    for seen in losses.seen[4:]:  # the first half is warm-up
        ((architecture, loss),) = seen
        average = float(loss) if average is None else 0.9 * average + 0.1 * float(loss)
        assert architecture is not None
        other.policy.observe(architecture, average / float(loss))
    assert estimator.average == average
    for key, tensor in made.module.policy.memory().items():
        assert torch.equal(tensor, other.policy.memory()[key])
        assert not torch.equal(tensor, before[key])
    assert made.trainer.global_step == 8


@pytest.mark.parametrize("files", [(), ("tricks/sam",), ("tricks/drop_path",)])
def test_second_passes_and_micro_batches_teach_once(files: tuple[str, ...]) -> None:
    made = run({"model.init_args.micro_batches": 2, "tricks.weight_warmup": "null"}, None, "MonteCarloTree", *files)
    losses = Losses()
    made.trainer.callbacks.append(losses)  # type: ignore[attr-defined]
    made.fit()
    assert [len(seen) for seen in losses.seen] == [1] * 8
    policy = made.module.policy
    assert isinstance(policy, MonteCarloTree)
    assert policy.nodes[()][0] == 8


def test_what_is_noted_is_the_mean_loss_of_each_set_of_gates() -> None:
    means: dict[int, list[float]] = {}
    for parts in (1, 2):
        keys = {"model.init_args.micro_batches": parts, "trainer.max_steps": 1}
        files = ["spaces/tiny64", "data/digits", "algorithms/fairnas"]
        overrides = [f"--{key}={value}" for key, value in {**SMALL, **keys}.items()]
        made, losses = build(resolve([f"recipes/{n}.yaml" for n in files], overrides), None, quiet=True), Losses()
        made.trainer.callbacks.append(losses)  # type: ignore[attr-defined]
        observer = Observer(made.data, None, 0, 0, None)
        made.trainer.callbacks.append(observer)  # type: ignore[attr-defined]
        made.fit()
        (seen,) = losses.seen
        assert len({a for a, _ in seen}) == 4
        means[parts] = [float(loss) for _, loss in seen]
        assert sum(means[parts]) / 4 == pytest.approx(observer.seen.loss, rel=1e-5)
    assert means[2] == pytest.approx(means[1], rel=0.2)  # batch norm sees a part at a time


def test_a_warmed_up_step_teaches_nothing() -> None:
    keys = {"tricks.weight_warmup": "null", "tricks.op_warmup.fraction": 0.5, "trainer.max_steps": 1}
    made = run(keys, None, "MonteCarloTree", "tricks/op_warmup")
    made.fit()
    policy = made.module.policy
    assert isinstance(policy, MonteCarloTree)
    assert policy.nodes == {}


@pytest.mark.parametrize("policy", POLICIES)
def test_resumes_exactly(policy: str, tmp_path: Path) -> None:
    keys = {"tricks.weight_warmup.fraction": 0.25}

    def make(more: Any, out: Path) -> Run:
        return run({**keys, **more}, out, policy)

    make({}, tmp_path / "straight").fit()
    for when in INTERRUPTIONS:
        difference = difference_after_resuming(make, tmp_path / "straight", tmp_path / when, when)
        assert difference is None, f"resumed from the {when} of an epoch: {difference}"


def test_an_optimizer_without_parameters_is_refused_and_parameters_without_one() -> None:
    adam = {"model.init_args.policy_optimizer": "{class_path: torch.optim.Adam, init_args: {lr: 0.1}}"}
    with pytest.raises(InputError, match="policy_optimizer is set and MonteCarloTree has no parameters: set it to"):
        run(adam, None)
    files = [f"recipes/{name}.yaml" for name in ("spaces/tiny64", "data/digits", "algorithms/darts")]
    with pytest.raises(InputError, match=r"estimator is set and model.policy_optimizer is not"):
        build(resolve(files, ["--model.init_args.policy_optimizer=null"]), None, quiet=True)


def test_a_stage_takes_the_tree_of_an_earlier_one(tmp_path: Path) -> None:
    first = run({"tricks.weight_warmup": "null"}, tmp_path / "first")
    first.fit()
    second = run({"model.init_args.policy_weights": tmp_path / "first"}, None)
    tree = second.module.policy
    assert isinstance(tree, MonteCarloTree)
    assert tree.nodes[()][0] == 8


def test_what_the_tree_leads_to_is_derived_from_the_supernet() -> None:
    made = run({"tricks.weight_warmup": "null", "model.init_args.derivation.init_args.samples": 3}, None)
    made.fit()
    module = made.module
    assert isinstance(module, SupernetModule)
    tree = {key: tensor.clone() for key, tensor in module.policy.memory().items()}
    found = module.derivation.derive(trained_supernet(module, made.data, dict))
    assert module.space.check(found)
    assert all(torch.equal(tensor, tree[key]) for key, tensor in module.policy.memory().items())
