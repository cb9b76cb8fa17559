"""Policies: what they propose, how probable they call it, and that they obey the mask of allowed options."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from scipy.stats import chisquare

from nastricks.errors import InputError
from nastricks.moment import Moment
from nastricks.policies import Fixed, Policy, Softmax, UniformPath
from nastricks.spaces import Architecture, Gates, Space, Tiny64

SPACE: Space = Tiny64(channels=4)
MAKERS: dict[str, Callable[[], Policy]] = {
    "uniform": lambda: UniformPath(SPACE),
    "softmax": lambda: Softmax(SPACE, init_std=1.0, seed=3),
    "fixed": lambda: Fixed(SPACE, "213"),
}
every_policy = pytest.mark.parametrize("name", MAKERS)


def at(step: int, **more: int) -> Moment:
    return Moment(role="weights", seed=more.pop("seed", 0), step=step, **more)


def path(gates: Gates) -> Architecture:
    assert all(len(gates[c.name].active) == 1 for c in SPACE.choices)
    return tuple(gates[c.name].active[0] for c in SPACE.choices)


def proposed(policy: Policy, step: int, **more: int) -> Architecture:
    (gates,) = policy.propose(at(step, **more))
    return path(gates)


def test_uniform_paths_are_uniform_and_run_one_option() -> None:
    policy = UniformPath(SPACE)
    counts = Counter(proposed(policy, step) for step in range(6400))
    assert chisquare([counts[a] for a in SPACE.architectures()]).pvalue > 1e-4
    gates = policy.propose(at(0))[0]
    assert all(gate.weights is None and gate.bypass is None for gate in gates.values())


def test_the_same_moment_has_the_same_path() -> None:
    first = [proposed(UniformPath(SPACE), step) for step in range(50)]
    assert [proposed(UniformPath(SPACE), step) for step in range(50)] == first
    # What differs between ranks, micro-batches and samples does not reach the path; seed and step do.
    assert [proposed(UniformPath(SPACE), s, rank=1, micro_batch=2, samples=9) for s in range(50)] == first
    assert [proposed(UniformPath(SPACE), step, seed=1) for step in range(50)] != first
    assert len(set(first)) > 20


@every_policy
def test_probabilities_over_the_space_add_up_to_one(name: str) -> None:
    policy = MAKERS[name]()
    total = sum(float(policy.log_prob(a).detach().exp()) for a in SPACE.architectures())
    assert total == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("name", ["uniform", "softmax"])
def test_probabilities_under_a_mask_add_up_to_one(name: str) -> None:
    policy = MAKERS[name]()
    policy.restrict("layer1", [0, 2])
    policy.restrict("layer3", [3])
    within = [a for a in SPACE.architectures() if a[0] in (0, 2) and a[2] == 3]
    assert sum(float(policy.log_prob(a).detach().exp()) for a in within) == pytest.approx(1.0, abs=1e-5)
    for architecture in SPACE.architectures():
        assert (policy.log_prob(architecture) == -torch.inf) == (architecture not in within)


def test_uniform_obeys_the_mask() -> None:
    policy = UniformPath(SPACE)
    policy.restrict("layer1", [0, 2])
    policy.restrict("layer3", [3])
    counts = Counter(proposed(policy, step) for step in range(1600))
    assert set(counts) == {(a, b, 3) for a in (0, 2) for b in range(4)}
    assert chisquare(list(counts.values())).pvalue > 1e-4


def test_softmax_gates_equal_torchs_softmax_over_the_allowed_options() -> None:
    policy = Softmax(SPACE, init_std=1.0, seed=3)
    policy.restrict("layer2", [3, 1])
    (gates,) = policy.propose(at(0))
    for choice, allowed in (("layer1", [0, 1, 2, 3]), ("layer2", [1, 3]), ("layer3", [0, 1, 2, 3])):
        assert gates[choice].active == tuple(allowed)
        expected = torch.softmax(policy.alpha[choice][allowed], dim=0)
        torch.testing.assert_close(gates[choice].weights, expected)
        full = torch.full((4,), -torch.inf)
        full[allowed] = expected.detach()
        torch.testing.assert_close(policy.preferences()[choice], full)


def test_softmax_log_prob_is_the_sum_of_log_softmaxes_and_has_gradients() -> None:
    policy = Softmax(SPACE, init_std=1.0, seed=3)
    expected = sum(torch.log_softmax(policy.alpha[c.name], 0)[i] for c, i in zip(SPACE.choices, (1, 0, 2), strict=True))
    found = policy.log_prob((1, 0, 2))
    torch.testing.assert_close(found, expected)
    found.backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in policy.parameters())


def test_softmax_starts_near_zero_keyed_by_its_seed() -> None:
    alphas = [torch.cat(list(Softmax(SPACE, seed=seed).alpha.values())) for seed in (0, 0, 1)]
    assert torch.equal(alphas[0], alphas[1])
    assert not torch.equal(alphas[0], alphas[2])
    assert 0 < float(alphas[0].detach().abs().max()) < 1e-2
    zero = Softmax(SPACE, init_std=0.0)
    assert all(not bool(p.any()) for p in zero.parameters())
    with pytest.raises(InputError, match="init_std is -1"):
        Softmax(SPACE, init_std=-1)


def test_fixed_proposes_one_architecture_always() -> None:
    policy = Fixed(SPACE, "213")
    assert {proposed(policy, step) for step in range(20)} == {(1, 0, 2)}
    assert policy.allowed == {"layer1": (1,), "layer2": (0,), "layer3": (2,)}
    with pytest.raises(InputError, match="'219' is no architecture"):
        Fixed(SPACE, "219")


def test_which_policies_learn() -> None:
    assert {name: make().learns for name, make in MAKERS.items()} == {
        "uniform": False,
        "softmax": True,
        "fixed": False,
    }
    frozen = Softmax(SPACE)
    frozen.requires_grad_(False)
    assert not frozen.learns


@pytest.mark.parametrize("name", ["uniform", "softmax"])
def test_the_mask_is_part_of_the_checkpoint(name: str, tmp_path: Path) -> None:
    policy = MAKERS[name]()
    policy.restrict("layer1", [0, 2])
    torch.save(policy.state_dict(), tmp_path / "policy.pt")
    other = MAKERS[name]()
    other.load_state_dict(torch.load(tmp_path / "policy.pt", weights_only=True))
    assert other.allowed == policy.allowed
    assert other.allowed["layer1"] == (0, 2)
    for mine, theirs in zip(policy.propose(at(5)), other.propose(at(5)), strict=True):
        for choice in mine:
            assert mine[choice].active == theirs[choice].active


@pytest.mark.parametrize(
    ("choice", "options", "words"),
    [("layer9", [0], "unknown choice 'layer9'"), ("layer1", [], "expected some of"), ("layer1", [1], "expected some")],
)
def test_masks_that_cannot_be(choice: str, options: list[int], words: str) -> None:
    policy = UniformPath(SPACE)
    policy.restrict("layer1", [0, 2])
    with pytest.raises(InputError, match=words):
        policy.restrict(choice, options)
    assert policy.allowed["layer1"] == (0, 2)


def test_a_policy_without_probabilities_says_so() -> None:
    class Silent(Policy):
        def propose(self, moment: Moment) -> list[Gates]:
            return [self.space.gates((0, 0, 0))]

    with pytest.raises(InputError, match="Silent gives architectures no probability"):
        Silent(SPACE).log_prob((0, 0, 0))
    assert Silent(SPACE).preferences() == {}
