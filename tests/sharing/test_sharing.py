"""Sharing: which copy of the weights an architecture uses."""

import torch

from nastricks.data import ImageSpec
from nastricks.sharing import ShareAll
from nastricks.spaces import Tiny64

SPACE, SPEC = Tiny64(channels=4), ImageSpec(1, 8, 10)


def test_all_architectures_share_one_supernet() -> None:
    (network,) = ShareAll().networks(SPACE, SPEC, SPACE.all_options())
    assert set(network.state_dict()) == set(SPACE.supernet(SPEC).state_dict())
    assert {ShareAll().copy_of(a) for a in SPACE.architectures()} == {0}
    assert ShareAll().copy_of(None) == 0


def test_the_copy_holds_the_allowed_options_alone() -> None:
    allowed = {**SPACE.all_options(), "layer1": (1, 3)}
    (network,) = ShareAll().networks(SPACE, SPEC, allowed)
    assert network.allowed == allowed
    images = torch.randn(2, 1, 8, 8)
    assert network(images, SPACE.gates((3, 0, 0))).shape == (2, 10)
    assert not any("layer1.choice.ops.max_pool_3x3" in key for key in network.state_dict())
