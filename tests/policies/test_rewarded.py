"""Policies that remember rewards: what they prefer, that probabilities add up, and that their memory can be kept."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from scipy.stats import chisquare

from nastricks.errors import InputError
from nastricks.moment import Moment
from nastricks.policies import MonteCarloTree, Prioritised, RewardedPolicy, UniformPath
from nastricks.policies.monte_carlo_tree import uct
from nastricks.rng import generator
from nastricks.spaces import DARTS, Architecture, Space, Tiny64

SPACE = Tiny64(channels=4)
MAKERS: dict[str, Callable[[Space], RewardedPolicy]] = {
    "prioritised": lambda space: Prioritised(space, temperature=0.1),
    "tree": lambda space: MonteCarloTree(space, temperature=0.2),
}
every_policy = pytest.mark.parametrize("name", MAKERS)


def at(step: int) -> Moment:
    return Moment(role="weights", seed=0, step=step)


def path(policy: UniformPath, step: int) -> Architecture:
    (gates,) = policy.propose(at(step))
    return tuple(gates[c.name].active[0] for c in policy.space.choices)


def reward(architecture: Architecture) -> float:
    return 0.5 + float(torch.rand((), generator=generator("earned", architecture)))


def taught(name: str, space: Space = SPACE, paths: int = 300) -> RewardedPolicy:
    policy = MAKERS[name](space)
    for number in range(paths):
        architecture = space.sample(generator("taught", number))
        policy.observe(architecture, reward(architecture))
    return policy


@every_policy
def test_before_any_reward_paths_are_uniform_ones(name: str) -> None:
    policy, uniform = MAKERS[name](SPACE), UniformPath(SPACE)
    assert [path(policy, step) for step in range(60)] == [path(uniform, step) for step in range(60)]
    assert float(policy.log_prob((1, 2, 3))) == pytest.approx(-math.log(64))
    assert policy.learns
    assert list(policy.parameters()) == []


@every_policy
def test_paths_come_up_as_often_as_their_probabilities_say(name: str) -> None:
    policy = taught(name)
    expected = {a: float(policy.log_prob(a).exp()) for a in SPACE.architectures()}
    assert sum(expected.values()) == pytest.approx(1.0, abs=1e-5)
    assert max(expected.values()) > 2 / 64
    counts = Counter(path(policy, step) for step in range(12800))
    many = [a for a in expected if expected[a] * 12800 >= 5]
    scale = sum(counts[a] for a in many) / sum(expected[a] for a in many)
    assert chisquare([counts[a] for a in many], [expected[a] * scale for a in many]).pvalue > 1e-4


@every_policy
def test_the_mask_and_what_is_legal_are_obeyed(name: str) -> None:
    policy = taught(name)
    policy.restrict("layer2", [1, 3])
    assert {path(policy, step)[1] for step in range(200)} == {1, 3}
    assert float(policy.log_prob((0, 0, 0))) == -math.inf
    cells = taught(name, DARTS(), paths=20)
    for step in range(20):
        assert cells.space.check(path(cells, step))


@every_policy
def test_its_memory_is_part_of_the_checkpoint(name: str, tmp_path: Path) -> None:
    policy = taught(name, paths=40)
    policy.restrict("layer1", [0, 2, 3])
    torch.save(policy.state_dict(), tmp_path / "policy.pt")
    other = MAKERS[name](SPACE)
    other.load_state_dict(torch.load(tmp_path / "policy.pt", weights_only=True))
    assert other.allowed == policy.allowed
    assert [path(other, step) for step in range(100)] == [path(policy, step) for step in range(100)]
    for own in (policy, other):
        own.observe((2, 1, 0), 0.9)
    for mine, theirs in zip(policy.memory().values(), other.memory().values(), strict=True):
        assert torch.equal(mine, theirs)
    empty = MAKERS[name](SPACE)
    empty.load_state_dict(MAKERS[name](SPACE).state_dict())
    assert path(empty, 3) == path(UniformPath(SPACE), 3)


def test_scores_are_moving_averages_and_odds_their_softmax() -> None:
    policy = Prioritised(SPACE, temperature=0.5, decay=0.8)
    policy.observe((1, 0, 3), 2.0)
    policy.observe((1, 2, 3), 0.5)
    assert policy.scores["layer1"] == pytest.approx([1.0, 0.8 * 1.2 + 0.2 * 0.5, 1.0, 1.0])
    assert policy.scores["layer2"] == pytest.approx([1.2, 1.0, 0.9, 1.0])
    scores = torch.tensor(policy.scores["layer2"], dtype=torch.float64)
    expected = torch.softmax(scores / 0.5, 0)
    odds = policy.odds((1,))
    torch.testing.assert_close(torch.tensor([odds[i] / sum(odds.values()) for i in range(4)]).double(), expected)
    torch.testing.assert_close(policy.preferences()["layer2"].double(), expected, atol=1e-6, rtol=0)
    policy.restrict("layer2", [0, 2])
    kept = policy.preferences()["layer2"]
    assert kept[[1, 3]].tolist() == [-math.inf, -math.inf]
    assert float(kept[[0, 2]].sum()) == pytest.approx(1.0)


def told(policy: MonteCarloTree, rewards: Sequence[tuple[Architecture, float]]) -> None:
    for architecture, earned in rewards:
        policy.observe(architecture, earned)


def test_unvisited_children_come_first() -> None:
    policy = MonteCarloTree(SPACE)
    told(policy, [((1, 0, 3), 5.0), ((2, 0, 0), 0.1)])
    assert policy.odds(()) == {0: 1, 3: 1}
    assert policy.odds((1,)) == {1: 1, 2: 1, 3: 1}
    assert policy.odds((3,)) == {0: 1, 1: 1, 2: 1, 3: 1}
    for step in range(60):
        assert path(policy, step)[0] in (0, 3)


def test_visited_children_are_drawn_by_the_softmax_of_their_bounds() -> None:
    policy = MonteCarloTree(SPACE, exploration=0.3, communication=0.7, temperature=0.25, decay=0.5)
    earned = {0: [1.0, 0.6], 1: [1.4], 2: [0.9, 0.7, 1.3], 3: [0.2]}
    for first, rewards in earned.items():
        for second, value in enumerate(rewards):
            policy.observe((first, second, 0), value)
    average = {0: 0.5 * 1.0 + 0.5 * 0.6, 1: 1.4, 2: 0.5 * (0.5 * 0.9 + 0.5 * 0.7) + 0.5 * 1.3, 3: 0.2}
    bounds = torch.tensor(
        [
            sum(r) / len(r) + 0.3 * math.sqrt(math.log(7) / len(r)) + 0.7 * average[option]
            for option, r in earned.items()
        ],
        dtype=torch.float64,
    )
    odds = policy.odds(())
    found = torch.tensor([odds[i] / sum(odds.values()) for i in range(4)], dtype=torch.float64)
    torch.testing.assert_close(found, torch.softmax(bounds / 0.25, 0))
    assert uct(2.0, 4, 10, 0.5, 0.0, 0.0) == 0.5
    assert policy.mean_visits(()) == 7 / 4
    assert policy.mean_visits((2,)) == 3 / 4
    assert policy.mean_visits((2, 3)) == 0


def test_what_an_option_earned_elsewhere_counts() -> None:
    """Two parents, alike but for their children: the communicated reward tells which option is better."""
    policy = MonteCarloTree(SPACE, exploration=0.0, communication=1.0, temperature=0.05)
    for option, value in ((0, 1.5), (1, 0.5)):
        policy.observe((0, option, 0), value)
        policy.observe((1, option, 0), 1.0)
    policy.restrict("layer2", [0, 1])
    alone = MonteCarloTree(SPACE, exploration=0.0, communication=0.0, temperature=0.05)
    alone.recall(policy.memory())
    alone.restrict("layer2", [0, 1])
    odds, without = policy.odds((1,)), alone.odds((1,))
    assert odds[0] > 2 * odds[1]
    assert without[0] == without[1]


def test_the_tree_finds_what_earns_most() -> None:
    policy = MonteCarloTree(SPACE)
    for step in range(1500):
        architecture = path(policy, step)
        policy.observe(architecture, reward(architecture))
    late = Counter(path(policy, step) for step in range(1500, 2500))
    ranked = sorted(SPACE.architectures(), key=reward, reverse=True)
    assert sum(late[a] for a in ranked[:8]) > 3 * 1000 * 8 / 64


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Prioritised(SPACE, temperature=0.0), "policy.temperature is 0.0: expected a number above 0"),
        (lambda: Prioritised(SPACE, decay=1.0), r"policy.decay is 1.0: expected a number in \[0, 1\)"),
        (lambda: MonteCarloTree(SPACE, temperature=-1), "policy.temperature is -1"),
        (lambda: MonteCarloTree(SPACE, exploration=-0.1), "policy.exploration is -0.1: expected at least 0"),
        (lambda: MonteCarloTree(SPACE, communication=math.inf), "policy.communication is inf"),
    ],
)
def test_bad_settings_are_refused(make: Callable[[], RewardedPolicy], words: str) -> None:
    with pytest.raises(InputError, match=words):
        make()
