"""NASNet's cells by hand: wiring, loose ends, sums over nodes, and layers that equal those over a concatenation."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nastricks.data import ImageSpec
from nastricks.rng import forked_rng, generator
from nastricks.spaces import Gate, Gates, NASNet
from nastricks.spaces.nasnet_cells import Align, Block, Cell, Head, Side, Source
from nastricks.spaces.nasnet_operations import OPERATIONS, FactorizedReduction, has_weights, operation

SPEC = ImageSpec(1, 8, 10)
SPACE = NASNet(3, "small", channels=4, cells=3, reductions=1, stem_channels=4)
LOOSE = Source(("block0", "block2"), 6, 1)


@pytest.fixture(autouse=True)
def _keyed() -> Iterator[None]:
    with forked_rng("cells"), torch.no_grad():
        yield


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape)


# Operations.


@pytest.mark.parametrize("name", OPERATIONS["published"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [8, 7, 2, 1])
def test_operations_keep_the_channels_and_stride(name: str, stride: int, size: int) -> None:
    op = operation(name, 6, stride, affine=True)
    assert op(noise(2, 6, size, size) if size > 1 else noise(8, 6, 1, 1)).shape[1:] == (6, *[-(-size // stride)] * 2)
    assert bool(list(op.parameters())) == has_weights(name, stride)


def test_an_operation_reads_the_neighbourhood_that_its_name_says() -> None:
    """A single bright pixel of 15x15, seen from where it reaches."""
    reach = {"identity": (1, 1), "conv_1x1": (1, 1), "dil_conv_3x3": (5, 5), "sep_conv_3x3": (5, 5)}
    reach |= {"sep_conv_5x5": (9, 9), "sep_conv_7x7": (13, 13), "conv_1x3_3x1": (3, 3), "conv_1x7_7x1": (7, 7)}
    x = torch.zeros(1, 6, 15, 15)
    bright = x.clone()
    bright[:, :, 7, 7] = 10.0
    for name in OPERATIONS["published"]:
        side = int(name[-1]) if name[-1].isdigit() else 1
        op = operation(name, 6, 1, affine=True).eval()
        changed = (op(bright) != op(x)).any(dim=1)[0].nonzero()
        extent = tuple((changed.max(0).values - changed.min(0).values + 1).tolist())
        assert extent == reach.get(name, (side, side)), name


def test_a_factorized_reduction_reads_the_pixels_of_both_diagonals() -> None:
    layer = FactorizedReduction(2, 4)
    x = noise(1, 2, 6, 6)
    even = F.conv2d(x[:, :, ::2, ::2], layer.even.weight)
    odd = F.conv2d(x[:, :, 1::2, 1::2], layer.odd.weight)
    torch.testing.assert_close(layer(x), torch.cat([even, odd], dim=1))
    assert FactorizedReduction(2, 5)(noise(1, 2, 7, 7)).shape == (1, 5, 4, 4)


# Loose ends.


@pytest.mark.parametrize("stride", [1, 2])
def test_a_convolution_an_end_is_the_convolution_over_the_concatenation(stride: int) -> None:
    align = Align(LOOSE, 4, stride, affine=True)
    ends = {name: noise(3, 6, 8, 8) for name in LOOSE.ends}
    x = F.relu(torch.cat(list(ends.values()), dim=1))

    def weight(part: str) -> Tensor:
        return torch.cat([align.get_parameter(f"parts.{end}{part}.weight") for end in LOOSE.ends], dim=1)

    if stride == 1:
        whole = F.conv2d(x, weight(""))
    else:
        halves = [F.conv2d(x[:, :, s::2, s::2], weight(part)) for s, part in ((0, ".even"), (1, ".odd"))]
        whole = torch.cat(halves, dim=1)
    expected = F.batch_norm(whole, None, None, training=True)
    torch.testing.assert_close(align.train()(ends), expected, atol=1e-5, rtol=1e-5)


def test_a_linear_an_end_is_the_linear_over_the_concatenation() -> None:
    head = Head(LOOSE, 10)
    head.bias.copy_(noise(10))
    ends = {name: noise(3, 6, 4, 4) for name in LOOSE.ends}
    x = F.adaptive_avg_pool2d(F.relu(torch.cat(list(ends.values()), dim=1)), 1).flatten(1)
    weight = torch.cat([head.get_parameter(f"parts.{end}.weight") for end in LOOSE.ends], dim=1)
    torch.testing.assert_close(head(({}, ends), {}), F.linear(x, weight, head.bias))


def test_loose_are_the_blocks_that_no_other_block_reads() -> None:
    rng = generator("loose")
    counts = set()
    for _ in range(15):
        architecture = SPACE.sample(rng)
        options = dict(zip((c.name for c in SPACE.choices), architecture, strict=True))
        child = SPACE.child(SPEC, architecture)
        loose = []
        for b in range(3):
            readers = [(r, s) for r in range(3) for s in (1, 2) if options[f"normal_block{r}_input{s}"] == 2 + b]
            loose += [] if readers else [f"block{b}"]
        state = child.segments["stem"](noise(2, 1, 8, 8), {})
        for place in range(1, 8):
            state = child.segments[f"cell{place}"](state, child.only_gates())
        assert list(state[1]) == list(child.get_submodule("segments.head.parts")._modules) == loose
        counts.add(len(loose))
    assert counts == {1, 2, 3}


# Wiring.


def cell_and_gates(text: str, name: str) -> tuple[Cell, Gates]:
    architecture = SPACE.parse(text)
    cell = SPACE.child(SPEC, architecture).segments[name]
    assert isinstance(cell, Cell)
    return cell.eval(), SPACE.gates(architecture)


REDUCE = "0.1.0.0.a-0.1.0.0.a-0.1.0.0.a"


@pytest.mark.parametrize("node", [0, 1])
def test_input0_is_the_cell_before_last_and_input1_the_last(node: int) -> None:
    """Two normal cells of one width: a swap would fit in shape."""
    read = "-".join([f"{node}.{node}.0.1.a"] * 3)
    cell, gates = cell_and_gates(f"{read}_{REDUCE}", "cell3")
    blocks = ("block0", "block1", "block2")
    before, last = ({name: noise(2, 4, 8, 8) for name in blocks} for _ in range(2))
    handed, own = cell((before, last), gates)
    assert handed is last
    other = {name: noise(2, 4, 8, 8) for name in blocks}
    states = {0: (before, other), 1: (other, last)}
    torch.testing.assert_close(cell(states[node], gates)[1], own)  # the one that is not read may be anything
    changed = cell(states[1 - node], gates)[1]
    assert all(not torch.allclose(changed[name], own[name]) for name in blocks)


def test_cells_are_chained_and_a_cell_that_nothing_reads_is_not_built() -> None:
    """Three normal cells, a reduction, three normal cells; normal cells that read k - 2 alone reach 7, 5 and 3."""
    skipping = "-".join(["0.0.0.1.a"] * 3)
    child = SPACE.child(SPEC, SPACE.parse(f"{skipping}_{REDUCE}"))
    built = [name for name, cell in child.segments.items() if name.startswith("cell") and list(cell.parameters())]
    assert built == ["cell1", "cell3", "cell5", "cell7"]
    chained = "-".join(["1.1.0.1.a"] * 3)
    child = SPACE.child(SPEC, SPACE.parse(f"{chained}_{REDUCE}"))
    assert all(list(child.get_submodule(f"segments.cell{i}").parameters()) for i in range(1, 8))
    # What the reduction cell is makes no difference where it is not reached.
    costs = {
        SPACE.cost(SPACE.parse(f"{skipping}_{other}"), SPEC) for other in (REDUCE, REDUCE.replace("0.0.a", "1.1.c"))
    }
    assert len(costs) == 1


def test_a_cell_by_hand() -> None:
    text = f"0.1.0.1.a-2.1.1.0.c-0.0.0.2.a_{REDUCE}"
    cell, gates = cell_and_gates(text, "cell2")
    before, last = {"stem": noise(2, 4, 8, 8)}, {name: noise(2, 4, 8, 8) for name in ("block1", "block2")}
    part = cell.get_submodule
    a, b = part("align.input0")(before), part("align.input1")(last)
    block0 = a + part("blocks.block0.side2.sets.stride1.ops.sep_conv_3x3")(b)
    left = part("blocks.block1.side1.sets.stride1.ops.sep_conv_3x3")(block0)
    block1 = part("blocks.block1.concat")(torch.cat([left, b], dim=1))
    block2 = a + F.max_pool2d(a, 3, 1, 1)
    torch.testing.assert_close(cell((before, last), gates)[1], {"block1": block1, "block2": block2})


def test_a_reduction_cell_halves_once() -> None:
    """Operations on the cell's inputs have stride 2, those on blocks stride 1; the same choice, weights apart."""
    text = "_".join(["-".join(["0.1.1.1.a"] * 3), "0.1.1.2.a-2.1.1.0.c-3.2.0.0.a"])
    cell, gates = cell_and_gates(text, "cell4")
    ends = {name: noise(2, 4, 8, 8) for name in ("block0", "block1", "block2")}
    (out,) = cell((ends, ends), gates)[1].values()
    assert out.shape == (2, 8, 4, 4)
    supernet = SPACE.supernet(SPEC).get_submodule("segments.cell4.blocks.block1.side1.sets")
    first, second = (dict(supernet.get_submodule(f"stride{s}").named_modules()) for s in (1, 2))
    assert isinstance(first["ops.identity"], nn.Identity)
    assert isinstance(second["ops.identity"], nn.Sequential)
    assert second["ops.sep_conv_3x3.1"].stride == (2, 2)


