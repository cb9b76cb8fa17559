"""Controllers: proper probabilities, legal draws, scores that equal draws, and the LSTM against torch's own."""

import hashlib
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch import Tensor, nn

from nastricks.errors import InputError
from nastricks.moment import Moment
from nastricks.policies import Independent, LSTMController, SequencePolicy, Vocabulary, sequence
from nastricks.rng import forked_rng, generator
from nastricks.spaces import Architecture, Choice, Option, Tiny64

Kind = Literal["parallel", "nested", "inputs"]


def choice(name: str, options: Sequence[str], kind: Kind = "parallel") -> Choice:
    return Choice(name, tuple(Option(o) for o in options), kind)


class Described(Tiny64):
    """Choices alone; nothing is built."""

    def __init__(self, choices: Sequence[Choice]) -> None:
        self.choices = tuple(choices)

    def architectures(self) -> Iterator[Architecture]:
        def grow(prefix: Architecture) -> Iterator[Architecture]:
            if len(prefix) == len(self.choices):
                yield prefix
            else:
                for option in self.legal(prefix):
                    yield from grow((*prefix, option))

        return grow(())


class Nodes(Described):
    """Two nodes with two inputs each, which differ, and an operation; after op 2 of the first no op 0 of the second."""

    def __init__(self) -> None:
        nodes = ["input", "node1", "node2"]
        ops = ["max_pool", "conv", "identity"]
        super().__init__(
            [
                choice("node1_a", nodes[:2], "inputs"),
                choice("node1_op", ops),
                choice("node2_a", nodes, "inputs"),
                choice("node2_b", nodes, "inputs"),
                choice("node2_op", ops),
            ]
        )

    def legal(self, prefix: Sequence[int]) -> tuple[int, ...]:
        every = range(len(self.choices[len(prefix)].options))
        if len(prefix) == 3:
            return tuple(i for i in every if i != prefix[2])
        if len(prefix) == 4 and prefix[1] == 2:
            return (1, 2)
        return tuple(every)


TINY, NODES = Tiny64(channels=4), Nodes()
Make = Callable[..., SequencePolicy]


def lstm(space: Tiny64, **settings: object) -> SequencePolicy:
    return LSTMController(space, **{"hidden": 6, "init_range": 1.5, "seed": 3, **settings})  # type: ignore[arg-type]


def independent(space: Tiny64, **settings: object) -> SequencePolicy:
    policy = Independent(space, **settings)  # type: ignore[arg-type]
    with torch.no_grad():
        policy.logits.normal_(generator=generator("logits"))
    return policy


MAKERS: dict[str, Make] = {"lstm": lstm, "independent": independent}
SHAPES: dict[str, dict[str, object]] = {
    "plain": {},
    "bounded": {"temperature": 5.0, "tanh_constant": 2.5},
}
every_policy = pytest.mark.parametrize("name", MAKERS)


def probability(policy: SequencePolicy, architecture: Architecture) -> float:
    return float(policy.log_prob(architecture).detach().double().exp())


# The vocabulary.


def test_choices_whose_options_begin_one_another_share_their_slots() -> None:
    words = Vocabulary(NODES)
    assert (words.length, words.width) == (5, 6)
    assert words.offsets == (0, 3, 0, 0, 3)
    assert words.option_of == (0, 1, 2, 0, 1, 2)
    assert not words.by_position
    assert Vocabulary(TINY).by_position
    assert words.tokens([(1, 2, 2, 0, 1)]).tolist() == [[1, 5, 2, 0, 4]]
    assert words.options(torch.tensor([[1, 5, 2, 0, 4]])) == [(1, 2, 2, 0, 1)]


def test_the_same_names_of_another_kind_have_slots_of_their_own() -> None:
    space = Described([choice("a", "xy"), choice("b", "xy", "nested"), choice("c", "yx"), choice("d", "xyz")])
    words = Vocabulary(space)
    assert words.width == 7
    assert words.offsets[0] == words.offsets[3]
    assert len(set(words.offsets)) == 3


