"""Networks as after training, and children with their weights."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from nastricks.data import ImageSpec
from nastricks.rng import forked_rng
from nastricks.spaces import Architecture, Network, Space

SPEC = ImageSpec(1, 8, 10)
Build = Callable[[Space], Network]
Cut = Callable[[Network, Space, Architecture], Network]


@pytest.fixture(scope="session")
def supernet_of() -> Build:
    """``supernet_of(space)``: on 8x8 images, with random batch-norm statistics and affine parameters."""

    def build(space: Space) -> Network:
        with forked_rng("supernet"), torch.no_grad():
            network = space.supernet(SPEC)
            for module in network.modules():
                if isinstance(module, nn.BatchNorm2d):
                    assert module.running_mean is not None
                    assert module.running_var is not None
                    module.running_mean.normal_()
                    module.running_var.uniform_(0.5, 2.0)
                    if module.affine:
                        module.weight.uniform_(0.5, 1.5)
                        module.bias.normal_()
        return network

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
