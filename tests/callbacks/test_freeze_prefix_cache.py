"""A frozen prefix: it stands still, the cache changes nothing, a resumed run is exact, and what is refused."""

import copy
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from jsonargparse import Namespace

from nastricks import callbacks
from nastricks.callbacks.freeze_prefix_cache import FreezePrefixCache, prefix_length, prefix_outputs
from nastricks.commands.check import built, score_child
from nastricks.data import Batch, ImageSpec
from nastricks.data.output_cache import OutputCache
from nastricks.errors import InputError
from nastricks.modules.proof import prove
from nastricks.run import Run
from nastricks.spaces import DARTS, Tiny64
from proofs.small_runs import INTERRUPTIONS, difference_after_resuming, same

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
]

PLAIN = {"data.init_args.crop_padding": 0, "data.init_args.flip": False}
Settings = Mapping[str, Any]


@pytest.fixture
def fitted(make: Callable[..., Run]) -> Callable[..., Run]:
    """``fitted(stack, settings)`` -> a run whose images are as they are, trained."""

    def train(stack: str, settings: Settings | None, changes: Settings | None = None, **tricks: Any) -> Run:
        chosen = tricks if settings is None else {"freeze_prefix_cache": settings, **tricks}
        run = make(stack, chosen, {**PLAIN, **(changes or {})})
        run.start = copy.deepcopy(run.module.state_dict())  # type: ignore[attr-defined]
        run.fit()
        return run

    return train


def state(run: Run) -> dict[str, torch.Tensor]:
    return {key: value for key, value in run.module.state_dict().items() if isinstance(value, torch.Tensor)}


def test_the_length_of_a_prefix() -> None:
    tiny = Tiny64().supernet(ImageSpec(1, 10, 8))
    names = list(tiny.segments)
    assert [names[: prefix_length(tiny, blocks)][-1] for blocks in (0, 1, 2, 3)] == [
        names[names.index("layer1") - 1], names[names.index("layer2") - 1], names[names.index("layer3") - 1], names[-2]
    ]  # fmt: skip
    with pytest.raises(InputError, match=r"freeze_prefix_cache.blocks is 4 and the network has 3 blocks"):
        prefix_length(tiny, 4)


@pytest.mark.parametrize(("stack", "blocks"), [("child", 2), ("child", 0), ("spos", 0), ("darts", 0)])
def test_the_prefix_stands_still_and_the_rest_trains(stack: str, blocks: int, fitted: Callable[..., Run]) -> None:
    run = fitted(stack, {"blocks": blocks})
    network = run.module.networks[0]
    frozen = list(network.segments)[: prefix_length(network, blocks)]  # type: ignore[arg-type]
    before, after = run.start, state(run)  # type: ignore[attr-defined]
    for name in after:
        if name.startswith("networks.0.segments."):
            moved = not torch.equal(before[name], after[name])
            if name.split(".")[3] in frozen:
                assert not moved, name
    assert any(not torch.equal(before[n], after[n]) for n in after if n.split(".")[3:4] == [list(network.segments)[-1]])
    assert all(p.requires_grad for p in network.parameters())  # as it was, after the run
    (trick,) = run.tricks
    assert trick.acts == 8


@pytest.mark.parametrize("where", ["memory", "disk"])
@pytest.mark.parametrize(("stack", "blocks"), [("child", 2), ("spos", 0), ("darts", 0)])
def test_a_step_with_the_cache_equals_one_without(
    stack: str, blocks: int, where: str, fitted: Callable[..., Run], tmp_path: Path
) -> None:
    folder = {"folder": str(tmp_path)} if where == "disk" else {}
    with_cache = fitted(stack, {"blocks": blocks, "where": where, **folder}, {"trainer.precision": "64-true"})
    without = fitted(stack, {"blocks": blocks, "cache": False}, {"trainer.precision": "64-true"})
    one, other = state(with_cache), state(without)
    assert max(float((one[name].double() - other[name].double()).abs().max()) for name in one) < 1e-12
    assert list(tmp_path.iterdir()) == [], "the file has no name"


