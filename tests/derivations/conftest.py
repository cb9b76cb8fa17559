"""A made-up space of nodes: nothing of it is ever built."""

from collections.abc import Callable, Sequence
from typing import ClassVar

import pytest
import torch

from nastricks.data.batch import ImageSpec
from nastricks.policies import Softmax
from nastricks.spaces import Allowed, Choice, Network, Option, Space

OPTIONS = (
    Option("none", learns=False, absent=True),
    Option("skip", identity=True, learns=False, skip=True),
    Option("conv_3x3"),
    Option("max_pool", learns=False),
)
EDGES = {"normal_a": 2, "normal_b": 3, "reduce_a": 3}


class Nodes(Space):
    """Node `a` has two edges and node `b` three in the normal cell, node `a` of the reduction cell three.

    Args:
        inputs: The number of inputs that a node takes; None takes any number but none.
    """

    name: ClassVar[str] = "nodes"

    def __init__(self, inputs: int | None = None) -> None:
        self.inputs = inputs
        self.choices = tuple(
            Choice(f"{node}{edge}", OPTIONS, node=node, cell=node.partition("_")[0])
            for node, edges in EDGES.items()
            for edge in range(edges)
        )

    def build(self, spec: ImageSpec, allowed: Allowed) -> Network:
        raise AssertionError("nothing is built")

    def legal(self, prefix: Sequence[int]) -> tuple[int, ...]:
        node = self.choices[len(prefix)].node
        there = sum(i > 0 for i, c in zip(prefix, self.choices, strict=False) if c.node == node)
        left = sum(c.node == node for c in self.choices[len(prefix) :])  # edges to decide, this one included
        least, most = (1, 9) if self.inputs is None else (self.inputs, self.inputs)
        absent = (0,) if there + left - 1 >= least else ()
        return absent + ((1, 2, 3) if there < most else ())


@pytest.fixture
def nodes() -> Callable[[int | None], Space]:
    """``nodes(inputs)``: the space in which a node takes so many inputs, or any."""
    return Nodes


@pytest.fixture
def softmax() -> Callable[[Space, Sequence[Sequence[float]]], Softmax]:
    """``softmax(space, strengths)``: a policy that is as strong as that."""

    def make(space: Space, strengths: Sequence[Sequence[float]]) -> Softmax:
        policy = Softmax(space)
        with torch.no_grad():
            for choice, values in zip(space.choices, strengths, strict=True):
                policy.alpha[choice.name].copy_(torch.tensor(values).log())
        return policy

    return make