@pytest.mark.parametrize("architecture", [(0, 0, 0, 1), (0, 0, 0, 1, 3), (2, 0, 0, 1, 0), (-1, 0, 0, 1, 0)])
def test_what_is_no_architecture_has_no_tokens(architecture: Architecture) -> None:
    with pytest.raises(InputError, match=r"is no architecture of .*: expected one option for each of its 5 choices"):
        Vocabulary(NODES).tokens([architecture])
    with pytest.raises(InputError, match="is no architecture of"):
        lstm(NODES).log_prob(architecture)


# Probabilities.


@every_policy
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("space", [TINY, NODES], ids=["tiny64", "nodes"])
def test_probabilities_over_the_space_add_up_to_one(name: str, shape: str, space: Tiny64) -> None:
    policy = MAKERS[name](space, **SHAPES[shape])
    found = [probability(policy, a) for a in space.architectures()]
    assert sum(found) == pytest.approx(1.0, abs=1e-6)
    assert max(found) > 1.5 * min(found)  # not uniform by chance
    policy.restrict(space.choices[1].name, [0, 2])
    within = {a: probability(policy, a) for a in space.architectures()}
    assert sum(within.values()) == pytest.approx(1.0, abs=1e-6)
    assert all((p == 0) == (a[1] == 1 or a[1] == 3) for a, p in within.items())


@every_policy
def test_without_masks_all_sequences_of_slots_add_up_to_one(name: str) -> None:
    policy = MAKERS[name](NODES, masked=False)
    every = torch.cartesian_prod(*[torch.arange(6)] * 5)
    scored = policy.score(every)
    assert float(scored.log_probs.detach().sum(1).double().exp().sum()) == pytest.approx(1.0, abs=1e-6)
    assert bool(scored.log_probabilities.isfinite().all())
    legal = sum(probability(policy, a) for a in NODES.architectures())
    assert 0 < legal < 0.9
    rollout = policy.draw(generator("unmasked"), 20_000)
    share = sum(a is not None for a in rollout.architectures) / 20_000
    assert share == pytest.approx(legal, abs=5 * (legal * (1 - legal) / 20_000) ** 0.5)


def test_the_lstm_equals_torchs_lstm_over_whole_sequences() -> None:
    shaped: dict[str, object] = {"temperature": 5.0, "tanh_constant": 2.5}
    policy = lstm(NODES, **shaped)
    assert isinstance(policy, LSTMController)
    reference = nn.LSTM(6, 6, batch_first=True)
    reference.load_state_dict({f"{key}_l0": value for key, value in policy.cell.state_dict().items()})
    tokens = policy.vocabulary.tokens(list(NODES.architectures()))
    read = torch.cat([policy.start.expand(len(tokens), 1, -1), policy.embedding.weight[tokens[:, :-1]]], 1)
    logits = 2.5 * torch.tanh(policy.head(reference(read)[0]) / 5)
    found = policy.score(tokens).log_probs
    for row, architecture in enumerate(NODES.architectures()):
        for position, option in enumerate(architecture):
            offset = policy.vocabulary.offsets[position]
            slots = [offset + i for i in NODES.legal(architecture[:position])]
            own = logits[row, position, slots]
            expected = torch.log_softmax(own, 0)[slots.index(offset + option)]
            torch.testing.assert_close(found[row, position], expected)


