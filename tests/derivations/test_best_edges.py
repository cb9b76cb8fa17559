"""Best edges by hand, and against the published parse of DARTS and the cap of P-DARTS written out."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch

from nastricks.derivations import BestEdges, Trained
from nastricks.errors import InputError
from nastricks.policies import Softmax, UniformPath
from nastricks.rng import generator
from nastricks.spaces import Architecture, Space, Tiny64, WeightSharing64

NodesMaker = Callable[[int | None], Space]
PolicyMaker = Callable[[Space, Sequence[Sequence[float]]], Softmax]

STRENGTHS = [
    [0.4, 0.3, 0.2, 0.1],  # node a of the normal cell
    [0.1, 0.2, 0.3, 0.4],
    [0.7, 0.1, 0.1, 0.1],  # node b
    [0.1, 0.5, 0.3, 0.1],
    [0.2, 0.2, 0.2, 0.4],
    [0.1, 0.6, 0.2, 0.1],  # node a of the reduction cell
    [0.1, 0.1, 0.7, 0.1],
    [0.1, 0.8, 0.1, 0.0001],
]


def no_scores() -> Mapping[Architecture, float]:
    raise AssertionError("this derivation ranks nothing")


def derived(derivation: BestEdges, policy: Softmax) -> Architecture:
    derivation.check(policy.space, policy)
    return derivation.derive(Trained(policy.space, policy, no_scores))


def test_two_edges_of_each_node_stay_with_their_best_operation(nodes: NodesMaker, softmax: PolicyMaker) -> None:
    policy = softmax(nodes(2), STRENGTHS)
    assert derived(BestEdges(), policy) == (1, 3, 0, 1, 3, 0, 2, 1)
    assert derived(BestEdges(edges=1), softmax(nodes(None), STRENGTHS)) == (0, 3, 0, 1, 0, 0, 0, 1)
    assert derived(BestEdges(edges=3), softmax(nodes(None), STRENGTHS)) == (1, 3, 1, 1, 3, 1, 2, 1)
    assert not BestEdges.needs_ranking


def test_none_left_out_or_kept(nodes: NodesMaker, softmax: PolicyMaker) -> None:
    strengths = [[0.9, 0.04, 0.03, 0.03], [0.9, 0.03, 0.04, 0.03], *STRENGTHS[2:]]
    policy = softmax(nodes(None), [[0.8, 0.1, 0.05, 0.05], *STRENGTHS[1:]])
    assert derived(BestEdges(), policy)[:5] == (1, 3, 0, 1, 3)
    assert derived(BestEdges(none="kept"), policy)[:5] == (0, 3, 0, 1, 3)
    with pytest.raises(InputError, match="leaves node normal_a without input, and nodes demands 1 to 2: take"):
        derived(BestEdges(none="kept"), softmax(nodes(None), strengths))
    assert derived(BestEdges(), softmax(nodes(None), strengths))[:2] == (1, 2)


def test_ties_go_to_the_first(nodes: NodesMaker, softmax: PolicyMaker) -> None:
    assert derived(BestEdges(), softmax(nodes(2), [[0.25] * 4] * 8)) == (1, 1, 1, 1, 0, 1, 1, 0)


def test_the_mask_is_obeyed(nodes: NodesMaker, softmax: PolicyMaker) -> None:
    policy = softmax(nodes(2), STRENGTHS)
    policy.restrict("normal_b1", [0])
    policy.restrict("reduce_a0", [2, 3])  # without none: this edge stays
    policy.restrict("normal_a1", [1])
    assert derived(BestEdges(), policy) == (1, 1, 1, 0, 3, 2, 0, 1)
    for place, name in enumerate(policy.allowed):
        policy.restrict(name, [(1, 1, 1, 0, 3, 2, 0, 1)[place]])
    assert derived(BestEdges(), policy) == (1, 1, 1, 0, 3, 2, 0, 1)


def published(strengths: Sequence[Sequence[float]], skips: int | None) -> Architecture:
    """Section 2.4 of DARTS, and the loop at the end of P-DARTS's search, on lists of probabilities without none."""
    rows = [list(row[1:]) for row in strengths]
    while True:
        picked = [0] * 8
        for node in (range(2), range(2, 5), range(5, 8)):
            for edge in sorted(node, key=lambda e: -max(rows[e]))[:2]:
                picked[edge] = 1 + rows[edge].index(max(rows[edge]))
        there = [edge for edge in range(5) if picked[edge] == 1]
        if skips is None or len(there) <= skips:
            return tuple(picked)
        rows[min(there, key=lambda e: rows[e][0])][0] = 0.0


