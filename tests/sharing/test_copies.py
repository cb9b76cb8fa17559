"""Two children share a parameter exactly when the sharing says so; each runs in its own copy, with its own numbers."""

import itertools
from collections.abc import Callable

import pytest
import torch

from nastricks.data import ImageSpec
from nastricks.errors import InputError
from nastricks.modules import SupernetModule
from nastricks.moment import Moment
from nastricks.policies import AllOptions, GumbelHard, Policy, Softmax, Sweep, UniformPath
from nastricks.rng import forked_rng
from nastricks.sharing import FewShot, GroupSharing, PrefixSharing, ShareAll, ShareNone, Sharing
from nastricks.spaces import Architecture, NASNet, Network, Space, Tiny64, WeightSharing64

SPEC = ImageSpec(1, 8, 10)
SPACE: Space = Tiny64(channels=4)
CHILDREN = list(SPACE.architectures())
LAYERS = ("layer1", "layer2", "layer3")


def made(sharing: Sharing, space: Space = SPACE) -> list[Network]:
    with forked_rng("sharing"):
        return sharing.networks(space, SPEC, space.all_options())


def used(sharing: Sharing, networks: list[Network], child: Architecture) -> dict[str, set[int]]:
    """The parameters that a child's path uses, by segment."""
    network = networks[sharing.copy_of(child)].eval()
    network.zero_grad(set_to_none=True)
    network(torch.ones(2, 1, 8, 8), SPACE.gates(child)).sum().backward()
    return {
        name: {id(p) for p in segment.parameters() if p.grad is not None} for name, segment in network.segments.items()
    }


def groups_of(sharing: Sharing) -> Callable[[Architecture, Architecture, str], bool]:
    return lambda a, b, segment: sharing.copy_of(a) == sharing.copy_of(b)


def prefix(blocks: int, classifier: bool) -> Callable[[Architecture, Architecture, str], bool]:
    order = {"stem": 0, "layer1": 1, "pool": 1, "layer2": 2, "layer3": 3}

    def shares(a: Architecture, b: Architecture, segment: str) -> bool:
        return a == b or (classifier if segment == "head" else order[segment] <= blocks)

    return shares


SHARINGS: dict[str, tuple[Sharing, Callable[[Architecture, Architecture, str], bool] | None]] = {
    "all": (ShareAll(), lambda a, b, segment: True),
    "none": (ShareNone(), lambda a, b, segment: a == b),
    "similarity": (GroupSharing(8), None),
    "chance": (GroupSharing(8, "chance"), None),
    "few_shot": (FewShot(["layer2"]), lambda a, b, segment: a[1] == b[1]),
    "prefix0": (PrefixSharing(0), prefix(0, False)),
    "prefix1": (PrefixSharing(1, share_classifier=True), prefix(1, True)),
    "prefix2": (PrefixSharing(2), prefix(2, False)),
    "prefix3": (PrefixSharing(3), prefix(3, True)),
    "prefix3 with a classifier each": (PrefixSharing(3, share_classifier=False), prefix(3, False)),
}


@pytest.mark.parametrize("name", SHARINGS)
def test_two_children_share_a_parameter_exactly_when_the_sharing_says_so(name: str) -> None:
    sharing, expected = SHARINGS[name]
    networks = made(sharing)
    shares = groups_of(sharing) if expected is None else expected
    some = CHILDREN[::5]
    parameters = {child: used(sharing, networks, child) for child in some}
    compared = 0
    for a, b in itertools.combinations(some, 2):
        for segment, own in parameters[a].items():
            place = LAYERS.index(segment) if segment in LAYERS else None
            same_option = place is None or a[place] == b[place]
            if not own or not parameters[b][segment] or not same_option:
                assert own.isdisjoint(parameters[b][segment])
                continue
            together = shares(a, b, segment)
            assert (own == parameters[b][segment]) == together, (a, b, segment)
            assert together or own.isdisjoint(parameters[b][segment])
            compared += 1
    assert compared > 50


def test_groups_by_similarity_are_slices_of_the_lexicographic_order_and_cover_the_space() -> None:
    for count in (1, 2, 4, 8, 16, 32, 64, 7):
        sharing = GroupSharing(count)
        assert len(made(sharing)) == count
        copies = [sharing.copy_of(child) for child in CHILDREN]
        assert copies == sorted(copies)
        assert set(copies) == set(range(count))
        sizes = [copies.count(group) for group in range(count)]
        assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("by", ["similarity", "chance"])
