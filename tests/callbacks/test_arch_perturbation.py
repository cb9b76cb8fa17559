"""Random and adversarial shifts of the gates against hand-made losses and a transcript of SDARTS."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from jsonargparse import Namespace
from torch import Tensor
from torch.nn import functional as F

from nastricks.callbacks.arch_perturbation import ArchPerturbation, rescaled, worst_point
from nastricks.commands.check import built, score_child
from nastricks.errors import InputError
from nastricks.estimators import SingleLevel
from nastricks.modules.normalisation import batch_norms, statistics
from nastricks.modules.proof import Observer, prove
from nastricks.modules.run_folder import LAST
from nastricks.modules.step import TrainingStep
from nastricks.moment import Moment
from nastricks.recipe import resolve
from nastricks.run import Run, build
from nastricks.spaces import Gate, Gates

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
]

Make = Callable[..., Run]
Stand = Callable[[Run], TrainingStep]

END = Moment(role="weights", seed=0, step=100, steps_per_epoch=10, epochs=10, samples=8)
CENTRE = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
SLOPES = torch.tensor([1.0, -2.0, 3.0, 0.0], dtype=torch.float64)
ADVERSARIAL = {"kind": "adversarial", "epsilon": 0.3, "epsilon_start": 0.1}
DOUBLE = {"trainer.precision": "64-true"}


def same(point: Tensor) -> Tensor:
    return point


def many(count: int = 500) -> Gates:
    return {f"choice{i}": Gate((0, 1, 2, 3), CENTRE) for i in range(count)}


def shifts(trick: ArchPerturbation, at: Moment, gates: Gates) -> Tensor:
    moved = trick.on_gates(gates, at)
    return torch.stack([m.weights - g.weights for m, g in zip(moved.values(), gates.values(), strict=True)])  # type: ignore[operator]


# The search for the worst point.


def test_a_linear_loss_is_worst_in_a_corner() -> None:
    """Seven steps of 2 epsilon / 7 cross the box from wherever they start; a flat direction stays where it started."""
    start = CENTRE + torch.tensor([-0.3, 0.3, 0.1, 0.2], dtype=torch.float64)
    found = worst_point(lambda x: x @ SLOPES, lambda x: SLOPES, CENTRE, start, 0.3, 7, same)
    torch.testing.assert_close(found, CENTRE + torch.tensor([0.3, -0.3, 0.3, 0.2], dtype=torch.float64))


def test_where_the_loss_did_not_rise_the_centre_is_kept() -> None:
    def hill(x: Tensor) -> Tensor:
        return -(x - CENTRE).square().sum()

    found = worst_point(hill, lambda x: -2 * (x - CENTRE), CENTRE, CENTRE + 0.1, 0.3, 7, same)
    assert torch.equal(found, CENTRE)


def test_the_worst_point_stays_in_the_box() -> None:
    points: list[Tensor] = []

    def gradient(x: Tensor) -> Tensor:
        points.append(x)
        return torch.sin(37 * x)

    found = worst_point(lambda x: (x - 5).square().sum(), gradient, CENTRE, CENTRE, 0.05, 20, same)
    assert len(points) == 20
    assert all(float((x - CENTRE).abs().max()) <= 0.05 + 1e-12 for x in [*points, found])


def test_rescaled_gates_are_not_negative_and_keep_their_sums() -> None:
    centre = torch.tensor([0.25, 0.75, 0.2, 0.3])
    point = torch.tensor([-0.1, 1.5, 0.4, 0.1])
    torch.testing.assert_close(rescaled(point, centre, [2, 2]), torch.tensor([0.0, 1.0, 0.4, 0.1]))
    torch.testing.assert_close(rescaled(centre, centre, [2, 2]), centre)
    nothing_left = torch.tensor([-0.2, -0.1, 0.2, 0.3])
    torch.testing.assert_close(rescaled(nothing_left, centre, [2, 2]), torch.tensor([0.0, 1.0, 0.2, 0.3]))


# When, and how far.


@pytest.mark.parametrize("progress", [0.0, 0.5, 1.0])
def test_the_random_box_grows_along_a_line(progress: float) -> None:
    epsilon = 0.03 + 0.27 * progress
    found = shifts(ArchPerturbation(), END.at(step=int(100 * progress)), many())
    assert float(found.abs().max()) <= epsilon
    assert float(found.abs().max()) > 0.99 * epsilon
    assert abs(float(found.mean())) < 3 * epsilon / math.sqrt(3 * found.numel())  # uniform: variance epsilon^2 / 3
    assert float(found.std()) == pytest.approx(epsilon / math.sqrt(3), rel=0.05)


def test_the_shift_is_one_for_the_step_and_set_of_gates() -> None:
    first = shifts(ArchPerturbation(), END, many(2))
    assert torch.equal(first, shifts(ArchPerturbation(), END.at(micro_batch=1, rank=1), many(2)))
    assert not torch.equal(first, shifts(ArchPerturbation(), END.at(gate_set=1), many(2)))
    trick = ArchPerturbation()
    shifts(trick, END.at(step=99), many(2))
    assert torch.equal(first, shifts(trick, END, many(2)))


@pytest.mark.parametrize("role", ["policy", "attack", "evaluation"])
def test_only_the_weights_see_it(role: Any) -> None:
    gates, trick = many(2), ArchPerturbation()
    assert trick.on_gates(gates, END.at(role=role)) is gates
    assert trick.acts == 0


def test_gates_without_weights_are_left_alone() -> None:
    gates: Gates = {"path": Gate((2,)), "mixed": Gate((0, 1), torch.tensor([0.5, 0.5]), bypass=torch.tensor(0.3))}
    moved = ArchPerturbation().on_gates(gates, END)
    assert moved["path"] is gates["path"]
    assert moved["mixed"].bypass is gates["mixed"].bypass
    assert moved["mixed"].active == (0, 1)


def test_clipped_shifts_keep_the_sum() -> None:
    moved = ArchPerturbation(clip=True).on_gates(many(), END)
    weights = torch.stack([gate.weights for gate in moved.values() if gate.weights is not None])
    assert float(weights.min()) == 0.0
    torch.testing.assert_close(weights.sum(1), torch.ones(500, dtype=torch.float64))


# Within a step.


def clipped(weights: list[Tensor]) -> list[Tensor]:
    return [w.clamp(0, 1) / w.clamp(0, 1).sum() for w in weights]


def sdarts_adv(run: Run, step: TrainingStep, epsilon: float, clip: bool) -> list[Tensor]:
    """Gates of the weights' step by the released code, line by line."""
    module, batch = run.module, step.train
    alphas = [p.detach() for p in module.policy.parameters()]
    names = [choice.name for choice in module.space.choices]
    saved = [F.softmax(alpha, dim=-1) for alpha in alphas]

    def loss(weights: list[Tensor]) -> Tensor:
        gates = {name: Gate((0, 1, 2, 3), w) for name, w in zip(names, weights, strict=True)}
        return F.cross_entropy(module.networks[0](batch.images.double(), gates), batch.labels)

    module.networks.eval()
    before = loss(saved).item()
    draws = iter(torch.rand(12, generator=step.moment.generator("arch_perturbation"), dtype=torch.float64).split(4))
    weights = [w + (2 * next(draws) - 1) * epsilon for w in saved]
    weights = clipped(weights) if clip else weights
    for _ in range(7):
        leaves = [w.clone().requires_grad_() for w in weights]
        (-loss(leaves)).backward()  # type: ignore[no-untyped-call]
        weights = [leaf.detach() - 2 * epsilon / 7 * leaf.grad.sign() for leaf in leaves if leaf.grad is not None]
        weights = [(w - s).clamp(-epsilon, epsilon) + s for w, s in zip(weights, saved, strict=True)]
        weights = clipped(weights) if clip else weights
    after = loss(weights).item()
    module.zero_grad(set_to_none=True)
    module.networks.train()
    return saved if before > after else weights


