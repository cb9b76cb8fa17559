"""Networks as after training, and children with their weights."""

from collections.abc import Callable

import pytest

from nastricks.data import ImageSpec
from nastricks.rng import forked_rng
from nastricks.spaces import Architecture, Network, Space

SPEC = ImageSpec(1, 8, 10)
Build = Callable[..., Network]
Cut = Callable[[Network, Space, Architecture], Network]


@pytest.fixture(scope="session")
def supernet_of(worn: Callable[..., Network]) -> Build:
    """``supernet_of(space, spec)``: with random statistics and affine parameters; on 8x8 images unless said."""

    def build(space: Space, spec: ImageSpec = SPEC) -> Network:
        with forked_rng("supernet"):
            return worn(space.supernet(spec), "statistics")

    return build


@pytest.fixture(scope="session")
def child_of() -> Cut:
    """``child_of(supernet, space, architecture)``: the child alone, with the supernet's weights and buffers."""

    def cut(supernet: Network, space: Space, architecture: Architecture) -> Network:
        child = space.child(SPEC, architecture)
        whole = supernet.state_dict()
        child.load_state_dict({key: whole[key].clone() for key in child.state_dict()})
        return child

    return cut
