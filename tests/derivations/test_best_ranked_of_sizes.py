"""The best of all ranked children where the mask is narrower than the spelling that is counted."""

from collections.abc import Callable

import pytest

from nastricks.derivations import BestRanked, Trained
from nastricks.policies import UniformPath
from nastricks.ranking.derive import allowed_children
from nastricks.run import Run
from nastricks.spaces import Architecture, Elastic, ElasticStage

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
]

SPACE = Elastic(
    (ElasticStage(16, 1),), None, (1.0,), "network", (1, 2), (3, 5), (2, 4),
    stem_channels=8, stem_stride=1, head_channels=16, features=16,
)  # fmt: skip


def narrowed() -> UniformPath:
    """Expansions stay at their largest, as before the last phase of once-for-all."""
    policy = UniformPath(SPACE)
    for choice in SPACE.choices:
        if choice.dimension == "expansion":
            policy.restrict(choice.name, [1])
    return policy


def test_a_shallow_network_counts_though_its_skipped_sizes_are_spelt_small() -> None:
    found = SPACE.counted_within(narrowed().allowed)
    names = [SPACE.format(architecture) for architecture in found]
    assert names == [
        "w1_d1-k3e4",
        "w1_d1-k5e4",
        "w1_d2-k3e4-k3e4",
        "w1_d2-k3e4-k5e4",
        "w1_d2-k5e4-k3e4",
        "w1_d2-k5e4-k5e4",
    ]
    assert SPACE.counted_within(SPACE.all_options()) == list(SPACE.rankable())


@pytest.mark.parametrize("best", ["w1_d1-k5e4", "w1_d2-k3e4-k5e4"])
def test_the_best_that_is_allowed_is_found(best: str) -> None:
    scores: dict[Architecture, float] = dict.fromkeys(SPACE.rankable(), 0.5)
    scores[SPACE.parse("w1_d2-k5e2-k5e2")] = 0.9  # better, and not allowed
    scores[SPACE.parse(best)] = 0.7
    derived = BestRanked().derive(Trained(SPACE, narrowed(), lambda: scores))
    assert SPACE.format(derived) == best


def test_only_what_the_policy_allows_is_scored(make: Callable[..., Run]) -> None:
    run = make("spos")
    assert len(allowed_children(run)) == 64
    run.module.policy.restrict("layer2", [1, 3])
    assert {a[1] for a in allowed_children(run)} == {1, 3}
    assert len(allowed_children(run)) == 32
