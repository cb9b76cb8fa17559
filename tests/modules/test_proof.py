"""`nastricks check` calls a trick that changes nothing dead, however it pretends."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from nastricks.commands.check import built, check, score_child
from nastricks.data import Batch
from nastricks.errors import InputError
from nastricks.modules import TrainingModule, Trick
from nastricks.modules.proof import (
    Observation,
    dense_gates,
    measure,
    order_of_tricks,
    prove,
    relative_difference,
    step_to_try,
)
from nastricks.modules.trick import Change, Compute
from nastricks.moment import Moment
from nastricks.recipe import resolve
from nastricks.run import Run
from nastricks.spaces import Gate, Tiny64

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
]


class Unread(Trick):
    """A flag that nobody reads."""

    changes: ClassVar[Change] = "gradients"

    def __init__(self, strength: float = 1.0) -> None:
        super().__init__()
        self.strength = strength


class Boaster(Trick):
    """Counts acts and changes nothing."""

    changes: ClassVar[Change] = "batch"

    def on_batch(self, batch: Batch, at: Moment) -> Batch:
        self.act()
        return batch


class Rebound(Trick):
    """Scales the gradients, but rebinds a local name."""

    changes: ClassVar[Change] = "gradients"

    def around_gradients(self, compute: Compute, module: TrainingModule, at: Moment) -> Compute:
        def scaled() -> Tensor:
            loss = compute()
            for p in module.networks.parameters():
                gradient = p.grad
                if gradient is not None:
                    gradient = gradient * 2
            self.act()
            return loss

        return scaled


class Late(Trick):
    """Acts from step 3 on, and says 0."""

    changes: ClassVar[Change] = "loss"

    def on_loss(self, loss: Tensor, forward: Any, at: Moment) -> Tensor:
        if at.step < 3:
            return loss
        self.act()
        return loss * 1.1


class Mask(Trick):
    """Takes an option away."""

    changes: ClassVar[Change] = "options"

    def on_batch(self, batch: Batch, at: Moment) -> Batch:
        self.policy.restrict("layer1", (0, 1))
        self.act()
        return batch

    def refusal(self, module: TrainingModule) -> str | None:
        self.policy = module.policy
        return None


class Decay(Trick):
    """Shrinks the weights."""

    changes: ClassVar[Change] = "weights"

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        with torch.no_grad():
            for p in pl_module.networks.parameters():
                p.mul_(0.9)
        self.act()


class Probe(Trick):
    """Looks at the network in eval mode before each pass, and changes nothing."""

    changes: ClassVar[Change] = "gates"

    def refusal(self, module: TrainingModule) -> str | None:
        self.module = module
        return None

    def on_gates(self, gates: Any, at: Moment) -> Any:
        self.module.networks.eval()
        step = self.module.current
        assert step is not None
        self.module.criterion(self.module.logits(step.train.images + 1, self.module.space.gates((0, 0, 0))), step.train)
        self.module.networks.train()
        self.act()
        return gates


def builder(make: Callable[..., Run], trick: type[Trick]) -> Callable[[str | None], Run]:
    def build(without: str | None) -> Run:
        run = make("spos")
        if without is None:
            made = trick()
            made.name = "tested"  # type: ignore[misc]
            run.tricks.append(made)
            run.trainer.callbacks.append(made)  # type: ignore[attr-defined]
        return run

    return build


@pytest.mark.parametrize("trick", [Unread, Boaster, Rebound, Probe])
def test_a_trick_that_changes_nothing_is_dead(trick: type[Trick], make: Callable[..., Run]) -> None:
    proof = prove("tested", builder(make, trick), score_child, attempts=2)
    assert not proof.alive
    assert proof.measured.size == 0
    assert (proof.first, proof.step) == (0, 1)


@pytest.mark.parametrize(("trick", "size"), [(Mask, 2.0), (Decay, 0.1)])
def test_what_is_declared_is_what_is_measured(trick: type[Trick], size: float, make: Callable[..., Run]) -> None:
    proof = prove("tested", builder(make, trick), score_child)
    assert proof.alive
    assert proof.measured.size == pytest.approx(size, rel=0.5)


def test_gates_are_seen_beside_an_auxiliary_head() -> None:
    stack = ["spaces/darts.yaml", "data/digits.yaml", "child/darts.yaml"]
    small = ["--trainer.accelerator", "cpu", "--trainer.max_epochs", "1", "--data.init_args.batch_size", "8"]
    small += ["--data.init_args.train_size", "16", "--space.init_args.auxiliary_head", "true"]
    config = resolve(stack, [*small, "--tricks.drop_path.probability", "0.5"])
    proof = prove("drop_path", lambda without: built(config, without), score_child)
    assert proof.alive


def test_a_few_steps_are_tried(make: Callable[..., Run]) -> None:
    proof = prove("tested", builder(make, Late), score_child)
    assert proof.alive
    assert (proof.first, proof.step) == (0, 3)
    assert proof.measured.size == pytest.approx(0.1, rel=1e-3)


def test_steps_tried_lie_within_the_run() -> None:
    assert [step_to_try(0, attempt, 8) for attempt in range(4)] == [0, 1, 2, 3]
    assert [step_to_try(7, attempt, 8) for attempt in range(4)] == [7, 6, 5, 4]
    assert [step_to_try(6, attempt, 8) for attempt in range(4)] == [6, 7, 5, 4]
    assert [step_to_try(0, attempt, 2) for attempt in range(4)] == [0, 1, 0, 0]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("sgdr", {"t_0": 2}), ("ghost_batch_norm", {"size": 32}), ("drop_path", {"probability": 0.0})],
)
def test_settings_that_change_nothing_are_dead(name: str, arguments: dict[str, Any], make: Callable[..., Run]) -> None:
    def build(without: str | None) -> Run:
        return make("spos", {} if without else {name: arguments})

    assert not prove(name, build, score_child, attempts=8).alive


STACK = [f"recipes/{name}.yaml" for name in ("spaces/tiny64", "data/digits", "algorithms/darts")]
SMALL = ["--data.init_args.train_size", "128", "--trainer.accelerator", "cpu"]


def run_check(tricks: list[str], overrides: list[str], out: Path | None = None) -> int:
    files = STACK + [f"recipes/tricks/{name}.yaml" for name in tricks]
    return check(argparse.Namespace(config=files, overrides=[*SMALL, *overrides], out=out))


def test_the_command_finds_all_alive(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_check(["mixup", "cutout", "bn_calibration", "weight_warmup"], [], tmp_path) == 0
    written = json.loads((tmp_path / "check.json").read_text())
    assert [t["alive"] for t in written["tricks"]] == [True] * 4
    assert written["order"]["on_batch"] == ["cutout", "mixup"]
    out = capsys.readouterr().out
    assert "on_batch: cutout -> mixup" in out
    assert "DEAD" not in out


def test_the_command_finds_a_dead_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_check(["sam", "mixup"], ["--tricks.sam.rho", "0"]) == 1
    shown = capsys.readouterr()
    assert "DEAD" in shown.out
    assert "trick sam changes nothing here" in shown.err


def test_no_trick_is_refused() -> None:
    with pytest.raises(InputError, match="no trick to check"):
        run_check([], [])


def test_an_unknown_trick_is_refused() -> None:
    with pytest.raises(InputError, match="did you mean 'sam'"):
        run_check([], ["--tricks.samm.rho", "1"])


def test_measures_by_hand() -> None:
    a, b = torch.tensor([3.0, 4.0]), torch.tensor([3.0, 5.0])
    assert relative_difference(b, a) == pytest.approx(0.2)
    assert relative_difference(a, a) == 0
    assert relative_difference(a, a[:1]) == float("inf")
    on, off = (
        Observation(rates=[0.2], images=[a], targets=[a], loss=3.0),
        Observation(rates=[0.1], images=[b], targets=[a], loss=2.0),
    )
    assert measure("learning rate", on, off).words == "learning rate 0.1 -> 0.2"
    assert measure("batch", on, off).size == 1
    assert measure("loss", on, off).size == pytest.approx(0.5)
    narrow, whole = Observation(weights=torch.zeros(250)), Observation(weights=torch.zeros(1000))
    assert measure("network", narrow, whole).size == 0.75
    assert measure("network", narrow, whole).words == "network of 1,000 weights -> 250"
    on, off = Observation(policy_gradients=b), Observation(policy_gradients=a)
    assert measure("policy gradient", on, off).words == "gradient of the policy by 20 %"


def test_dense_gates_show_weights_and_bypass() -> None:
    space = Tiny64()
    gates = {
        "layer1": Gate((1,)),
        "layer2": Gate((0, 2), torch.tensor([0.25, 0.75])),
        "layer3": Gate((3,), torch.tensor([[1.0, 0.0]]), torch.tensor([0.0, 1.0])),
    }
    table = dense_gates(space, gates, 2).view(3, 5, 2)
    assert table[0].tolist() == [[0, 0], [1, 1], [0, 0], [0, 0], [0, 0]]
    assert table[1, 0].tolist() == [0.25, 0.25]
    assert table[2].tolist() == [[0, 0], [0, 0], [0, 0], [1, 0], [0, 1]]


def test_order_lists_points_that_are_used() -> None:
    assert order_of_tricks([Boaster(), Rebound()]) == {"on_batch": ["test_proof"], "around_gradients": ["test_proof"]}