def test_it_is_computed_once(fitted: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    module = callbacks.freeze_prefix_cache

    def counted(network: Any, images: torch.Tensor, gates: Any, length: int) -> Any:
        if images.device.type != "meta":
            seen.append(len(images))
        return prefix_outputs(network, images, gates, length)

    monkeypatch.setattr(module, "prefix_outputs", counted)
    fitted("child", {"blocks": 2})
    assert sum(seen) == 128  # two epochs of 128 images
    seen.clear()
    fitted("child", {"blocks": 2, "cache": False})
    assert sum(seen) == 256


def test_before_its_epoch_everything_trains(fitted: Callable[..., Run]) -> None:
    run, free = fitted("child", {"blocks": 1, "from_epoch": 1}), fitted("child", None)
    assert run.tricks[0].acts == 4
    assert not same(state(run), state(free))
    stem = next(name for name in state(run) if "segments" in name)
    assert not torch.equal(run.start[stem], state(run)[stem])  # type: ignore[attr-defined]


@pytest.mark.parametrize("stack", ["child", "spos"])
@pytest.mark.parametrize("settings", [{"blocks": 0}, {"blocks": 0, "from_epoch": 1}])
def test_a_resumed_run_is_exact(stack: str, settings: Settings, make: Callable[..., Run], tmp_path: Path) -> None:
    def started(more: Settings, out: Path) -> Run:
        return make(stack, {"freeze_prefix_cache": settings}, {**PLAIN, **more}, out)

    started({}, tmp_path / "straight").fit()
    for when in INTERRUPTIONS:
        difference = difference_after_resuming(started, tmp_path / "straight", tmp_path / when, when)
        assert difference is None, f"resumed from the {when} of an epoch: {difference}"


@pytest.mark.parametrize(("stack", "blocks"), [("child", 2), ("spos", 0)])
def test_it_is_alive(stack: str, blocks: int, configure: Callable[..., Namespace]) -> None:
    config = configure(stack, {"freeze_prefix_cache": {"blocks": blocks}}, PLAIN)
    proof = prove("freeze_prefix_cache", lambda without: built(config, without), score_child)
    assert proof.alive, proof


def test_it_runs_in_bf16_and_beside_other_tricks(fitted: Callable[..., Run]) -> None:
    run = fitted("child", {"blocks": 2}, {"trainer.precision": "bf16-mixed"}, sam={"rho": 0.05})
    assert all(value.isfinite().all() for value in state(run).values())
    with_micro_batches = fitted("child", {"blocks": 2}, {"model.init_args.micro_batches": 2})
    assert with_micro_batches.tricks[0].acts == 16


def test_a_state_of_several_tensors_comes_out_as_it_went_in(tmp_path: Path) -> None:
    space = DARTS(channels=4, cells=3, operations=("none", "skip_connect", "sep_conv_3x3"))
    network = space.supernet(ImageSpec(3, 10, 8)).eval()
    images = torch.randn(6, 3, 8, 8)
    state = prefix_outputs(network, images, {}, 1)
    for folder in (None, tmp_path):
        cache = OutputCache(torch.tensor([10, 3, 7, 12, 0, 5]), folder)
        cache.put(torch.tensor([3, 10, 7]), _part(state, slice(0, 3)))
        cache.put(torch.tensor([0, 12, 5]), _part(state, slice(3, 6)))
        found = cache.get(torch.tensor([5, 3]))
        expected = _part(state, torch.tensor([5, 0]))
        flat, other = (x if isinstance(x, tuple) else (x,) for x in (found, expected))
        assert all(torch.equal(a, b) for a, b in zip(flat, other, strict=True))


def _part(state: Any, chosen: Any) -> Any:
    return tuple(x[chosen] for x in state) if isinstance(state, tuple) else state[chosen]


def test_batches_know_their_images(make: Callable[..., Run]) -> None:
    run = make("child", {}, PLAIN)
    run.data.setup()
    batch = run.data.batch("train", 3)
    assert batch.indices is not None
    again = run.data._ready().read(batch.indices)
    assert torch.equal(again, batch.images)
    parts = batch.chunks(3)
    assert torch.cat([part.indices for part in parts if part.indices is not None]).equal(batch.indices)
    assert Batch(batch.images, batch.labels).chunks(2)[0].indices is None


def refused(make: Callable[..., Run], stack: str, settings: Settings, changes: Settings, **tricks: Any) -> str:
    with pytest.raises(InputError) as error:
        make(stack, {"freeze_prefix_cache": settings, **tricks}, {**PLAIN, **changes}).fit()
    return str(error.value)


@pytest.mark.parametrize(
    ("stack", "settings", "changes", "tricks", "words"),
    [
        ("child", {"blocks": 1}, {"data.init_args.crop_padding": 1}, {}, "shifted by up to 1 pixels at random"),
        ("child", {"blocks": 1}, {"data.init_args.flip": True}, {}, "training images are mirrored at random"),
        ("child", {"blocks": 1}, {}, {"mixup": {"alpha": 1.0}}, "tricks freeze_prefix_cache and mixup"),
        ("child", {"blocks": 1}, {}, {"drop_path": {"probability": 0.5}}, "drop_path: the latter changes gates"),
        ("child", {"blocks": 4}, {}, {}, "blocks is 4 and the network has 3 blocks"),
        ("child", {"blocks": 1, "from_epoch": 2}, {}, {}, "from_epoch is 2, and there are 2 epochs"),
        ("spos", {"blocks": 1}, {}, {}, "paths are sampled inside the prefix, at layer1: a stored output"),
        ("darts", {"blocks": 2}, {}, {}, "paths are sampled inside the prefix"),
    ],
)
def test_what_it_cannot_store_is_refused(
    stack: str, settings: Settings, changes: Settings, tricks: Any, words: str, make: Callable[..., Run]
) -> None:
    assert words in refused(make, stack, settings, changes, **tricks)


@pytest.mark.parametrize("where", ["memory", "disk"])
def test_a_cache_larger_than_what_is_free_is_refused(
    where: str, make: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(callbacks.freeze_prefix_cache, "free_memory", lambda device: 100_000)
    usage = shutil.disk_usage("/")._replace(free=100_000)
    monkeypatch.setattr(callbacks.freeze_prefix_cache.shutil, "disk_usage", lambda folder: usage)
    sentence = refused(make, "child", {"blocks": 0, "where": where}, {})
    needed = 128 * 16 * 8 * 8 * 4 / 2**20  # images, channels, pixels a side twice, bytes
    assert f"would store {needed:.1f} MiB for 128 images, and there are 0.1 MiB" in sentence
    assert ("of free memory" if where == "memory" else "free on the disk of") in sentence
    make("child", {"freeze_prefix_cache": {"blocks": 0, "cache": False}}, PLAIN).fit()  # nothing is stored


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"blocks": -1}, "freeze_prefix_cache.blocks is -1: expected at least 0"),
        ({"from_epoch": -1}, "freeze_prefix_cache.from_epoch is -1"),
        ({"where": "cloud"}, "freeze_prefix_cache.where is 'cloud': expected memory or disk"),
        ({"folder": "/"}, "freeze_prefix_cache.folder is /, and nothing is stored on disk"),
        ({"where": "disk", "folder": "/no/such/place"}, "folder is /no/such/place: expected a folder that exists"),
    ],
)
def test_bad_values_are_refused(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        FreezePrefixCache(**arguments)
