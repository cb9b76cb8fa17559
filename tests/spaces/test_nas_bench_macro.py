"""NAS-Bench-Macro as a space: published sizes for every code, children equal their paths, twins counted once."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from nastricks.cli import main
from nastricks.data import ImageSpec
from nastricks.errors import InputError
from nastricks.ranking.metrics import kendall_tau
from nastricks.ranking.rank import counted_once, picked
from nastricks.ranking.tables import Table, load_table
from nastricks.rng import generator
from nastricks.spaces import Architecture, Gate, NASBenchMacro, Network, Space
from nastricks.spaces.network import GatedOps

Build = Callable[..., Network]
SMALL, SPEC = NASBenchMacro(channels=4, head_channels=16), ImageSpec(3, 16, 10)
PUBLISHED, CIFAR10 = NASBenchMacro(), ImageSpec(3, 32, 10)
CODES = ("00000000", "22222222", "20122100", "01201021", "10002000", "02010102")
with_table = pytest.mark.skipif(
    "NASTRICKS_DATA" not in os.environ, reason="NASTRICKS_DATA does not name the folder of shared data"
)


def table_file() -> Path:
    return Path(os.environ["NASTRICKS_DATA"]) / "tables" / "nas_bench_macro.csv"


# Sizes.


@with_table
def test_sizes_are_the_published_ones_for_every_code() -> None:
    """The table counts a multiply-add once."""
    rows = pd.read_csv(table_file(), dtype={"arch": str})
    assert len(rows) == len(PUBLISHED) == 6561
    costs = [PUBLISHED.cost(PUBLISHED.parse(code), CIFAR10) for code in rows["arch"]]
    assert [cost.params for cost in costs] == rows["params"].tolist()
    assert [cost.flops for cost in costs] == (2 * rows["flops"]).tolist()


@pytest.mark.parametrize("code", CODES)
def test_sizes_added_up_are_those_of_the_child(code: str) -> None:
    architecture = PUBLISHED.parse(code)
    assert PUBLISHED.cost(architecture, CIFAR10) == Space.cost(PUBLISHED, architecture, CIFAR10)
    assert SMALL.cost(architecture, SPEC) == Space.cost(SMALL, architecture, SPEC)
    child = PUBLISHED.child(CIFAR10, architecture)
    assert PUBLISHED.cost(architecture, CIFAR10).params == sum(p.numel() for p in child.parameters())


def test_the_child_of_identities_by_hand() -> None:
    """The first row of the published table: 387,882 parameters and 7,713,280 multiply-adds."""
    stem, head = 3 * 32 * 9, 256 * 1280
    reductions = [32 * 64, 64 * 128, 128 * 256]
    norms = 2 * (32 + 64 + 128 + 256 + 1280)
    multiply_adds = 32**2 * stem + sum(side**2 * n for side, n in zip((16, 8, 4), reductions, strict=True))
    multiply_adds += 16 * head + 1280 * 10
    cost = PUBLISHED.cost(PUBLISHED.parse("00000000"), CIFAR10)
    params = stem + sum(reductions) + head + norms + 1280 * 10 + 10
    assert (cost.params, cost.flops) == (params, 2 * multiply_adds) == (387882, 2 * 7713280)


def test_sizes_that_cannot_be() -> None:
    for key in ("channels", "head_channels"):
        with pytest.raises(InputError, match=f"space.{key} is 0: expected at least 1"):
            NASBenchMacro(**{key: 0})


# Notation.


def test_every_architecture_prints_and_parses() -> None:
    everything = list(SMALL.architectures())
    texts = [SMALL.format(a) for a in everything]
    assert (len(set(texts)), texts[0], texts[-1]) == (6561, "00000000", "22222222")
    assert [SMALL.parse(text) for text in texts] == everything
    assert SMALL.parse("20122100") == (2, 0, 1, 2, 2, 1, 0, 0)


@pytest.mark.parametrize(
    "text", ["", "0000000", "000000000", "00000003", "0000000 ", "-0000000", "0000000²", "１0000000"]
)
def test_strings_that_do_not_parse(text: str) -> None:
    with pytest.raises(InputError, match="is no architecture of nas_bench_macro: expected 8 digits from 0 to 2"):
        SMALL.parse(text)


# Networks.


def images(count: int = 6) -> Tensor:
    return torch.randn(count, SPEC.channels, SPEC.size, SPEC.size, generator=generator("images"))


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_a_child_with_copied_weights_equals_its_path(training: bool, supernet_of: Build) -> None:
    network, seen = supernet_of(SMALL, SPEC).train(training), []
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with torch.no_grad():
        for code in CODES:
            architecture = SMALL.parse(code)
            network.load_state_dict(before)
            child = SMALL.child(SPEC, architecture).train(training)
            child.load_state_dict({key: before[key].clone() for key in child.state_dict()})
            seen.append(network(images(), SMALL.gates(architecture)))
            torch.testing.assert_close(child(images()), seen[-1], atol=1e-5, rtol=0)
            after = network.state_dict()
            for key, value in child.state_dict().items():
                torch.testing.assert_close(value, after[key], atol=1e-5, rtol=0)
    assert all(not torch.allclose(seen[0], other, atol=1e-3) for other in seen[1:])


def test_childrens_parameters_are_the_supernets(supernet_of: Build) -> None:
    whole = {key: p.shape for key, p in supernet_of(SMALL, SPEC).named_parameters()}
    together: set[str] = set()
    for code in ("0" * 8, "1" * 8, "2" * 8):
        own = {key: p.shape for key, p in SMALL.child(SPEC, SMALL.parse(code)).named_parameters()}
        assert own.items() <= whole.items()
        together |= set(own)
    assert together == set(whole)


@pytest.mark.parametrize("size", [1, 7, 8, 32])
def test_shapes_along_the_way(size: int) -> None:
    network, shapes = SMALL.supernet(ImageSpec(3, size, 10)).eval(), []
    for name, segment in network.segments.items():
        if name.startswith("layer"):
            segment.register_forward_hook(lambda module, inputs, output: shapes.append(tuple(output.shape[1:3])))
    for code in CODES[:3]:
        network(torch.zeros(2, 3, size, size), SMALL.gates(SMALL.parse(code)))
    sides = [size]
    for _ in range(3):
        sides.append((sides[-1] + 1) // 2)
    first, second, third = sides[1:]
    assert shapes == 3 * (2 * [(8, first)] + 3 * [(16, second)] + 3 * [(32, third)])


def test_a_row_of_skips_by_hand(worn: Build) -> None:
    """Stem and head aside, the child of identities is three projections; a ReLU stands behind the stem alone."""
    child = worn(SMALL.child(SPEC, SMALL.parse("00000000")), "child").eval()
    state = child.state_dict()

    def projected(x: Tensor, layer: int) -> Tensor:
        at = f"segments.layer{layer}.choice.ops.identity.layers"
        y = F.conv2d(x, state[f"{at}.0.weight"], stride=2)
        norm = [state[f"{at}.1.{key}"] for key in ("running_mean", "running_var", "weight", "bias")]
        return F.batch_norm(y, *norm)

    with torch.no_grad():
        x = child.segments["stem"](images(), {})
        assert float(x.min()) == 0
        expected = child.segments["head"](projected(projected(projected(x, 1), 3), 6), {})
        torch.testing.assert_close(child(images()), expected)


def layer(number: int, supernet_of: Build) -> GatedOps:
    place = supernet_of(SMALL, SPEC).segments[f"layer{number}"].choice
    assert isinstance(place, GatedOps)
    return place.eval()


def test_a_shortcut_stands_where_the_shape_stays(supernet_of: Build) -> None:
    x = torch.randn(2, 8, 6, 6, generator=generator("x"))
    with torch.no_grad():
        stays, reduces = layer(2, supernet_of).ops["ir_3x3_e3"], layer(3, supernet_of).ops["ir_3x3_e3"]
        torch.testing.assert_close(stays(x), x + stays.body(x))  # type: ignore[operator,union-attr]
        torch.testing.assert_close(reduces(x), reduces.body(x))  # type: ignore[operator,union-attr]
        assert torch.equal(layer(2, supernet_of).ops["identity"](x), x)


def test_a_dropped_path_passes_the_input_on_in_the_shape_of_the_output(supernet_of: Build) -> None:
    x = torch.randn(2, 8, 5, 5, generator=generator("x"))
    gate = Gate((1,), torch.tensor([[0.0, 1.0]]), torch.tensor([1.0, 0.0]))
    with torch.no_grad():
        y, kept = layer(3, supernet_of)(x, gate), layer(3, supernet_of)(x, Gate((1,)))
    torch.testing.assert_close(y[1], kept[1])
    torch.testing.assert_close(y[0, :8], F.avg_pool2d(x, 2, ceil_mode=True)[0])
    assert bool((y[0, 8:] == 0).all())
    assert [c.dropped for c in SMALL.choices] == ["input"] * 8


def test_parts_of_channels_are_for_layers_that_keep_them(supernet_of: Build) -> None:
    layer(2, supernet_of).narrow(2)
    with pytest.raises(InputError, match=r"layer3 makes 16 channels of 8: .*keep their channels"):
        layer(3, supernet_of).narrow(2)


def test_identities_are_those_that_change_nothing() -> None:
    identities = [choice.options[0] for choice in SMALL.choices]
    assert [o.identity for o in identities] == [False, True, False, True, True, False, True, True]
    assert [o.learns for o in identities] == [not o.identity for o in identities]
    assert all(o.skip for o in identities)


# The same network in several spellings.


def test_the_number_of_networks() -> None:
    everything = list(SMALL.architectures())
    classes = {SMALL.canonical(a) for a in everything}
    assert len(classes) == SMALL.rankable_size == 3969
    assert all(SMALL.canonical(a) == a for a in classes)
    assert list(SMALL.rankable()) == sorted(classes)
    # As the authors' own code writes them.
    for code, first in {"02001010": "02010010", "00002002": "00020020", "20122100": "20122100"}.items():
        assert SMALL.format(SMALL.canonical(SMALL.parse(code))) == first


def moved(architecture: Architecture) -> dict[int, int]:
    """Layer -> the layer of the canonical network with its weights; layers count from 1."""
    places, start = {}, 1
    for layers in (2, 3, 3):
        later = range(start + 1, start + layers)
        blocks = [number for number in later if architecture[number - 1] != 0]
        places |= {start: start} | {number: start + 1 + i for i, number in enumerate(blocks)}
        start += layers
    return places


def test_twins_are_the_same_network(worn: Build) -> None:
    rng, tried = generator("twins"), 0
    while tried < 30:
        architecture = SMALL.sample(rng)
        twin = SMALL.canonical(architecture)
        if twin == architecture:
            continue
        tried += 1
        assert SMALL.cost(architecture, SPEC) == SMALL.cost(twin, SPEC)
        child, other = worn(SMALL.child(SPEC, architecture), "child", tried), SMALL.child(SPEC, twin)
        state = child.state_dict()
        for old, new in moved(architecture).items():
            own = {key: value for key, value in child.state_dict().items() if f".layer{old}." in key}
            state = {key: value for key, value in state.items() if key not in own or old == new} | {
                key.replace(f".layer{old}.", f".layer{new}."): value for key, value in own.items()
            }
        other.load_state_dict(state)
        for training in (True, False):
            torch.testing.assert_close(child.train(training)(images()), other.train(training)(images()))


def test_a_supernet_scores_twins_otherwise(supernet_of: Build) -> None:
    """Every layer has weights of its own, so it matters which spelling stands for the network."""
    network = supernet_of(SMALL, SPEC).eval()
    with torch.no_grad():
        one, other = (network(images(), SMALL.gates(SMALL.parse(code))) for code in ("00020000", "00002000"))
    assert not torch.allclose(one, other, atol=1e-3)


# Rankings.


def test_children_are_picked_among_distinct_networks() -> None:
    assert picked(SMALL, "all", 0) == list(SMALL.rankable())
    some = picked(SMALL, "300", 0)
    assert some == sorted(set(some)) == picked(SMALL, "300", 0)
    assert len(some) == 300
    assert all(SMALL.canonical(a) == a for a in some)
    with pytest.raises(InputError, match="from 2 to 3969"):
        picked(SMALL, "3970", 0)


def test_a_table_counts_each_network_once() -> None:
    table = Table(["00010000", "00001000", "00000001", "22222222"], np.array([[0.1], [0.2], [0.3], [0.4]]))
    counted = counted_once(table, SMALL)
    # The canonical spelling's row where there is one, in the place of the network's first row.
    assert counted.architectures == ["00010000", "00000010", "22222222"]
    assert counted.truth(["00000010", "00010000"]).tolist() == [0.3, 0.1]


@with_table
def test_trivial_baselines_rank_as_published() -> None:
    """Kendall tau over all 6,561 codes; counting each of the 3,969 networks once, as `rank` does, a little lower."""
    rows = pd.read_csv(table_file(), dtype={"arch": str})
    codes = rows["arch"].tolist()
    costs = [PUBLISHED.cost(PUBLISHED.parse(code), CIFAR10) for code in codes]
    rows = rows.assign(params=[c.params for c in costs], flops=[c.flops for c in costs]).set_index("arch")
    table = load_table(table_file(), PUBLISHED.parse)
    assert table.replicas.shape == (6561, 3)
    assert 0.1 < table.replicas.min() < table.replicas.max() < 1  # percent are read as parts
    counted = counted_once(table, PUBLISHED)
    assert len(counted.architectures) == 3969
    for one, params, flops, replica in ((table, 0.218, 0.556, 0.880), (counted, 0.215, 0.546, 0.878)):
        own = rows.loc[one.architectures]
        assert kendall_tau(own["params"].to_numpy(float), one.mean) == pytest.approx(params, abs=0.001)
        assert kendall_tau(own["flops"].to_numpy(float), one.mean) == pytest.approx(flops, abs=0.001)
        assert kendall_tau(one.replicas[:, 0], one.replicas[:, 1]) == pytest.approx(replica, abs=0.001)
    spellings = table.truth([PUBLISHED.format(PUBLISHED.canonical(PUBLISHED.parse(code))) for code in codes])
    assert np.array_equal(spellings, table.mean)  # the authors trained each network once as well


@pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning")
def test_a_supernet_is_ranked_by_a_table_with_twins(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipes = ["spaces/nas_bench_macro", "data/digits", "algorithms/spos"]
    arguments = [part for name in recipes for part in ("-c", f"recipes/{name}.yaml")]
    sizes: dict[str, Any] = {"space.init_args.channels": 2, "space.init_args.head_channels": 4, "trainer.max_epochs": 1}
    sizes |= {f"data.init_args.{split}_size": 32 for split in ("train", "search", "validation")}
    arguments += [f"--{key}={value}" for key, value in sizes.items()] + ["--trainer.accelerator=cpu"]
    run = str(tmp_path / "run")
    assert main(["fit", *arguments, "--out", run]) == 0
    codes = [SMALL.format(a) for a in SMALL.architectures()]
    truth = {code: (10 + sum(map(int, code))) for code in codes}
    table = tmp_path / "table.csv"
    lines = [f"{code},{truth[code]},{truth[code] + 1},{truth[code] + 2},7" for code in codes]
    table.write_text("\n".join(["arch,acc0,acc1,acc2,params", *lines, ""]))
    capsys.readouterr()
    assert main(["rank", run, "--table", str(table), "--children", "40"]) == 0
    told = capsys.readouterr().out
    assert "40 children" in told
    assert "noise ceiling of the table: 0" in told
    rows = pd.read_csv(tmp_path / "run/ranking.csv", dtype={"architecture": str})
    names = rows["architecture"].tolist()
    assert all(SMALL.canonical(SMALL.parse(code)) == SMALL.parse(code) for code in names)
    np.testing.assert_allclose(rows["truth"], [(truth[code] + 1) / 100 for code in names])
    # A ranking made anywhere is counted likewise where the space is named.
    scores = tmp_path / "scores.csv"
    scores.write_text("architecture,score\n" + "".join(f"{code},{truth[code]}\n" for code in codes))
    named = ["-c", "recipes/spaces/nas_bench_macro.yaml"]
    for stack, count in (([], 6561), (named, 3969)):
        assert main(["rank", "--scores", str(scores), "--table", str(table), *stack]) == 0
        assert f"{count} scores by score" in capsys.readouterr().out
    assert main(["rank", run, *named]) == 2
    assert "a run knows its own" in capsys.readouterr().err
    monkeypatch.setattr(NASBenchMacro, "size", 10**6)
    with pytest.raises(InputError, match="1,000,000 architectures: ranking them all is for at most 100,000"):
        picked(SMALL, "all", 0)
