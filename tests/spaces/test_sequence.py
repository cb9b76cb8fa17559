"""The synthetic space: the objective's range, and its optimum against brute force."""

import itertools

import pytest

from nastricks.data import ImageSpec
from nastricks.errors import InputError
from nastricks.rng import generator
from nastricks.spaces import SequenceSpace

SPEC = ImageSpec(1, 8, 10)


@pytest.mark.parametrize(("length", "vocabulary"), [(1, 2), (1, 7), (2, 3), (5, 3), (4, 5), (8, 2)])
@pytest.mark.parametrize("interaction", [0.0, 1.0, 5.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_extremes_are_those_of_brute_force(length: int, vocabulary: int, interaction: float, seed: int) -> None:
    space = SequenceSpace(length, vocabulary, interaction, seed)
    scores = {a: space.objective(a) for a in space.architectures()}
    assert len(scores) == len(space) == vocabulary**length
    assert max(scores.values()) == 1.0
    assert min(scores.values()) == 0.0
    assert scores[space.optimum()] == 1.0
    assert sorted(scores.values())[-2] < 1.0


def test_values_stay_in_their_range_where_brute_force_cannot_look() -> None:
    space = SequenceSpace()
    rng = generator("sequences")
    scores = [space.objective(space.sample(rng)) for _ in range(500)]
    assert 0.0 < min(scores) < 0.4 < 0.6 < max(scores) < 1.0
    best = space.optimum()
    assert space.objective(best) == 1.0
    for place, token in itertools.product(range(20), range(7)):
        neighbour = (*best[:place], token, *best[place + 1 :])
        assert (space.objective(neighbour) < 1.0) == (neighbour != best)


def greedy(space: SequenceSpace) -> tuple[int, ...]:
    """The best token of each position alone, when all the others are the first one."""
    rest = [0] * space.length
    return tuple(
        max(range(space.vocabulary), key=lambda t, p=place: space.objective((*rest[:p], t, *rest[p + 1 :])))
        for place in range(space.length)
    )


@pytest.mark.parametrize("seed", range(4))
def test_interactions_matter(seed: int) -> None:
    """Without them every position is decided alone; with them that misses the optimum."""
    apart, joined = (SequenceSpace(10, 5, interaction, seed) for interaction in (0.0, 1.0))
    assert greedy(apart) == apart.optimum()
    assert joined.objective(greedy(apart)) < 1.0
    assert joined.objective(greedy(joined)) < 1.0


def test_interactions_are_between_neighbours_alone() -> None:
    """What a token at position 1 changes depends on position 2, and on nothing beyond."""
    space = SequenceSpace(4, 3)

    def change(*rest: int) -> float:
        return space.objective((1, *rest)) - space.objective((0, *rest))

    assert change(0, 0, 0) == pytest.approx(change(0, 2, 1), abs=1e-12)
    assert change(0, 0, 0) != pytest.approx(change(1, 0, 0), abs=1e-3)


def test_the_objective_has_a_key() -> None:
    one, same, other = SequenceSpace(), SequenceSpace(), SequenceSpace(seed=1)
    architecture = one.sample(generator("keyed"))
    assert one.objective(architecture) == same.objective(architecture) != other.objective(architecture)
    assert one.optimum() == same.optimum() != other.optimum()


@pytest.mark.parametrize("vocabulary", [2, 9, 10, 12])
def test_sequences_print_and_parse(vocabulary: int) -> None:
    space = SequenceSpace(6, vocabulary)
    rng = generator("strings", vocabulary)
    texts = set()
    for _ in range(50):
        architecture = space.sample(rng)
        text = space.format(architecture)
        assert space.parse(text) == architecture
        texts.add(text)
    assert len(texts) > 20
    assert space.format((1, 0, 1, 0, 1, 0)) == ("212121" if vocabulary <= 9 else "2-1-2-1-2-1")


@pytest.mark.parametrize("text", ["", "1-2", "1-2-13", "1-2-0", "1-2-03", "1-2-a", "123", "1-2-3-4", "1-2-", "1-2-３"])
def test_strings_that_do_not_parse(text: str) -> None:
    with pytest.raises(InputError, match="expected 3 numbers from 1 to 12 joined by dashes, such as '1-1-1'"):
        SequenceSpace(3, 12).parse(text)


def test_bad_input() -> None:
    with pytest.raises(InputError, match=r"space\.length is 0: expected at least 1"):
        SequenceSpace(length=0)
    with pytest.raises(InputError, match=r"space\.vocabulary is 1: expected at least 2"):
        SequenceSpace(vocabulary=1)
    for interaction in (-0.5, float("nan"), float("inf")):
        with pytest.raises(InputError, match=f"space.interaction is {interaction}"):
            SequenceSpace(interaction=interaction)
    space = SequenceSpace(3, 2)
    with pytest.raises(InputError, match="is no architecture of sequence: expected 3 digits from 1 to 2"):
        space.parse("113")
    with pytest.raises(InputError, match="option 2 is not legal"):
        space.objective((0, 0, 2))
    for use in ("supernet", "child", "cost"):
        arguments = {"supernet": (SPEC,), "child": (SPEC, (0, 0, 0)), "cost": ((0, 0, 0), SPEC)}[use]
        with pytest.raises(InputError, match="has no network to build: search it with `nastricks search`"):
            getattr(space, use)(*arguments)