# Gates with weights.


def side_and_nodes(kind: str) -> tuple[Side, dict[int, Tensor]]:
    block = SPACE.supernet(SPEC).get_submodule(f"segments.{'cell1' if kind == 'normal' else 'cell4'}.blocks.block1")
    assert isinstance(block, Block)
    size = 8 if kind == "normal" else 4
    channels = 4 if kind == "normal" else 8
    return block.side1.eval(), {node: noise(2, channels, s, s) for node, s in ((0, 8), (1, 8), (2, size))}


@pytest.mark.parametrize("kind", ["normal", "reduce"])
@pytest.mark.parametrize("samples", [(), (2,)], ids=["an option", "an option and sample"])
def test_a_side_is_the_weighted_sum_over_nodes_and_operations(kind: str, samples: tuple[int, ...]) -> None:
    side, nodes = side_and_nodes(kind)
    w_nodes, w_ops = torch.rand(2, *samples), torch.rand(2, *samples)
    gates = {
        f"{kind}_block1_input1": Gate((2, 0), w_nodes),
        f"{kind}_block1_op1": Gate((1, 2), w_ops),
    }
    expected = torch.zeros(())
    for node, w in zip((2, 0), w_nodes, strict=True):
        stride = 2 if kind == "reduce" and node == 0 else 1
        for op, v in zip(("sep_conv_3x3", "max_pool_3x3"), w_ops, strict=True):
            y = side.get_submodule(f"sets.stride{stride}.ops.{op}")(nodes[node])
            expected = expected + (w * v).reshape(-1, 1, 1, 1) * y
    torch.testing.assert_close(side(nodes, gates), expected)


