"""The most likely of a controller's draws."""

import pytest
import torch

from nastricks.derivations import MostLikely, Trained
from nastricks.errors import InputError
from nastricks.policies import Independent, LSTMController, Policy, UniformPath
from nastricks.rng import generator
from nastricks.spaces import Tiny64

SPACE = Tiny64(channels=4)


def trained(policy: Policy) -> Trained:
    return Trained(SPACE, policy, dict)


def test_the_most_likely_draw_wins() -> None:
    policy = LSTMController(SPACE, hidden=8, init_range=1.5, seed=0)
    best = max(SPACE.architectures(), key=lambda a: float(policy.log_prob(a).detach()))
    assert MostLikely(samples=500).derive(trained(policy)) == best
    few = policy.draw(generator(3, "most_likely"), 4).architectures
    likely = max(few, key=lambda a: float(policy.log_prob(a).detach()) if a is not None else -torch.inf)
    assert MostLikely(samples=4, seed=3).derive(trained(policy)) == likely
    policy.restrict("layer2", [(best[1] + 1) % 4])
    assert MostLikely().derive(trained(policy))[1] == (best[1] + 1) % 4
    assert not MostLikely.needs_ranking


def test_the_first_of_equals_wins() -> None:
    assert MostLikely(samples=2_000).derive(trained(Independent(SPACE))) == (0, 0, 0)


def test_what_cannot_be_derived_is_refused() -> None:
    with pytest.raises(InputError, match=r"derivation.samples is 0: expected at least 1"):
        MostLikely(samples=0)
    with pytest.raises(InputError, match="UniformPath draws none: use BestRanked"):
        MostLikely().derive(trained(UniformPath(SPACE)))
    policy = LSTMController(SPACE, masked=False, seed=0)
    policy.restrict("layer1", [0])
    for name in ("layer2", "layer3"):
        policy.restrict(name, [1])
    with pytest.raises(InputError, match="all 2 draws of LSTMController were illegal in tiny64"):
        MostLikely(samples=2, seed=1).derive(trained(policy))
