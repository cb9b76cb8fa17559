"""TuNAS's estimator on a trained supernet of tiny64: its gradient against the exact one, by enumeration."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from nastricks.errors import InputError
from nastricks.estimators import ExponentialBaseline, NoBaseline, Reinforce
from nastricks.modules.training import TrainingStep
from nastricks.policies import Independent, Rollout
from nastricks.recipe import resolve
from nastricks.rng import generator
from nastricks.run import Run, build
from nastricks.search import PolicySearch
from nastricks.spaces import Architecture, Resource, Tiny64
from proofs.small_runs import INTERRUPTIONS, SMALL, difference_after_resuming

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
]


def run(more: Any = (), out: Path | None = None) -> Run:
    files = [f"recipes/{name}.yaml" for name in ("spaces/tiny64", "data/digits", "algorithms/tunas")]
    keys = {**SMALL, **dict(more)}
    return build(resolve(files, [f"--{key}={value}" for key, value in keys.items()]), out, quiet=True)


@dataclass
class Tabled(TrainingStep):
    """A step whose accuracies were measured before."""

    accuracies: dict[Architecture, float] = field(default_factory=dict)

    def reward(self, architectures: Sequence[Architecture]) -> Tensor:
        return torch.tensor([self.accuracies[a] for a in architectures])


@dataclass
class Trained:
    """A supernet, its estimator, a policy that is not uniform, and what every child earns in a step."""

    run: Run
    step: Tabled
    estimator: Reinforce
    policy: Independent
    everyone: list[Architecture]
    rewards: Tensor

    def exact(self) -> Tensor:
        """The gradient of minus the expected reward by the logits (3, 4)."""
        log_p = torch.stack([self.policy.log_prob(a) for a in self.everyone])
        assert float(log_p.detach().exp().sum()) == pytest.approx(1, abs=1e-12)
        (gradient,) = torch.autograd.grad(-(log_p.exp() * self.rewards).sum(), [self.policy.logits])
        return gradient

    def moments(self, estimator: Reinforce) -> tuple[Tensor, float]:
        """Mean and summed variance of the gradient that one drawn architecture leaves, over all of them."""
        state = copy.deepcopy(estimator.state_dict())
        tokens = self.policy.vocabulary.tokens(self.everyone)
        with torch.no_grad():
            scored = self.policy.score(tokens)
        p, found = scored.log_probs.sum(1).exp(), []
        for row, architecture in enumerate(self.everyone):
            estimator.load_state_dict(state)
            one = slice(row, row + 1)
            rollout = Rollout(tokens[one], (architecture,), scored.log_probs[one], scored.entropies[one])
            estimator.learn(rollout, self.rewards[one], self.step)
            assert self.policy.logits.grad is not None
            found.append(self.policy.logits.grad.clone())
        gradients = torch.stack(found)
        mean = torch.einsum("n,ntw->tw", p, gradients)
        return mean, float(p @ (gradients - mean).square().sum((1, 2)))


@pytest.fixture(scope="module")
def trained() -> Trained:
    made = run({"trainer.max_epochs": 8, "trainer.precision": "64-true"})
    made.fit()
    module = made.module.train()
    estimator, policy = module.estimator, module.policy
    assert isinstance(estimator, Reinforce)
    assert isinstance(policy, Independent)
    with torch.no_grad():
        policy.logits.normal_(generator=generator("tunas"))
    everyone = list(module.space.architectures())
    batch, optimizer = made.data.batch("train", 0), made.trainer.optimizers[0]
    step = TrainingStep(module, module.moment("weights"), batch, optimizer)
    measured = dict(zip(everyone, step.reward(everyone).tolist(), strict=True))
    tabled = Tabled(module, module.moment("weights"), batch, optimizer, accuracies=measured)
    rewards = estimator._worth(tabled, everyone).double()
    return Trained(made, tabled, estimator, policy, everyone, rewards)


def test_the_reward_is_the_accuracy_less_the_distance_from_the_target(trained: Trained) -> None:
    space, spec = trained.run.module.space, trained.run.module.spec
    for architecture, reward in zip(trained.everyone, trained.rewards.tolist(), strict=True):
        flops = space.cost(architecture, spec).flops
        expected = trained.step.accuracies[architecture] - 0.10 * abs(flops / 69440 - 1)
        assert reward == pytest.approx(expected, abs=1e-6)
    assert float(trained.rewards.std()) > 0.02


def test_the_target_is_the_mean_of_the_space(trained: Trained) -> None:
    space, spec = trained.run.module.space, trained.run.module.spec
    assert sum(space.cost(a, spec).flops for a in trained.everyone) / 64 == 69440


def test_the_mean_of_the_estimator_is_the_exact_gradient_and_the_baseline_lowers_its_variance(trained: Trained) -> None:
    exact = trained.exact()
    plain_mean, plain_variance = trained.moments(Reinforce(trained.policy, baseline=NoBaseline))
    mean, variance = trained.moments(trained.estimator)
    torch.testing.assert_close(plain_mean, exact, atol=1e-12, rtol=0)
    torch.testing.assert_close(mean, exact, atol=1e-12, rtol=0)
    assert float(exact.norm()) > 1e-3
    assert variance < 0.5 * plain_variance


def test_updates_agree_with_the_exact_gradient_within_five_standard_errors(trained: Trained) -> None:
    estimator, exact, found = copy.copy(trained.estimator), trained.exact(), []
    estimator.episodes = 200
    for number in range(100):
        trained.step.moment = trained.step.moment.at(step=1000 + number)
        estimator.update(trained.step)
        assert trained.policy.logits.grad is not None
        found.append(trained.policy.logits.grad.clone())
    gradients = torch.stack(found)
    error = gradients.std(0) / 10
    assert bool(((gradients.mean(0) - exact).abs() <= 5 * error + 1e-12).all())
    assert float((exact / error.clamp_min(1e-12)).abs().max()) > 10  # a gradient of zero would be seen


@pytest.mark.parametrize(("target", "option"), [(18752, (0, 3)), (270_000, (2,))])
def test_cost_alone_pulls_to_the_target(target: float, option: tuple[int, ...], trained: Trained) -> None:
    """With equal accuracies, the cheapest target teaches operations that cost nothing, a high one the dearest."""
    policy = Independent(trained.run.module.space)
    resource = Resource(target, weight=1.0, kind="absolute")
    estimator = Reinforce(policy, 20, ExponentialBaseline, resource=resource)
    optimizer = torch.optim.Adam(policy.parameters(), lr=0.05)
    step = copy.copy(trained.step)
    step.accuracies = dict.fromkeys(trained.everyone, 0.5)
    for number in range(150):
        step.moment = step.moment.at(step=number)
        estimator.update(step)
        optimizer.step()
    first = torch.softmax(policy.logits[0].detach(), 0)
    assert float(first[list(option)].sum()) > 0.9


def test_the_policy_is_off_for_a_quarter_of_the_run_and_the_warm_up_on() -> None:
    made = run()
    made.fit()
    estimator = made.module.estimator
    assert isinstance(estimator, Reinforce)
    assert estimator.updates == 6
    acts = {trick.name: trick.acts for trick in made.tricks}
    assert acts["weight_warmup"] == 2
    assert 1 <= acts["op_warmup"] <= 2


@pytest.mark.parametrize("algorithm", ["tunas", "bender_oneshot"])
def test_resumes_exactly(algorithm: str, tmp_path: Path) -> None:
    files = [f"recipes/{name}.yaml" for name in ("spaces/tiny64", "data/digits", f"algorithms/{algorithm}")]

    def make(more: Any, out: Path) -> Run:
        return build(resolve(files, [f"--{key}={value}" for key, value in {**SMALL, **more}.items()]), out, quiet=True)

    make({}, tmp_path / "straight").fit()
    for when in INTERRUPTIONS:
        difference = difference_after_resuming(make, tmp_path / "straight", tmp_path / when, when)
        assert difference is None, f"resumed from the {when} of an epoch: {difference}"


def test_a_black_box_search_refuses_the_estimators_resource() -> None:
    with pytest.raises(InputError, match=r"estimator.resource is for updates in a supernet's training: in a search"):
        PolicySearch(
            Tiny64(),
            0,
            Independent,
            lambda policy: Reinforce(policy, resource=Resource(1e5)),
            lambda parameters: torch.optim.Adam(parameters),
        )