def test_embeddings_and_starts() -> None:
    own, shared = lstm(NODES), lstm(NODES, embedding="shared", start="fixed")
    assert isinstance(own, LSTMController)
    assert isinstance(shared, LSTMController)
    assert (own.embedding.num_embeddings, shared.embedding.num_embeddings) == (6, 3)
    assert shared.row_of.tolist() == [0, 1, 2, 0, 1, 2]
    assert isinstance(own.start, nn.Parameter)
    assert not bool(shared.start.any())
    assert "start" not in dict(shared.named_parameters())
    every = torch.cat([p.detach().flatten() for p in LSTMController(NODES, init_range=0.08, seed=0).parameters()])
    assert 0.079 < float(every.abs().max()) <= 0.08
    assert abs(float(every.mean())) < 1e-3
    same, other = LSTMController(NODES, seed=1), LSTMController(NODES, seed=2)
    assert torch.equal(same.head.weight, LSTMController(NODES, seed=1).head.weight)
    assert not torch.equal(same.head.weight, other.head.weight)
    before = torch.get_rng_state()
    LSTMController(NODES, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    of_runs = []
    for run in (0, 0, 1):
        with forked_rng(run):
            of_runs.append(LSTMController(NODES).head.weight)
    assert torch.equal(of_runs[0], of_runs[1])
    assert not torch.equal(of_runs[0], of_runs[2])


# Draws.


@every_policy
def test_draws_have_the_probabilities_that_they_are_given(name: str) -> None:
    policy = MAKERS[name](NODES, temperature=2.0)
    policy.restrict("node1_op", [1, 2])
    counts = Counter(policy.draw(generator("frequencies"), 40_000).architectures)
    every = [a for a in NODES.architectures() if a[1] != 0]
    assert set(counts) <= set(every)
    expected = torch.tensor([probability(policy, a) for a in every], dtype=torch.float64)
    expected *= 40_000 / expected.sum()
    common = expected > 5
    rare = float(expected[~common].sum())
    found = [counts[a] for a, kept in zip(every, common.tolist(), strict=True) if kept]
    found.append(40_000 - sum(found))
    assert chisquare(found, [*expected[common].tolist(), max(rare, 1e-9)]).pvalue > 1e-4


@pytest.mark.parametrize(("name", "parts"), [("lstm", 4), ("independent", 6)])
def test_no_illegal_token_in_a_million_draws(name: str, parts: int) -> None:
    policy, seen = MAKERS[name](NODES), set[Architecture | None]()
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter *= 2  # some legal options become very improbable
    legal = set(NODES.architectures())
    for part in range(parts):
        rollout = policy.draw(generator("million", part), 100_000)
        seen |= set(rollout.architectures)
        assert bool((rollout.log_probs > -torch.inf).all())
    assert seen <= legal
    assert len(seen) > len(legal) // 3


@every_policy
def test_scores_equal_those_of_the_draws(name: str) -> None:
    policy = MAKERS[name](NODES, temperature=1.3)
    rollout = policy.draw(generator("scores"), 300)
    scored = policy.score(rollout.tokens)
    torch.testing.assert_close(scored.log_probs.detach(), rollout.log_probs)
    torch.testing.assert_close(scored.entropies.detach(), rollout.entropies)
    assert not rollout.log_probs.requires_grad
    assert policy.vocabulary.options(rollout.tokens) == list(rollout.architectures)
    for architecture, log_probs in zip(rollout.architectures[:20], rollout.log_probs, strict=False):
        assert architecture is not None
        torch.testing.assert_close(policy.log_prob(architecture).detach(), log_probs.sum())
    p = scored.log_probabilities.double().exp()
    torch.testing.assert_close(p.sum(-1), torch.ones(300, 5, dtype=torch.float64), atol=1e-6, rtol=0)
    by_hand = torch.special.entr(p).sum(-1)
    torch.testing.assert_close(scored.entropies.double(), by_hand, atol=1e-6, rtol=0)


@every_policy
@pytest.mark.parametrize("masked", [True, False])
def test_the_same_key_draws_the_same(name: str, masked: bool) -> None:
    policy = MAKERS[name](NODES, masked=masked)
    first = policy.draw(generator("key", 0), 50)
    again, other = policy.draw(generator("key", 0), 50), policy.draw(generator("key", 1), 50)
    assert torch.equal(first.tokens, again.tokens)
    assert torch.equal(first.log_probs, again.log_probs)
    assert not torch.equal(first.tokens, other.tokens)
    assert len(first) == 50


@every_policy
def test_what_is_illegal_is_none_and_can_be_scored(name: str) -> None:
    policy = MAKERS[name](NODES, masked=False)
    policy.restrict("node2_op", [0, 2])
    rollout = policy.draw(generator("illegal"), 2_000)
    for options, architecture in zip(policy.vocabulary.options(rollout.tokens), rollout.architectures, strict=True):
        fits = options[4] in (0, 2)
        try:
            NODES.check(options)
        except InputError:
            fits = False
        assert architecture == (options if fits else None)
    assert {None} < set(rollout.architectures)
    torch.testing.assert_close(policy.score(rollout.tokens).log_probs.detach(), rollout.log_probs)
    # With masks the same illegal sequences have probability 0, and nothing becomes NaN.
    masked = MAKERS[name](NODES)
    scored = masked.score(rollout.tokens)
    assert not bool(scored.log_probabilities.isnan().any())
    illegal = torch.tensor([a is None for a in rollout.architectures])
    assert bool((scored.log_probs[illegal].min(1).values == -torch.inf).any())
    legal = scored.log_probs[~illegal]
    assert bool(legal.isfinite().all())
    (legal.sum() + scored.entropies.sum()).backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in masked.parameters())


