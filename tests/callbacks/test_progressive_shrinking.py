"""Sizes open in their order, none before its phase; sorted channels and their momentum leave what is open as it was."""

import copy
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nastricks.callbacks.progressive_shrinking import ProgressiveShrinking, default_starts, narrowing, portions
from nastricks.data import ImageSpec
from nastricks.errors import InputError
from nastricks.moment import Moment
from nastricks.policies import UniformPath
from nastricks.recipe import resolve
from nastricks.rng import forked_rng, generator
from nastricks.run import Run, build
from nastricks.spaces import Allowed, Elastic, ElasticStage, Network, Slimmable, SlimStage, Space, Tiny64
from nastricks.spaces.reordering import Reorderable, by_importance, reorder

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
]

Build = Callable[..., Network]
SPEC = ImageSpec(1, 8, 10)
STAGES = (ElasticStage(16, 1), ElasticStage(32, 2, squeeze=True, hard_swish=True))
ELASTIC = Elastic(
    STAGES, (6, 8), (1.0,), "network", (1, 2), (3, 5, 7), (1, 2, 3), "learned",
    stem_channels=8, stem_stride=1, head_channels=24, features=16,
)  # fmt: skip
SPACES: dict[str, Space] = {
    "elastic": ELASTIC,
    "resnet": Slimmable("resnet", (SlimStage(8, 2), SlimStage(16, 1, stride=2)), widths=(0.25, 0.5, 1.0), divisor=2),
    "mobilenet_v2": Slimmable(
        "mobilenet_v2",
        (SlimStage(8, 1, expansion=1), SlimStage(16, 2, stride=2, expansion=3)),
        widths=(0.25, 0.5, 1.0),
        divisor=2,
        stem_channels=8,
        head_channels=24,
    ),
}
in_every_space = pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)


# Phases.


def test_portions_hold_every_size_but_the_largest_from_large_to_small() -> None:
    assert portions((0, 1, 2, 3), 1) == [(2, 1, 0)]
    assert portions((0, 1, 2, 3), 3) == [(2,), (1,), (0,)]
    assert portions((0, 1, 2, 3), 2) == [(2, 1), (0,)]
    assert portions((1, 3), 1) == [(1,)]
    assert portions((2,), 1) == [()]


def test_by_default_the_first_part_of_the_run_trains_the_largest_at_every_resolution() -> None:
    assert default_starts(["resolution", "kernel", "depth", "depth"]) == [0.0, 0.25, 0.5, 0.75]
    assert default_starts(["width", "width"]) == pytest.approx([1 / 3, 2 / 3])


class Opened(pl.Callback):
    """The mask of every epoch, and the paths that ran in it."""

    def __init__(self) -> None:
        self.masks: dict[int, dict[str, tuple[int, ...]]] = {}
        self.ran: list[tuple[int, dict[str, int]]] = []
        self.epoch = 0

    def on_fit_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        def note(segment: nn.Module, inputs: tuple[Any, ...]) -> None:
            self.ran.append((self.epoch, {name: gate.active[0] for name, gate in inputs[1].items()}))

        pl_module.networks[0].segments["stem"].register_forward_pre_hook(note)

    def on_train_batch_start(self, trainer: pl.Trainer, *args: Any) -> None:
        self.epoch = trainer.current_epoch

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *args: Any) -> None:
        self.masks[trainer.current_epoch] = dict(pl_module.policy.allowed)


def shrunk(**arguments: Any) -> tuple[Run, Opened]:
    """A run of six epochs over the small elastic space, eight uniform paths an epoch."""
    keys = {
        "data.init_args.train_size": 64,
        "data.init_args.search_size": 16,
        "data.init_args.validation_size": 16,
        "data.init_args.batch_size": 8,
        "trainer.accelerator": "cpu",
        "trainer.max_epochs": 6,
        "space.init_args.kernels": [3, 5, 7],
        **{f"tricks.progressive_shrinking.{key}": value for key, value in arguments.items()},
    }
    if not arguments:
        keys["tricks.progressive_shrinking"] = "{}"
    files = ["recipes/spaces/elastic.yaml", "recipes/data/digits.yaml", "recipes/algorithms/spos.yaml"]
    run, opened = build(resolve(files, [f"--{key}={value}" for key, value in keys.items()]), None, quiet=True), Opened()
    run.trainer.callbacks.append(opened)  # type: ignore[attr-defined]
    run.fit()
    return run, opened


