"""Derivations by hand: the strongest option of each choice, and the best of a ranking."""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import pytest
import torch

from nastricks.derivations import Argmax, BestEdges, BestRanked, Derivation, Perturbation, Threshold, Trained
from nastricks.errors import InputError
from nastricks.policies import (
    BinaryConcrete,
    BinaryGates,
    EdgeNormalised,
    GroupedSoftmax,
    GumbelHard,
    GumbelSoftmax,
    Policy,
    Sigmoid,
    Softmax,
    UniformPath,
)
from nastricks.spaces import DARTS, Architecture, Space, Tiny64

SPACE = Tiny64(channels=4)


def no_scores() -> Mapping[Architecture, float]:
    raise AssertionError("this derivation ranks nothing")


def softmax(alphas: Sequence[Sequence[float]]) -> Softmax:
    policy = Softmax(SPACE)
    with torch.no_grad():
        for choice, values in zip(SPACE.choices, alphas, strict=True):
            policy.alpha[choice.name].copy_(torch.tensor(values))
    return policy


def trained(policy: Policy, scores: Mapping[Architecture, float] | None = None) -> Trained:
    return Trained(SPACE, policy, no_scores if scores is None else lambda: scores)


def test_argmax_takes_the_strongest_option_of_each_choice_and_ranks_nothing() -> None:
    policy = softmax([[0, 3, 1, 2], [-5, -6, -4, -7], [9, 9.5, 0, 9.4]])
    assert Argmax().derive(trained(policy)) == (1, 2, 1)
    assert not Argmax.needs_ranking


def test_argmax_obeys_the_mask() -> None:
    policy = softmax([[0, 3, 1, 2], [-5, -6, -4, -7], [9, 9.5, 0, 9.4]])
    policy.restrict("layer1", [0, 2])
    policy.restrict("layer3", [2])
    assert Argmax().derive(trained(policy)) == (2, 2, 2)


def test_argmax_obeys_what_the_space_calls_legal() -> None:
    class Different(Tiny64):
        """No option twice in a row."""

        def legal(self, prefix: Sequence[int]) -> tuple[int, ...]:
            return tuple(i for i in super().legal(prefix) if not prefix or i != prefix[-1])

    policy = softmax([[0, 3, 1, 2]] * 3)
    assert Argmax().derive(Trained(Different(4), policy, no_scores)) == (1, 3, 1)


def test_argmax_needs_preferences() -> None:
    with pytest.raises(InputError, match="UniformPath has none: use BestRanked"):
        Argmax().derive(trained(UniformPath(SPACE)))


def test_best_ranked_obeys_the_mask() -> None:
    scores = {(3, 0, 0): 0.5, (1, 2, 3): 0.9}
    policy = UniformPath(SPACE)
    policy.restrict("layer1", [2, 3])
    assert BestRanked().derive(trained(policy, scores)) == (3, 0, 0)
    policy.restrict("layer2", [1])
    with pytest.raises(InputError, match="none of the 2 ranked children is allowed by the policy: rank more of them"):
        BestRanked().derive(trained(policy, scores))


def test_best_ranked_takes_the_best_and_the_first_of_equals() -> None:
    scores = {(3, 0, 0): 0.5, (1, 2, 3): 0.9, (0, 3, 3): 0.9, (2, 2, 2): 0.1}
    assert BestRanked().derive(trained(UniformPath(SPACE), scores)) == (0, 3, 3)
    assert BestRanked().derive(trained(UniformPath(SPACE), {**scores, (2, 2, 2): 0.91})) == (2, 2, 2)
    assert BestRanked.needs_ranking


OVER_ALPHA = [Softmax, Sigmoid, EdgeNormalised, GroupedSoftmax, GumbelSoftmax, GumbelHard, BinaryConcrete, BinaryGates]


@pytest.mark.parametrize(
    ("kind", "operations"),
    # GroupedSoftmax refuses S2, whose edges have one operation with weights and one without.
    [(kind, name) for kind in OVER_ALPHA for name in ("s2", "s3") if (kind, name) != (GroupedSoftmax, "s2")],
)
def test_every_policy_over_alpha_on_cells_with_and_without_none(
    kind: Callable[[Space], Policy], operations: Literal["s2", "s3"]
) -> None:
    """In S2 `none` is no part of the search, and an architecture takes it all the same."""
    space = DARTS(channels=4, cells=3, operations=operations)
    policy = kind(space)
    derivations: list[Derivation] = [BestEdges(), BestEdges(skips=1), Threshold(), Argmax()]
    for derivation in derivations:
        derivation.check(space, policy)
        picked = derivation.derive(Trained(space, policy, no_scores))
        assert space.check(picked) == picked
    if policy.mixed:
        measured = Trained(space, policy, no_scores, lambda draw: 0.0)
        assert space.check(Perturbation().derive(measured))