@pytest.mark.parametrize(("parts", "clip"), [(1, False), (3, False), (1, True)])
def test_the_attack_is_that_of_the_released_code(parts: int, clip: bool, make: Make, stand: Stand) -> None:
    arguments = {**ADVERSARIAL, "epsilon_start": 0.1, "clip": clip}
    changes = {"model.init_args.micro_batches": parts, "model.init_args.seed": 1}  # of seed 0 the clipped one fails
    run = make("darts", {"arch_perturbation": arguments}, {**DOUBLE, **changes})
    step = stand(run)
    with torch.no_grad():  # running statistics of their own, so that eval mode differs from train mode
        for norm in batch_norms(run.module.networks):
            assert norm.running_mean is not None
            norm.running_mean += torch.linspace(-0.3, 0.3, len(norm.running_mean))
    with torch.no_grad():
        (proposed,) = run.module.policy.propose(step.moment)
    moved = run.module.points.gates(proposed, step.moment)
    expected = sdarts_adv(run, step, 0.1, clip)
    assert any(not torch.equal(e, g.weights) for e, g in zip(expected, proposed.values(), strict=True))  # type: ignore[arg-type]
    for gate, weights in zip(moved.values(), expected, strict=True):
        torch.testing.assert_close(gate.weights, weights, rtol=1e-12, atol=1e-12)


def test_the_attack_leaves_everything_as_it_was(make: Make, stand: Stand) -> None:
    run = make("darts", {"arch_perturbation": ADVERSARIAL})
    step = stand(run)
    networks = run.module.networks
    frozen = next(m for m in networks.modules() if isinstance(m, torch.nn.BatchNorm2d))
    frozen.eval()  # one module that somebody froze stays frozen
    before = [m.training for m in networks.modules()], statistics(batch_norms(networks)), torch.get_rng_state()
    (gates,) = run.module.policy.propose(step.moment)  # with their gradient, as where alpha learns with the weights
    run.module.points.gates(gates, step.moment)
    assert [m.training for m in networks.modules()] == before[0]
    assert all(torch.equal(a, b) for a, b in zip(statistics(batch_norms(networks)), before[1], strict=True))
    assert torch.equal(torch.get_rng_state(), before[2])
    assert all(p.grad is None for p in run.module.parameters())