def open_dimensions(space: Space, mask: Allowed) -> set[str]:
    return {str(c.dimension) for c in space.choices if len(mask[c.name]) > 1}


def test_no_option_is_sampled_before_its_phase() -> None:
    run, opened = shrunk()
    expected = [
        {"resolution"},
        {"resolution"},
        {"resolution", "kernel"},
        {"resolution", "kernel", "depth"},
        {"resolution", "kernel", "depth", "expansion"},
        {"resolution", "kernel", "depth", "expansion", "width"},
    ]
    space = run.module.space
    assert [open_dimensions(space, opened.masks[epoch]) for epoch in range(6)] == expected
    assert opened.masks[5] == space.all_options()
    largest = dict(zip([c.name for c in space.choices], space.largest(space.all_options()), strict=True))
    assert len(opened.ran) == 48
    sampled: dict[str, set[int]] = {}
    for epoch, path in opened.ran:
        for choice in space.choices:
            if choice.dimension not in expected[epoch]:
                assert path[choice.name] == largest[choice.name]
            elif path[choice.name] != largest[choice.name]:
                sampled.setdefault(str(choice.dimension), set()).add(epoch)
    assert set(sampled) == {"resolution", "kernel", "depth", "expansion", "width"}
    assert run.tricks[0].acts == 6  # closing all, and five phases


def test_a_dimension_opens_in_as_many_portions_as_it_is_named_and_others_are_open_or_closed() -> None:
    run, opened = shrunk(phases=["kernel", "depth", "kernel"], starts=[0.2, 0.5, 0.5], closed=["expansion"])
    kernels = [opened.masks[epoch]["stage1_block1_kernel"] for epoch in range(6)]
    assert kernels == [(2,), (2,), (1, 2), (0, 1, 2), (0, 1, 2), (0, 1, 2)]
    assert [opened.masks[epoch]["stage2_depth"] for epoch in range(6)] == [(1,)] * 3 + [(0, 1)] * 3
    for epoch in range(6):
        assert opened.masks[epoch]["resolution"] == opened.masks[epoch]["width"] == (0, 1)  # named nowhere
        assert opened.masks[epoch]["stage1_block1_expansion"] == (1,)
    assert run.module.policy.allowed == opened.masks[5]


# Channels.


def test_channels_are_sorted_among_those_that_a_size_has_already() -> None:
    importance = torch.tensor([1.0, 4.0, 2.0, 9.0, 3.0, 3.0])
    assert by_importance(importance, [6]).tolist() == [3, 1, 4, 5, 2, 0]
    assert by_importance(importance, [3, 6]).tolist() == [1, 2, 0, 3, 4, 5]
    assert by_importance(importance, [1, 2, 6]).tolist() == [0, 1, 3, 4, 5, 2]


@pytest.fixture
def supernet_of(worn: Build) -> Build:
    """``supernet_of(space)``: a supernet in double precision with random statistics, as after training."""

    def network(space: Space) -> Network:
        with forked_rng("network"):
            return worn(space.supernet(SPEC).double(), "worn")

    return network


def reorderable(network: nn.Module) -> list[Any]:
    return [block for block in network.modules() if isinstance(block, Reorderable) and block.hidden_axes()]


