"""Which operations are dropped from, how often, and in which passes."""

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nastricks.callbacks.op_dropout import OpDropout, dropout_rate, dropped_operations, has_weights
from nastricks.data import ImageSpec
from nastricks.errors import InputError
from nastricks.modules.step import TrainingStep
from nastricks.recipe import resolve
from nastricks.rng import forked_rng
from nastricks.run import Run, build
from nastricks.spaces import DARTS, Gates, NASNet, Tiny64, WeightSharing64

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
]

Make = Callable[..., Run]
Stand = Callable[[Run], TrainingStep]
SPEC = ImageSpec(1, 8, 10)


def test_the_rate_falls_exponentially() -> None:
    assert dropout_rate(0.4, 3.0, 0.0) == 0.4
    assert dropout_rate(0.4, 3.0, 1.0) == pytest.approx(0.4 * math.exp(-3))
    # The released code multiplies by exp(-0.2) an epoch, over 15 epochs in which alpha learns.
    assert dropout_rate(0.7, 0.2 * 15, 4 / 15) == pytest.approx(0.7 * math.exp(-0.2 * 4))
    assert dropout_rate(0.4, 0.0, 0.7) == 0.4


def test_the_rate_starts_again_where_alpha_begins_to_learn() -> None:
    """The released code of P-DARTS: 25 epochs, alpha frozen for 10."""
    for epoch in range(25):
        expected = 0.7 * (25 - epoch) / 25 if epoch < 10 else 0.7 * math.exp(-0.2 * (epoch - 10))
        assert dropout_rate(0.7, 3.0, epoch / 25, restart=0.4) == pytest.approx(expected)


def test_a_batch_norm_counts_as_no_weights() -> None:
    assert not has_weights(nn.Sequential(nn.MaxPool2d(3), nn.BatchNorm2d(4)))
    assert has_weights(nn.Sequential(nn.ReLU(), nn.Conv2d(4, 4, 1)))
    assert not has_weights(nn.Identity())


@pytest.mark.parametrize(
    ("space", "skips", "parameter_free"),
    [
        (Tiny64(channels=4), 3, 6),  # identities, and as many pools
        (WeightSharing64(channels=4, cells=2), 0, 6),  # pools on 3 edges of 2 cells
        # Reduction cells read blocks at stride 1, where a skip is an identity, and inputs at stride 2, where it is a
        # convolution. Sides that read blocks: 2 of 2 blocks in each of 2 reduction cells; normal cells have 4 sides.
        (NASNet(blocks=2, channels=4, stem_channels=4), 3 * 4 + 2 * 2, 2 * (3 * 4) + 2 * 2 + 2 * (4 + 2)),
        # 14 edges in a normal and two reduction cells, of which 8 have stride 2; two pools an edge.
        (DARTS(channels=4, cells=3), 14 + 2 * 6, 14 + 2 * 6 + 2 * 3 * 14),
    ],
    ids=["tiny64", "weight_sharing_64", "nasnet", "darts"],
)
def test_which_operations(space: Any, skips: int, parameter_free: int) -> None:
    network = space.supernet(SPEC)
    assert len(dropped_operations(space, network, "skips")) == skips
    assert all(isinstance(op, nn.Identity) for op in dropped_operations(space, network, "skips"))
    assert len(dropped_operations(space, network, "parameter_free")) == parameter_free


# In a step.


def passes(step: TrainingStep, gates: Gates, role: Any) -> list[tuple[Tensor, Tensor]]:
    """Input and output of every identity in one pass."""
    module = step.module
    seen: list[tuple[Tensor, Tensor]] = []
    handles = [
        m.register_forward_hook(lambda op, inputs, output: seen.append((inputs[0], output)))
        for m in module.networks.modules()
        if isinstance(m, nn.Identity)
    ]
    with torch.no_grad():
        step.loss(gates, step.train, role=role)
    for handle in handles:
        handle.remove()
    assert len(seen) == 3
    return seen


@pytest.mark.parametrize("role", ["weights", "policy"])
def test_elements_are_dropped_and_the_rest_is_scaled(role: Any, make: Make, stand: Stand) -> None:
    step = stand(make("darts", {"op_dropout": {"probability": 0.4}}))
    (gates,) = step.propose()
    for x, y in passes(step, gates, role):
        dropped = (y == 0) & (x != 0)
        count = int((x != 0).sum())
        assert abs(int(dropped.sum()) - 0.4 * count) < 4 * math.sqrt(0.4 * 0.6 * count)
        torch.testing.assert_close(y[~dropped], x[~dropped] / 0.6)
        # Elements are dropped, not whole samples or channels.
        rows = dropped.flatten(1).double().mean(1)
        assert 0.2 < float(rows.min()) <= float(rows.max()) < 0.6