class Counting(Nodes):
    """Counts its answers, and answers no question about what is not its own."""

    asked: int = 0

    def legal(self, prefix: Sequence[int]) -> tuple[int, ...]:
        self.asked += 1
        own = super()
        assert all(option in own.legal(prefix[:position]) for position, option in enumerate(prefix))
        return own.legal(prefix)


def test_a_space_is_asked_once_for_each_prefix_of_a_batch() -> None:
    space = Counting()
    policy = lstm(space)
    space.asked = 0
    rollout = policy.draw(generator("asked"), 5_000)
    prefixes = {a[:n] for a in rollout.architectures if a is not None for n in range(5)}
    assert space.asked == len(prefixes)
    loose = lstm(space, masked=False)
    loose.score(loose.draw(generator("asked"), 5_000).tokens)


@st.composite
def spaces(draw: st.DrawFn) -> Described:
    """Up to five choices of three kinds, of two families of names; what is legal depends on the whole prefix."""
    kinds: list[Kind] = ["parallel", "nested", "inputs"]
    choices = []
    for number in range(draw(st.integers(1, 5))):
        names = ["abcd", "aycd"][draw(st.integers(0, 1))][: draw(st.integers(1, 4))]
        choices.append(choice(f"choice{number}", names, draw(st.sampled_from(kinds))))
    if draw(st.booleans()):
        return Described(choices)
    key = draw(st.integers(0, 10**6))

    class Restless(Described):
        def legal(self, prefix: Sequence[int]) -> tuple[int, ...]:
            n = len(self.choices[len(prefix)].options)
            bits = hashlib.sha256(repr((key, tuple(prefix))).encode()).digest()
            return tuple(i for i in range(n) if bits[i] % 2 or i == bits[9] % n)

    return Restless(choices)


@settings(max_examples=40, deadline=None)
@given(spaces(), st.sampled_from(sorted(MAKERS)), st.booleans(), st.integers(0, 5))
def test_any_space_is_drawn_and_scored_legally(space: Described, name: str, masked: bool, seed: int) -> None:
    policy = MAKERS[name](space, masked=masked)
    words = policy.vocabulary
    for (i, one), (j, two) in itertools.combinations(enumerate(space.choices), 2):
        if words.offsets[i] == words.offsets[j]:
            short, long = sorted((one, two), key=lambda c: len(c.options))
            assert short.kind == long.kind
            assert short.options == long.options[: len(short.options)]
    rollout = policy.draw(generator(seed), 30)
    assert bool((rollout.tokens < words.width).all())
    torch.testing.assert_close(policy.score(rollout.tokens).log_probs.detach(), rollout.log_probs)
    for row, architecture in zip(rollout.tokens, rollout.architectures, strict=True):
        if architecture is not None:
            assert space.check(architecture) == architecture
            assert words.tokens([architecture]).tolist() == [row.tolist()]
        else:
            assert not masked
            with pytest.raises(InputError):
                space.check(words.options(row[None])[0])


