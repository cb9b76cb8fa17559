"""Descents through a tree on a supernet whose accuracy is made up."""

from collections import Counter

import pytest
import torch

from nastricks.derivations import Draw, HierarchicalSelection, Trained
from nastricks.errors import InputError
from nastricks.moment import Moment
from nastricks.policies import MonteCarloTree, UniformPath
from nastricks.rng import generator
from nastricks.spaces import Architecture, Tiny64

SPACE = Tiny64(channels=4)
HERE = Moment("evaluation", 0)


def worth(architecture: Architecture) -> float:
    return float(torch.rand((), generator=generator("worth", architecture)))


class Made:
    """Accuracies that are known; what was asked is counted."""

    def __init__(self) -> None:
        self.asked: Counter[Architecture] = Counter()

    def __call__(self, draw: Draw) -> float:
        gates = draw(HERE)
        architecture = tuple(gates[c.name].active[0] for c in SPACE.choices)
        self.asked[architecture] += 1
        return worth(architecture)


def trained(policy: MonteCarloTree) -> tuple[Trained, Made]:
    made = Made()
    return Trained(SPACE, policy, dict, made), made


def taught(paths: int) -> MonteCarloTree:
    policy = MonteCarloTree(SPACE)
    for step in range(paths):
        (gates,) = policy.propose(Moment("weights", 0, step=step))
        path = tuple(gates[c.name].active[0] for c in SPACE.choices)
        policy.observe(path, 0.5 + worth(path))
    return policy


def test_the_best_measured_is_derived_and_none_is_measured_twice() -> None:
    given, made = trained(taught(400))
    found = HierarchicalSelection(samples=20, threshold=2).derive(given)
    assert set(made.asked.values()) == {1}
    assert found == max(made.asked, key=worth)


def test_a_tree_that_knows_measures_less_and_finds_more() -> None:
    ranks = {a: rank for rank, a in enumerate(sorted(SPACE.architectures(), key=worth, reverse=True), 1)}
    by_tree, by_chance = [], []
    for seed in range(8):
        given, made = trained(taught(800))
        by_tree.append(ranks[HierarchicalSelection(samples=6, threshold=0, seed=seed).derive(given)])
        assert len(made.asked) <= 6
        rng = generator("chance", seed)
        by_chance.append(min(ranks[SPACE.sample(rng)] for _ in range(6)))
    assert sum(by_tree) < sum(by_chance)


def test_children_are_looked_at_often_enough_first() -> None:
    """An empty tree: four visits a child of the root, then of the one that was chosen, and so on."""
    given, made = trained(MonteCarloTree(SPACE))
    HierarchicalSelection(samples=1, threshold=4).derive(given)
    measured = Counter(a[0] for a in made.asked)
    assert len(made.asked) > 16 - 4  # some of the sixteen paths below the root repeat
    assert len(measured) == 4
    chosen = max(made.asked, key=lambda a: (measured[a[0]], a))[0]
    assert measured[chosen] > 4  # the chosen child's children were looked at too


def test_the_policy_stays_as_it_was_and_draws_are_keyed() -> None:
    policy = taught(100)
    before = {key: tensor.clone() for key, tensor in policy.memory().items()}
    first, again = (HierarchicalSelection(seed=3).derive(trained(policy)[0]) for _ in range(2))
    assert first == again
    assert all(torch.equal(tensor, before[key]) for key, tensor in policy.memory().items())


def test_the_mask_is_obeyed_and_useless_accuracies_do_no_harm() -> None:
    policy = taught(100)
    policy.restrict("layer1", [2])
    given, made = trained(policy)
    assert HierarchicalSelection(threshold=8).derive(given)[0] == 2
    assert {a[0] for a in made.asked} == {2}
    nothing = Trained(SPACE, policy, dict, lambda draw: 0.0)
    assert HierarchicalSelection(samples=3).derive(nothing)[0] == 2


def test_bad_settings_and_policies_are_refused() -> None:
    with pytest.raises(InputError, match=r"derivation.samples is 0: expected at least 1"):
        HierarchicalSelection(samples=0)
    with pytest.raises(InputError, match=r"derivation.threshold is -1: expected at least 0"):
        HierarchicalSelection(threshold=-1)
    with pytest.raises(InputError, match="goes down a tree, and UniformPath has none: use BestRanked"):
        HierarchicalSelection().check(SPACE, UniformPath(SPACE))