def test_the_same_pass_drops_the_same(make: Make, stand: Stand) -> None:
    step = stand(make("darts", {"op_dropout": {"probability": 0.4}}))
    (gates,) = step.propose()
    first, again, other = (passes(step, gates, role) for role in ("policy", "policy", "weights"))
    assert all(torch.equal(a[1], b[1]) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0][1] == 0, other[0][1] == 0)


@pytest.mark.parametrize("role", ["attack", "evaluation"])
def test_other_passes_are_left_alone(role: Any, make: Make, stand: Stand) -> None:
    step = stand(make("darts", {"op_dropout": {"probability": 0.4}}))
    (gates,) = step.propose()
    assert all(torch.equal(x, y) for x, y in passes(step, gates, role))


def test_passes_in_eval_mode_and_rewards_are_left_alone(make: Make, stand: Stand) -> None:
    plain, step = (stand(make("darts", tricks)) for tricks in ({}, {"op_dropout": {"probability": 0.9}}))
    path = [step.module.space.parse("444")]
    assert torch.equal(step.reward(path), plain.reward(path))  # in train mode, but not through `on_gates`
    (gates,) = step.propose()
    step.loss(gates, step.train)  # arms nothing for the pass after it
    assert torch.equal(step.reward(path), plain.reward(path))
    step.module.eval()
    assert all(torch.equal(x, y) for x, y in passes(step, gates, "weights"))


def test_second_passes_drop_the_same(make: Make) -> None:
    """With a radius of 0 SAM's second pass gives the gradients of the first, if both see the same mask."""
    ends = []
    for others in ({}, {"sam": {"rho": 0.0}}):
        run = make("darts", {"op_dropout": {"probability": 0.5}, **others})
        run.fit()
        ends.append(run.module.networks.state_dict())
    assert all(torch.equal(value, ends[1][key]) for key, value in ends[0].items())


def test_acts_are_passes_in_which_something_was_dropped(make: Make, stand: Stand) -> None:
    run = make("darts", {"op_dropout": {"probability": 0.4}})
    step = stand(run)
    (gates,) = step.propose()
    for _ in range(2):
        step.loss(gates, step.train)
    step.loss(step.module.space.gates(step.module.space.parse("222")), step.train)  # no skip on this path
    assert run.tricks[0].acts == 2


def test_names_of_weights_stay_and_copies_are_whole(make: Make, stand: Stand) -> None:
    plain, step = (stand(make("darts", tricks)) for tricks in ({}, {"op_dropout": {"probability": 0.4}}))
    networks = step.module.networks
    assert list(plain.module.networks.state_dict()) == list(networks.state_dict())
    copied = copy.deepcopy(networks)
    assert sum(len(m._forward_hooks) for m in copied.modules()) == 3 + 1
    with forked_rng("copy"), torch.no_grad():
        copied[0](step.train.images, step.module.space.gates((3, 3, 3)))


def test_a_child_with_an_auxiliary_head_is_dropped_from(stand: Stand) -> None:
    """Its passes go another way through the network, and end in the same place."""
    stack = ["spaces/darts.yaml", "data/digits.yaml", "child/darts.yaml", "tricks/op_dropout.yaml"]
    small = ["--trainer.accelerator", "cpu", "--trainer.max_steps", "1", "--data.init_args.batch_size", "8"]
    run = build(resolve(stack, [*small, "--space.init_args.auxiliary_head", "true"]), None, quiet=True)
    assert run.module.networks[0].auxiliary is not None
    run.fit()
    (trick,) = run.tricks
    assert trick.acts == 1
    assert isinstance(trick, OpDropout)
    assert trick._rate == 0.0


# Refusals.


def test_a_space_without_skips_is_refused_and_its_pools_are_not() -> None:
    stack = ["spaces/weight_sharing_64.yaml", "data/digits.yaml", "algorithms/spos.yaml", "tricks/op_dropout.yaml"]
    with pytest.raises(InputError, match="needs a skip connection, and this network of weight_sharing_64 has none"):
        build(resolve(stack, ["--trainer.accelerator", "cpu"]), None, quiet=True).check()
    build(resolve(stack, ["--tricks.op_dropout.target", "parameter_free"]), None, quiet=True).check()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"probability": 1.0}, r"op_dropout.probability is 1.0: expected a number in \[0, 1\)"),
        ({"probability": -0.1}, r"op_dropout.probability is -0.1"),
        ({"decay": -1.0}, r"op_dropout.decay is -1.0: expected at least 0"),
        ({"restart": 1.0}, r"op_dropout.restart is 1.0: expected a number in \[0, 1\)"),
        ({"target": "pools"}, r"op_dropout.target is 'pools': expected skips or parameter_free"),
    ],
)
def test_bad_values_are_refused(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        OpDropout(**arguments)
