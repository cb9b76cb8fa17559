"""Thresholds by hand, and against the released parse of FairDARTS written out."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from nastricks.derivations import Perturbation, Threshold, Trained
from nastricks.errors import InputError
from nastricks.policies import Policy, Sigmoid, UniformPath
from nastricks.rng import generator
from nastricks.spaces import Architecture, Space, Tiny64, WeightSharing64

NodesMaker = Callable[[int | None], Space]

STRENGTHS = [
    [0.5, 0.9, 0.2, 0.1],  # node a of the normal cell
    [0.9, 0.2, 0.3, 0.4],
    [0.7, 0.1, 0.95, 0.1],  # node b: three pass
    [0.1, 0.9, 0.3, 0.97],
    [0.2, 0.86, 0.2, 0.4],
    [0.1, 0.6, 0.2, 0.1],  # node a of the reduction cell: none passes
    [0.1, 0.1, 0.7, 0.1],
    [0.1, 0.8, 0.1, 0.1],
]


def sigmoid(space: Space, strengths: Sequence[Sequence[float]]) -> Sigmoid:
    policy = Sigmoid(space)
    with torch.no_grad():
        for choice, values in zip(space.choices, strengths, strict=True):
            policy.alpha[choice.name].copy_(torch.logit(torch.tensor(values)))
    return policy


def derived(derivation: Threshold, policy: Policy) -> Architecture:
    derivation.check(policy.space, policy)
    return derivation.derive(Trained(policy.space, policy, dict))


def test_the_strongest_that_pass_stay_and_short_nodes_are_filled(nodes: NodesMaker) -> None:
    policy = sigmoid(nodes(None), STRENGTHS)
    assert derived(Threshold(), policy) == (1, 0, 2, 3, 0, 0, 0, 1)
    assert derived(Threshold(edges=1), policy) == (1, 0, 0, 3, 0, 0, 0, 1)
    assert derived(Threshold(edges=None), policy) == (1, 0, 2, 3, 1, 0, 0, 1)
    assert derived(Threshold(0.35, edges=None), policy) == (1, 3, 2, 3, 1, 1, 2, 1)
    assert derived(Threshold(), sigmoid(nodes(2), STRENGTHS)) == (1, 3, 2, 3, 0, 0, 2, 1)
    assert not Threshold.needs_ranking


def test_a_node_without_input_is_refused_where_it_is_not_filled(nodes: NodesMaker) -> None:
    with pytest.raises(InputError, match="leaves node reduce_a without input, and nodes demands 1 to 3: lower"):
        derived(Threshold(short="refused"), sigmoid(nodes(None), STRENGTHS))
    with pytest.raises(InputError, match="leaves node normal_a with 1 of 2 inputs, and nodes demands 2: lower"):
        derived(Threshold(short="refused"), sigmoid(nodes(2), STRENGTHS))
    assert derived(Threshold(0.75, short="refused"), sigmoid(nodes(None), STRENGTHS)) == (1, 0, 2, 3, 0, 0, 0, 1)


def test_more_edges_than_a_node_takes_are_refused_before_training(nodes: NodesMaker) -> None:
    space = nodes(2)
    for derivation in (Threshold(edges=None), Perturbation(edges=None)):
        with pytest.raises(InputError, match=r"edges is null, which may keep all .* normal_b .* at most 2 inputs: set"):
            derivation.check(space, Sigmoid(space))


def test_equals_the_released_parse(nodes: NodesMaker) -> None:
    """`threshold_sparse` of FairDARTS's code, whose supernet has no `none`."""
    same = 0
    for seed in range(60):
        strengths = torch.rand(8, 4, generator=generator(seed, "strengths")).clamp(0.01, 0.99).tolist()
        expected = [0] * 8
        for node in (range(2), range(2, 5), range(5, 8)):
            for edge in sorted(node, key=lambda e: -max(strengths[e][1:]))[:2]:
                best = max((1, 2, 3), key=lambda o: strengths[edge][o])
                expected[edge] = best if strengths[edge][best] >= 0.6 else 0
        if all(any(expected[e] for e in node) for node in (range(2), range(2, 5), range(5, 8))):
            assert derived(Threshold(0.6, short="refused"), sigmoid(nodes(None), strengths)) == tuple(expected)
            same += 1
    assert same > 20


def test_the_mask_is_obeyed(nodes: NodesMaker) -> None:
    policy = sigmoid(nodes(None), STRENGTHS)
    policy.restrict("normal_a0", [0, 3])
    policy.restrict("normal_a1", [2])  # without none: it stays, weak as it is
    policy.restrict("normal_b1", [0])
    policy.restrict("reduce_a0", [1, 2])
    assert derived(Threshold(), policy) == (0, 2, 2, 0, 1, 1, 0, 0)


def test_choices_that_are_no_edges_take_their_strongest_option() -> None:
    assert derived(Threshold(), sigmoid(Tiny64(channels=4), STRENGTHS[:3])) == (1, 0, 2)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"threshold": 0.0}, r"derivation.threshold is 0.0: expected a number in \(0, 1\)"),
        ({"threshold": 1.0}, r"derivation.threshold is 1.0: expected a number in \(0, 1\)"),
        ({"threshold": float("nan")}, r"derivation.threshold is nan"),
        ({"edges": 0}, r"derivation.edges is 0: expected at least 1, or null"),
        ({"short": "perhaps"}, r"derivation.short is 'perhaps': expected 'filled' or 'refused'"),
    ],
)
def test_bad_values_are_refused(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        Threshold(**arguments)


def test_what_cannot_be_derived_is_refused_before_training(nodes: NodesMaker) -> None:
    cells = WeightSharing64(channels=4)
    with pytest.raises(InputError, match="keeps 1 of the 2 edges into node2, and an edge of weight_sharing_64 cannot"):
        Threshold(edges=1).check(cells, Sigmoid(cells))
    with pytest.raises(InputError, match=r"derivation.edges is 1, and node normal_a of nodes takes at least 2 inputs"):
        Threshold(edges=1).check(nodes(2), Sigmoid(nodes(2)))
    with pytest.raises(InputError, match="UniformPath has none: use BestRanked"):
        Threshold().check(cells, UniformPath(cells))