def test_the_bypass_of_an_operation_is_its_node_or_at_stride_2_the_nodes_mean() -> None:
    side, nodes = side_and_nodes("reduce")
    for node, own in ((2, nodes[2]), (0, F.avg_pool2d(nodes[0], 2))):
        read = {"reduce_block1_input1": Gate((node,))}
        alone = side(nodes, {**read, "reduce_block1_op1": Gate((1,))})
        both = side(nodes, {**read, "reduce_block1_op1": Gate((1,), bypass=torch.tensor(0.5))})
        torch.testing.assert_close(both, alone + 0.5 * own)
        rest = side(nodes, {**read, "reduce_block1_op1": Gate((), bypass=torch.tensor(2.0))})
        torch.testing.assert_close(rest, 2.0 * own)
    with pytest.raises(ValueError, match="no input of its own"):
        side(nodes, {"reduce_block1_input1": Gate((0,), bypass=torch.tensor(1.0))})
    with pytest.raises(ValueError, match="without active options"):
        side(nodes, {"reduce_block1_input1": Gate(())})


def test_combinations_are_weighted_and_what_is_dropped_becomes_the_sum() -> None:
    block = SPACE.supernet(SPEC).get_submodule("segments.cell1.blocks.block0").eval()
    nodes = {0: noise(2, 4, 8, 8), 1: noise(2, 4, 8, 8)}
    gates = {
        f"normal_block0_{key}{s}": Gate((s - 1 if key == "input" else 0,)) for key in ("input", "op") for s in (1, 2)
    }

    def combined(gate: Gate) -> Tensor:
        return block(nodes, {**gates, "normal_block0_combine": gate})

    added, joined = nodes[0] + nodes[1], block.get_submodule("concat")(torch.cat([nodes[0], nodes[1]], dim=1))
    torch.testing.assert_close(combined(Gate((0,))), added)
    torch.testing.assert_close(combined(Gate((1,))), joined)
    torch.testing.assert_close(combined(Gate((0, 1), torch.tensor([0.25, 0.5]))), 0.25 * added + 0.5 * joined)
    keep, dropped = torch.tensor([[1.0, 0.0]]), torch.tensor([0.0, 1.0])  # the second sample's concatenation is dropped
    expected = torch.stack([joined[0], added[1]])
    torch.testing.assert_close(combined(Gate((1,), keep, dropped)), expected)


def test_a_dropped_operation_adds_nothing() -> None:
    block = SPACE.supernet(SPEC).get_submodule("segments.cell1.blocks.block0").eval()
    nodes = {0: noise(2, 4, 8, 8), 1: noise(2, 4, 8, 8)}
    gates = {
        "normal_block0_input1": Gate((0,)),
        "normal_block0_input2": Gate((1,)),
        "normal_block0_op1": Gate((1,), torch.zeros(1, 2)),
        "normal_block0_op2": Gate((0,)),
        "normal_block0_combine": Gate((0,)),
    }
    torch.testing.assert_close(block(nodes, gates), nodes[1])


def test_softmax_weights_of_every_choice_get_a_gradient() -> None:
    space = NASNet(2, "small", channels=4, reductions=1, stem_channels=4)
    network = space.supernet(SPEC)
    with torch.enable_grad():
        gates = {
            c.name: Gate(tuple(range(len(c.options))), torch.rand(len(c.options), requires_grad=True))
            for c in space.choices
        }
        network(noise(4, 1, 8, 8), gates).square().sum().backward()
    for name, gate in gates.items():
        assert gate.weights is not None
        assert gate.weights.grad is not None, name
        assert bool((gate.weights.grad != 0).all()), name