def test_each_group_is_trained_at_an_equal_share_of_the_steps(by: str) -> None:
    """Exactly so where the policy goes round, and as often as not where it draws: a standard error is 13.2 of 200."""
    sharing = GroupSharing(8, by)
    made(sharing)
    for policy, error in ((Sweep(SPACE), 0.0), (UniformPath(SPACE), 13.2)):
        steps = dict.fromkeys(range(8), 0)
        for step in range(1600):
            (gates,) = policy.propose(Moment(role="weights", seed=0, step=step))
            steps[sharing.copy_of(tuple(gates[choice.name].active[0] for choice in SPACE.choices))] += 1
        assert all(abs(count - 200) <= 3 * error for count in steps.values()), steps


@pytest.mark.parametrize("sharing", [GroupSharing(2), PrefixSharing(1), FewShot(["layer2"]), ShareNone()])
@pytest.mark.parametrize("policy", [AllOptions, Softmax, GumbelHard])
def test_policies_that_run_several_options_at_once_are_refused(sharing: Sharing, policy: Callable[..., Policy]) -> None:
    def module(which: Sharing) -> SupernetModule:
        return SupernetModule(SPACE, SPEC, policy, lambda p: torch.optim.SGD(p, lr=0.1), sharing=which)

    with pytest.raises(InputError, match=rf"sharing {type(sharing).__name__} .* runs several options at once"):
        module(sharing)
    assert len(module(ShareAll()).networks) == 1


def test_groups_by_chance_are_keyed_and_others() -> None:
    copies = []
    for seed in (0, 0, 1):
        sharing = GroupSharing(4, "chance", seed)
        made(sharing)
        copies.append([sharing.copy_of(child) for child in CHILDREN])
    assert copies[0] == copies[1] != copies[2]
    assert sorted(copies[0]) != copies[0]
    assert [copies[0].count(group) for group in range(4)] == [16] * 4


def test_groups_of_ones_own_must_cover_the_space_once() -> None:
    names = [SPACE.format(child) for child in CHILDREN]
    sharing = GroupSharing([names[:10], names[10:]])
    assert len(made(sharing)) == 2
    assert [sharing.copy_of(child) for child in CHILDREN] == [0] * 10 + [1] * 54
    with pytest.raises(InputError, match=r"leaves out 2 children of tiny64 \(443, 444\): add them"):
        made(GroupSharing([names[:10], names[10:62]]))
    with pytest.raises(InputError, match="holds 111 twice"):
        made(GroupSharing([names, names[:1]]))


@pytest.mark.parametrize("always", [None, True])
def test_all_blocks_shared_is_the_plain_supernet(always: bool | None) -> None:
    sharing = PrefixSharing(3, always)
    networks = made(sharing)
    with forked_rng("sharing"):
        plain = SPACE.supernet(SPEC)
    parameters = {id(p) for network in networks for p in network.parameters()}
    assert len(parameters) == len(list(plain.parameters()))
    images = torch.rand(3, 1, 8, 8)
    for child in CHILDREN[::9]:
        gates = SPACE.gates(child)
        torch.testing.assert_close(networks[sharing.copy_of(child)].eval()(images, gates), plain.eval()(images, gates))


def test_cells_are_blocks_too() -> None:
    space = WeightSharing64(channels=2, cells=3, stem_channels=4)
    networks = made(PrefixSharing(2), space)
    first, second = networks[0], networks[1]
    for name in ("stem", "cell1", "cell2"):
        assert first.segments[name] is second.segments[name]
    assert first.segments["cell3"] is not second.segments["cell3"]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: GroupSharing(0), "groups is 0"),
        (lambda: GroupSharing(by="colour"), "by is 'colour'"),
        (lambda: made(GroupSharing(65)), "groups is 65 and tiny64 has 64 architectures"),
        (lambda: made(GroupSharing(2), NASNet()), "expected at most 100,000 to list them"),
        (lambda: PrefixSharing(-1), "blocks is -1"),
        (lambda: made(PrefixSharing(4)), "blocks is 4 and tiny64 has 3 blocks"),
        (lambda: FewShot([]), "choices is empty"),
        (lambda: made(FewShot(["layer9"])), "names 'layer9': tiny64 has layer1, layer2, layer3"),
    ],
)
def test_bad_input(make: Callable[[], object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        make()


def test_groups_by_chance_can_be_drawn_anew_for_every_run() -> None:
    def drawn(seed: int) -> list[int]:
        sharing = GroupSharing(8, "chance", seed=None)
        with forked_rng(seed, "weights"):
            sharing.networks(SPACE, SPEC, SPACE.all_options())
        return [sharing.copy_of(child) for child in CHILDREN]

    assert drawn(0) == drawn(0)
    assert drawn(0) != drawn(1)