def test_the_attack_is_alive(configure: Callable[..., Namespace]) -> None:
    config = configure("darts", {"arch_perturbation": ADVERSARIAL})
    assert prove("arch_perturbation", lambda without: built(config, without), score_child).alive


class KilledError(Exception):
    """The run is killed here."""


class Kill(pl.Callback):
    """Kills a run before its step number 3, counted from 0."""

    def on_train_batch_start(self, trainer: pl.Trainer, *args: Any) -> None:
        if trainer.global_step == 3:
            raise KilledError


def test_the_attack_resumes_exactly(make: Make, tmp_path: Path) -> None:
    tricks, every = {"arch_perturbation": ADVERSARIAL}, {"checkpoint.every_n_steps": 1}
    straight, killed, resumed = make("darts", tricks), *(make("darts", tricks, every, tmp_path) for _ in range(2))
    straight.fit()
    killed.trainer.callbacks.append(Kill())  # type: ignore[attr-defined]
    with pytest.raises(KilledError):
        killed.fit()
    resumed.fit(str(tmp_path / LAST))
    ends = [run.module.state_dict() for run in (straight, resumed)]
    assert all(torch.equal(a, ends[1][key]) for key, a in ends[0].items() if torch.is_tensor(a))
    assert straight.tricks[0].acts == resumed.tricks[0].acts == 8


def observed(make: Make, stack: str, tricks: dict[str, Any], step: int) -> Observer:
    run = make(stack, tricks)
    observer = Observer(run.data, None, step, 0, None)
    run.trainer.callbacks.append(observer)  # type: ignore[attr-defined]
    run.fit()
    return observer


def test_a_second_pass_sees_the_same_attack(make: Make) -> None:
    """SAM has moved the weights by then, so an attack that is made again would find other gates."""
    seen = observed(make, "darts", {"arch_perturbation": ADVERSARIAL, "sam": {"rho": 0.5}}, 6).seen
    assert len(seen.gates) == 3  # the policy's pass and two of the weights; those of the attack are in eval mode
    assert torch.equal(seen.gates[1], seen.gates[2])
    assert not torch.equal(seen.gates[0], seen.gates[1])


def test_dropped_paths_are_dropped_from_the_shifted_gates(make: Make) -> None:
    tricks = {"arch_perturbation": {"epsilon": 0.3}, "drop_path": {"probability": 0.5}}
    both = observed(make, "darts", tricks, 7).seen
    alone = observed(make, "darts", {"arch_perturbation": tricks["arch_perturbation"]}, 7).seen
    # Each of 3 choices: 4 options and a bypass, for each of 32 samples.
    dropped, shifted = (seen.gates[1].view(3, 5, 32)[:, :4] for seen in (both, alone))
    kept = dropped != 0
    assert 0 < int((~kept).sum()) < kept.numel()
    torch.testing.assert_close(dropped[kept], shifted[kept])


class Alphas(SingleLevel):
    """Notes the gradient that alpha gets."""

    def update(self, step: Any) -> None:
        self.left = [p.grad.clone() for p in self.policy.parameters() if p.grad is not None]


def test_joined_alpha_learns_at_the_shifted_gates(make: Make) -> None:
    """The shift is a constant: alpha gets dL / d gates where the weights see them (for the worst shift, Danskin)."""
    run = make("darts", {"arch_perturbation": {"epsilon_start": 0.3}}, {**DOUBLE, "trainer.max_steps": 1})
    module = run.module
    estimator = module.estimator = Alphas(module.policy)
    run.data.setup("fit")
    state = {key: value.clone() for key, value in module.double().state_dict().items() if torch.is_tensor(value)}
    run.fit()
    module.load_state_dict(state, strict=False)
    module.train()
    now = module.moment("weights").at(step=0, epochs=2.0)
    batch, gates = run.data.batch("train", 0), module.policy.propose(now)[0]
    moved = ArchPerturbation(epsilon_start=0.3).on_gates(gates, now)
    exact = torch.autograd.grad(module.criterion(module.logits(batch.images, moved), batch), module.policy.parameters())
    for found, expected in zip(estimator.left, exact, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"kind": "worst"}, "arch_perturbation.kind is 'worst': expected random or adversarial"),
        ({"epsilon": -0.1}, r"arch_perturbation.epsilon is -0.1: expected at least 0"),
        ({"epsilon_start": float("nan")}, r"arch_perturbation.epsilon_start is nan: expected at least 0"),
        ({"steps": 0}, r"arch_perturbation.steps is 0: expected at least 1"),
    ],
)
def test_bad_values_are_refused(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        ArchPerturbation(**arguments)


def test_gates_without_weights_are_refused() -> None:
    files = ["spaces/tiny64", "data/digits", "algorithms/bender_oneshot", "tricks/arch_perturbation"]
    run = build(resolve([f"recipes/{name}.yaml" for name in files], ["--trainer.accelerator=cpu"]), None, quiet=True)
    with pytest.raises(InputError, match="shifts the weights of gates, and AllOptions gives them none: let it average"):
        run.fit()