def outputs(space: Space, network: Network, options: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Of the largest and some random paths within the options, in both modes."""
    images = torch.randn(4, 1, 8, 8, generator=generator("images"), dtype=torch.float64)
    policy, found = UniformPath(space), {}
    for name, allowed in options.items():
        policy.restrict(name, allowed)
    for training in (False, True):
        network.train(training)
        for step in range(6):
            (gates,) = policy.propose(Moment(role="weights", seed=3, step=step))
            chosen = tuple(gates[choice.name].active[0] for choice in space.choices)
            found[f"{training} {space.format(chosen)}"] = copy.deepcopy(network)(images, gates).detach()
        found[f"{training} largest"] = copy.deepcopy(network)(images, space.gates(space.largest(options))).detach()
    return found


@in_every_space
@pytest.mark.parametrize("first", [1, 2], ids=["the two largest sizes are open", "the largest alone is open"])
def test_sorting_leaves_every_open_path_as_it_was(space: Space, first: int, supernet_of: Build) -> None:
    network = supernet_of(space)
    sized = ("expansion", "width")
    options = {
        c.name: tuple(range(len(c.options)))[first if c.dimension in sized and len(c.options) > first else 0 :]
        for c in space.choices
    }
    before = outputs(space, network, options)
    blocks = reorderable(network)
    assert len(blocks) >= 2
    for block in blocks:
        weights = {name: p.clone() for name, p in block.named_parameters()}
        order = by_importance(block.importance(), block.hidden_sizes(options))
        reorder(block, block.hidden_axes(), order, {})
        assert any(not torch.equal(p, weights[name]) for name, p in block.named_parameters())
        sorted_importance = block.importance()
        sizes = [0, *block.hidden_sizes(options)]
        for start, end in pairwise(sizes):
            part = sorted_importance[start:end]
            assert bool((part[:-1] >= part[1:]).all())
    after = outputs(space, network, options)
    assert before.keys() == after.keys()
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, rtol=1e-9, atol=1e-9, msg=lambda m, name=name: f"{name}: {m}")


@in_every_space
def test_momentum_moves_along(space: Space, supernet_of: Build) -> None:
    """Sorted between two steps, the network is after them what it would be, sorted afterwards."""
    images = torch.randn(8, 1, 8, 8, generator=generator("images"), dtype=torch.float64)
    labels = torch.randint(10, (8,), generator=generator("labels"))
    largest = space.gates(space.largest(space.all_options()))

    def trained(sorts_after: int) -> Network:
        network = supernet_of(space)
        optimizer = torch.optim.Adam(network.parameters(), lr=0.01)  # two tensors a parameter, and a step count
        orders: list[Tensor] = []
        for step in (1, 2):
            optimizer.zero_grad()
            F.cross_entropy(network(images, largest), labels).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            if step == 1:
                orders = [block.importance().argsort(descending=True) for block in reorderable(network)]
            if step == sorts_after:
                for block, order in zip(reorderable(network), orders, strict=True):
                    reorder(block, block.hidden_axes(), order, optimizer.state)
        return network

    between, afterwards = trained(1).state_dict(), trained(2).state_dict()
    for name, value in between.items():
        torch.testing.assert_close(value, afterwards[name], rtol=1e-9, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")


def test_blocks_are_sorted_where_a_phase_lets_paths_run_fewer_of_their_channels(supernet_of: Build) -> None:
    network, everything = supernet_of(ELASTIC), ELASTIC.all_options()
    largest = {name: options[-1:] for name, options in everything.items()}

    def sorts(dimension: str) -> int:
        opened = {c.name: everything[c.name] if c.dimension == dimension else largest[c.name] for c in ELASTIC.choices}
        return len(list(narrowing(network, largest, opened)))

    assert sorts("kernel") == sorts("depth") == sorts("resolution") == 0
    assert sorts("expansion") == len(reorderable(network)) == 4


def test_a_run_sorts_before_its_widths_open(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[list[int], bool]] = []

    def noted(block: Any, axes: Any, order: Tensor, state: Any) -> None:
        reorder(block, axes, order, state)
        importance = block.importance()
        moved = bool(state[block.project.weight]["momentum_buffer"].any())
        seen.append((sorted(order.tolist()), moved and bool((importance[:-1] >= importance[1:]).all())))

    monkeypatch.setattr("nastricks.callbacks.progressive_shrinking.reorder", noted)
    shrunk(phases=["expansion"], starts=[0.5], closed=["width"])
    assert [(len(order), order == list(range(len(order))), rest) for order, rest in seen] == [
        (32, True, True),
        (64, True, True),
        (64, True, True),
        (128, True, True),
    ]


# Stages.


def test_weights_of_an_earlier_stage_are_sorted_at_once(make: Callable[..., Run], tmp_path: Path) -> None:
    make("sandwich", changes={"trainer.max_steps": 2}, out=tmp_path / "first").fit()
    arguments = {"phases": "[expansion]", "starts": "[0.0]", "closed": "[width]"}
    changes = {"model.init_args.weights": str(tmp_path / "first"), "trainer.max_steps": 1}
    sorted_run = make("sandwich", {"progressive_shrinking": arguments}, changes)
    plain = make("sandwich", changes=changes)
    for run in (sorted_run, plain):
        run.module.trainer = run.trainer
    (trick,) = sorted_run.tricks
    trick.operate(sorted_run.module)
    for block, before in zip(reorderable(sorted_run.module.networks), reorderable(plain.module.networks), strict=True):
        importance = block.importance()
        assert bool((importance[:-1] >= importance[1:]).all())
        torch.testing.assert_close(importance, before.importance().sort(descending=True).values)
    mask = sorted_run.module.policy.allowed
    assert open_dimensions(sorted_run.module.space, mask) == {"resolution", "kernel", "depth", "expansion"}


def test_a_network_with_one_kernel_lends_its_weights_to_one_with_more(supernet_of: Build) -> None:
    one = Elastic(
        STAGES, (8,), (1.0,), "network", (2,), (7,), (3,), "learned",
        stem_channels=8, stem_stride=1, head_channels=24, features=16,
    )  # fmt: skip
    source, target = supernet_of(one), supernet_of(ELASTIC)
    found = target.weights_from(source.state_dict())
    assert found.keys() == target.state_dict().keys()
    for name, value in found.items():
        assert torch.equal(value, target.state_dict()[name] if "kernel_" in name else source.state_dict()[name])


# Refusals.


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"starts": [0.5, 1.0]}, r"expected parts of the run in \[0, 1\)"),
        ({"starts": [0.5, 0.2]}, "expected numbers that never fall"),
        ({"phases": []}, "phases is empty and nothing is closed, so nothing would shrink"),
        ({"phases": ["kernel"], "starts": [0.0, 0.5]}, "has 1 phases and 2 starts"),
        ({"phases": ["kernel"], "closed": ["kernel"]}, "closed has kernel, which is one of its phases"),
    ],
)
def test_bad_values(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        ProgressiveShrinking(**arguments)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"phases": ["kernle"]}, "dimension of elastic 'kernle': did you mean 'kernel'"),
        ({"closed": ["colour"]}, "dimension of elastic 'colour'"),
        ({"phases": ["depth", "depth"], "starts": [0.0, 0.1]}, "has depth 2 times, and elastic has 1 smaller sizes"),
        ({"starts": [0.0, 0.5]}, r"has 5 phases \(resolution, kernel, depth, expansion, width\) and 2 starts"),
        ({}, "opens width at 0.8 of the run, and the last of 2 epochs begins at 0.5: start earlier, or train longer"),
    ],
)
def test_what_cannot_be_is_refused_before_training(
    make: Callable[..., Run], arguments: dict[str, Any], words: str
) -> None:
    written = {key: str(value) for key, value in arguments.items()}
    with pytest.raises(InputError, match=words):
        make("sandwich", {"progressive_shrinking": written}).check()


def test_a_named_end_of_the_sandwich_is_refused_before_the_first_step(make: Callable[..., Run], stand: Any) -> None:
    arguments = {"phases": "[kernel]", "starts": "[0.5]"}
    unnamed = make("sandwich", {"progressive_shrinking": arguments})
    stand(unnamed)
    space = unnamed.module.space
    smallest = space.format(space.smallest(space.all_options()))
    named = {"model.init_args.policy.init_args.smallest": smallest}
    with pytest.raises(InputError, match=rf"Sandwich trains {smallest} in every step, and its .* is not allowed"):
        stand(make("sandwich", {"progressive_shrinking": arguments}, named))


def test_pruning_the_space_at_the_same_time_is_refused(make: Callable[..., Run]) -> None:
    chosen = {"progressive_shrinking": {"phases": "[kernel]", "starts": "[0.5]"}, "space_pruning": {"epochs": 1}}
    with pytest.raises(InputError, match="progressive_shrinking and space_pruning cannot both say which children"):
        make("sandwich", chosen).check()


def test_a_space_without_sizes_has_nothing_to_shrink(make: Callable[..., Run]) -> None:
    assert {choice.dimension for choice in Tiny64().choices} == {None}
    with pytest.raises(InputError, match="opens sizes, and tiny64 has none"):
        make("spos", {"progressive_shrinking": {}}).check()


def test_a_policy_allows_what_there_is_alone() -> None:
    policy = UniformPath(ELASTIC)
    policy.restrict("stage1_depth", [1])
    policy.allow("stage1_depth", [0, 1])
    assert policy.allowed == ELASTIC.all_options()
    with pytest.raises(InputError, match="unknown choice 'stage9_depth'"):
        policy.allow("stage9_depth", [0])
    with pytest.raises(InputError, match=r"options \(2,\) of stage1_depth: expected some from 0 to 1"):
        policy.allow("stage1_depth", [2])