# What a policy proposes.


def proposed(policy: SequencePolicy, step: int) -> Architecture:
    (gates,) = policy.propose(Moment(role="weights", seed=0, step=step))
    assert all(gate.weights is None and len(gate.active) == 1 for gate in gates.values())
    return tuple(gates[c.name].active[0] for c in policy.space.choices)


@every_policy
def test_proposes_what_it_draws_for_the_moment(name: str) -> None:
    policy = MAKERS[name](NODES)
    found = [proposed(policy, step) for step in range(30)]
    drawn = [policy.draw(Moment("weights", 0, step).generator("path"), 1).architectures[0] for step in range(30)]
    assert found == drawn
    assert len(set(found)) > 5
    loose = MAKERS[name](NODES, masked=False)
    assert all(NODES.check(proposed(loose, step)) for step in range(20))


def test_a_policy_that_draws_nothing_legal_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sequence, "REDRAWS", (1, 4))
    policy = Independent(NODES, masked=False)
    with torch.no_grad():
        policy.logits[0, 5] = 1e4  # an operation where an input belongs
    with pytest.raises(InputError, match=r"5 draws of Independent in a row were illegal in .*: set policy.masked true"):
        policy.propose(Moment(role="weights", seed=0))


def test_a_prefix_with_nothing_left_is_refused() -> None:
    policy = lstm(NODES)
    policy.restrict("node2_a", [1])
    policy.restrict("node2_b", [1])
    with pytest.raises(InputError, match="no option of node2_b is both legal and allowed"):
        policy.draw(generator(0), 10)


def test_preferences() -> None:
    policy = Independent(NODES, temperature=2.0)
    with torch.no_grad():
        policy.logits.normal_(generator=generator("preferences"))
    policy.restrict("node2_op", [0, 2])
    found = policy.preferences()
    for position, c in enumerate(NODES.choices):
        offset = policy.vocabulary.offsets[position]
        allowed = policy.allowed[c.name]
        expected = torch.full((len(c.options),), -torch.inf)
        own: Tensor = policy.logits.detach()[position, [offset + i for i in allowed]] / 2
        expected[list(allowed)] = torch.softmax(own, 0)
        torch.testing.assert_close(found[c.name], expected)
    assert lstm(NODES).preferences() == {}
    uniform = Independent(NODES).preferences()
    assert uniform["node1_a"].tolist() == pytest.approx([0.5, 0.5])


@every_policy
def test_a_checkpoint_keeps_the_mask_and_the_draws(name: str, tmp_path: Path) -> None:
    policy = MAKERS[name](NODES)
    policy.restrict("node1_op", [0, 2])
    torch.save(policy.state_dict(), tmp_path / "policy.pt")
    other = LSTMController(NODES, hidden=6, seed=9) if name == "lstm" else Independent(NODES)
    other.load_state_dict(torch.load(tmp_path / "policy.pt", weights_only=True))
    first, second = (p.draw(generator("kept"), 40) for p in (policy, other))
    assert torch.equal(first.tokens, second.tokens)
    assert torch.equal(first.log_probs, second.log_probs)
    assert other.allowed["node1_op"] == (0, 2)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"temperature": 0.0}, "policy.temperature is 0.0: expected a number above 0"),
        ({"tanh_constant": -1.0}, "policy.tanh_constant is -1.0: expected a number above 0, or null"),
        ({"hidden": 0}, "policy.hidden is 0: expected at least 1"),
        ({"init_range": 0.0}, "policy.init_range is 0.0: expected a number above 0"),
        ({"embedding": "own"}, "policy.embedding is 'own': expected 'kind' or 'shared'"),
        ({"start": "random"}, "policy.start is 'random': expected 'learned' or 'fixed'"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        LSTMController(NODES, **settings)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="0 architectures cannot be drawn: expected at least 1"):
        lstm(NODES).draw(generator(0), 0)
