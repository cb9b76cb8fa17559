"""The auxiliary skip adds beta times the input, where there is an input to add and while something learns."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from nastricks.callbacks.auxiliary_skip import AuxiliarySkip, add_skip
from nastricks.errors import InputError
from nastricks.modules.proof import Observer
from nastricks.modules.step import TrainingStep
from nastricks.moment import Moment
from nastricks.recipe import resolve
from nastricks.run import Run, build
from nastricks.spaces import Gate, GatedOps, Gates

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
]

Make = Callable[..., Run]
Stand = Callable[[Run], TrainingStep]
START = Moment(role="weights", seed=0, step=0, steps_per_epoch=10, epochs=10, samples=8)


def trick(start: float = 1.0) -> AuxiliarySkip:
    made = AuxiliarySkip(start)
    made._choices = frozenset({"edge"})
    return made


def bypass(at: Moment, start: float = 1.0) -> float:
    found = trick(start).on_gates({"edge": Gate((0,))}, at)["edge"].bypass
    return 0.0 if found is None else float(found)


@pytest.mark.parametrize("role", ["weights", "policy", "attack"])
def test_beta_falls_to_zero_along_a_line(role: Any) -> None:
    at = START.at(role=role)
    assert [bypass(at.at(step=step)) for step in (0, 25, 50, 100)] == [1.0, 0.75, 0.5, 0.0]
    assert bypass(at.at(step=50), start=0.4) == pytest.approx(0.2)


def test_nothing_is_added_where_the_network_is_evaluated() -> None:
    gates, made = {"edge": Gate((0,))}, trick()
    assert made.on_gates(gates, START.at(role="evaluation")) is gates
    assert made.on_gates(gates, START.at(step=100)) is gates
    assert made.acts == 0


def test_a_bypass_that_is_there_is_added_to() -> None:
    gates: Gates = {"edge": Gate((0, 1), torch.tensor([0.3, 0.7]), torch.tensor([0.0, 0.5])), "other": Gate((0,))}
    found = add_skip(gates, {"edge"}, torch.tensor(0.25))
    assert found["edge"].bypass is not None
    assert found["edge"].bypass.tolist() == [0.25, 0.75]
    assert found["edge"].weights is gates["edge"].weights
    assert found["other"] is gates["other"]


def standing(space: str, stand: Stand, *overrides: str) -> TrainingStep:
    small = ["--trainer.accelerator", "cpu", "--data.init_args.batch_size", "8", "--trainer.max_epochs", "2"]
    stack = [f"spaces/{space}.yaml", "data/digits.yaml", "algorithms/darts.yaml", "tricks/auxiliary_skip.yaml"]
    return stand(build(resolve(stack, [*small, *overrides]), None, quiet=True))


@pytest.mark.parametrize("space", ["tiny64", "weight_sharing_64", "nasnet", "nasbench201"])
def test_only_operations_pass_their_input(space: str, stand: Stand) -> None:
    """The inputs of NASNet's blocks and the way in which a block joins its sides have none of their own."""
    step = standing(space, stand)
    module = step.module
    (proposed,) = step.propose()
    gates = module.points.gates(proposed, step.moment)
    operations = {c.name for c in module.space.choices if space != "nasnet" or "_op" in c.name}
    assert {name for name, gate in gates.items() if gate.bypass is not None} == operations
    assert float(gates[next(iter(operations))].bypass) == 1.0  # type: ignore[arg-type]
    assert bool(module.logits(step.train.images, gates).isfinite().all())


@pytest.mark.parametrize("space", ["nasnet", "darts"])
def test_every_operation_is_its_sum_plus_beta_times_the_input(space: str, stand: Stand) -> None:
    """At both strides: at stride 2 the input is its 2x2 mean."""
    small = ["--space.init_args.channels", "4", *(["--space.init_args.cells", "3"] if space == "darts" else [])]
    step = standing(space, stand, "--tricks.auxiliary_skip.start", "0.5", *small)
    module, strides = step.module, set()
    module.double()
    (proposed,) = step.propose()
    gates = module.points.gates(proposed, step.moment)
    seen: list[tuple[GatedOps, Tensor, Tensor]] = []
    for ops in (m for m in module.networks.modules() if isinstance(m, GatedOps)):
        ops.register_forward_hook(lambda ops, inputs, output: seen.append((ops, inputs[0], output)))
    with module.frozen_statistics(), torch.no_grad():
        module.logits(step.train.images.double(), gates)
        for ops, x, output in list(seen):
            gate = proposed[ops.choice_name]
            expected = ops._sum(x, gate) + 0.5 * (x if ops.stride == 1 else F.avg_pool2d(x, 2, ceil_mode=True))
            torch.testing.assert_close(output, expected, rtol=1e-10, atol=1e-10)
            strides.add(ops.stride)
    assert strides == {1, 2}


def test_alpha_and_weights_both_see_it(make: Make) -> None:
    run = make("darts", {"auxiliary_skip": {"start": 1.0}})
    observer = Observer(run.data, None, 2, 0, None)  # of 8 steps
    run.trainer.callbacks.append(observer)  # type: ignore[attr-defined]
    run.fit()
    assert len(observer.seen.gates) == 2
    for gates in observer.seen.gates:
        assert torch.equal(gates.view(3, 5, 32)[:, 4], torch.full((3, 32), 0.75, dtype=torch.float64))


@pytest.mark.parametrize("start", [-0.1, float("inf"), float("nan")])
def test_bad_starts_are_refused(start: float) -> None:
    with pytest.raises(InputError, match=r"auxiliary_skip.start is .*: expected at least 0"):
        AuxiliarySkip(start)