@pytest.mark.parametrize("skips", [None, 0, 1, 2, 3])
def test_equals_the_published_procedure(skips: int | None, nodes: NodesMaker, softmax: PolicyMaker) -> None:
    capped = 0
    for seed in range(40):
        rng = generator(seed, "strengths")
        strengths = torch.rand(8, 4, generator=rng)
        strengths[:, 1] *= 2  # many skips
        rows = torch.softmax(strengths.log(), 1).tolist()
        expected = published(rows, skips)
        assert derived(BestEdges(skips=skips), softmax(nodes(2), rows)) == expected
        capped += expected != published(rows, None)
    assert (capped > 0) == (skips is not None)


def test_the_cap_counts_the_cell_that_it_is_told(nodes: NodesMaker, softmax: PolicyMaker) -> None:
    policy = softmax(nodes(2), STRENGTHS)
    assert derived(BestEdges(skips=1), policy) == (2, 3, 0, 1, 3, 0, 2, 1)
    assert derived(BestEdges(skips=0), policy) == (2, 3, 0, 2, 3, 0, 2, 1)
    # The crossed-out skip's edge gives way: 0.1 is less than the 0.6 of the first edge.
    assert derived(BestEdges(skips=0, cell="reduce"), policy) == (1, 3, 0, 1, 3, 2, 2, 0)


def test_a_cap_that_cannot_be_kept_is_refused(nodes: NodesMaker, softmax: PolicyMaker) -> None:
    policy = softmax(nodes(2), STRENGTHS)
    policy.restrict("normal_a0", [1])
    with pytest.raises(InputError, match="normal_a0 of nodes has nothing but a skip left"):
        derived(BestEdges(skips=0), policy)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"edges": 0}, "derivation.edges is 0: expected at least 1"),
        ({"none": "perhaps"}, "derivation.none is 'perhaps': expected 'left out' or 'kept'"),
        ({"skips": -1}, "derivation.skips is -1: expected at least 0"),
    ],
)
def test_bad_values_are_refused(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        BestEdges(**arguments)


@pytest.mark.parametrize(
    ("inputs", "arguments", "sentence"),
    [
        (2, {"edges": 1}, "derivation.edges is 1, and node normal_a of nodes takes at least 2 inputs"),
        (1, {"edges": 2}, "derivation.edges is 2, and node normal_a of nodes takes at most 1 inputs"),
        (2, {"edges": 3}, "derivation.edges is 3, and node normal_b of nodes takes at most 2 inputs"),
        (2, {"none": "kept"}, "may leave node normal_b with fewer than the 2 inputs that nodes demands"),
        (2, {"skips": 1, "cell": "norml"}, "nodes has no cell 'norml': it has normal, reduce"),
    ],
)
def test_what_cannot_be_derived_is_refused_before_training(
    inputs: int, arguments: dict[str, Any], sentence: str, nodes: NodesMaker
) -> None:
    space = nodes(inputs)
    with pytest.raises(InputError, match=sentence):
        BestEdges(**arguments).check(space, Softmax(space))


def test_spaces_without_nodes_none_or_skips_are_refused() -> None:
    tiny, cells = Tiny64(channels=4), WeightSharing64(channels=4)
    with pytest.raises(InputError, match="needs edges into nodes, and tiny64 has none: use Argmax"):
        BestEdges().check(tiny, Softmax(tiny))
    with pytest.raises(InputError, match="keeps 1 of the 2 edges into node2, and an edge of weight_sharing_64 cannot"):
        BestEdges(edges=1).check(cells, Softmax(cells))
    with pytest.raises(InputError, match=r"derivation.skips is 2, and weight_sharing_64 has no skip there"):
        BestEdges(skips=2).check(cells, Softmax(cells))
    with pytest.raises(InputError, match="UniformPath has none: use BestRanked"):
        BestEdges().check(cells, UniformPath(cells))


def test_a_space_whose_nodes_have_few_edges_keeps_them_all(softmax: PolicyMaker) -> None:
    policy = softmax(WeightSharing64(channels=4), [[0.1, 0.2, 0.3, 0.4], [0.4, 0.3, 0.2, 0.1], [0.1, 0.6, 0.2, 0.1]])
    assert derived(BestEdges(), policy) == (3, 0, 1)
