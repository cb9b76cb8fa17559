"""Perturbation on supernets whose accuracy is made up, and on a real one against masks written out."""

from collections.abc import Callable, Mapping, Sequence

import pytest
import torch

from nastricks.derivations import Draw, Perturbation, Trained
from nastricks.derivations.perturbation import most_missed, proposed, without_edges, without_option
from nastricks.errors import InputError
from nastricks.modules.normalisation import batch_norms, statistics
from nastricks.modules.scoring import gated_accuracy
from nastricks.moment import Moment
from nastricks.policies import EdgeNormalised, Sigmoid, Softmax, UniformPath
from nastricks.run import Run
from nastricks.spaces import Gates, Space, Tiny64, WeightSharing64

NodesMaker = Callable[[int | None], Space]
HERE = Moment("evaluation", 0)


class Made:
    """An accuracy that falls with the worth of every option that does not run; what was asked is written down."""

    def __init__(self, space: Space, worth: Mapping[str, Sequence[float]]) -> None:
        self.space, self.worth, self.asked = space, worth, list[Gates]()

    def __call__(self, draw: Draw) -> float:
        gates = draw(HERE)
        self.asked.append(gates)
        return sum(self.worth[name][index] for name, gate in gates.items() for index in gate.active)


def worths(space: Space, seed: int) -> dict[str, list[float]]:
    rng = torch.Generator().manual_seed(seed)
    return {c.name: torch.rand(len(c.options), generator=rng).tolist() for c in space.choices}


def test_most_missed() -> None:
    assert most_missed([0.5, 0.2, 0.4]) == [1]
    assert most_missed([0.5, 0.2, 0.4, 0.1], 2) == [1, 3]
    assert most_missed([0.5, 0.5, 0.5], 2) == [0, 1]


def test_masks() -> None:
    space = Tiny64(channels=4)
    policy = Softmax(space, init_std=1.0, seed=0)
    gates = proposed(policy)(HERE)
    masked = without_option(proposed(policy), space.choices[1], 2)(HERE)
    assert masked["layer1"].active == (0, 1, 2, 3)
    assert masked["layer2"].active == (0, 1, 3)
    kept, weights = masked["layer2"].weights, gates["layer2"].weights
    assert kept is not None
    assert weights is not None
    assert torch.equal(kept, weights[[0, 1, 3]])


def test_an_absent_edge_is_the_option_none(nodes: NodesMaker) -> None:
    space = nodes(None)
    gates = without_edges(proposed(Softmax(space)), [space.choices[3]])(HERE)
    assert gates["normal_b1"].active == (0,)
    assert gates["normal_b0"].active == (0, 1, 2, 3)


def test_an_absent_edge_keeps_its_weight(nodes: NodesMaker) -> None:
    """With partial channels the rest of an edge's channels passes on, as it does beside `none`."""
    space = nodes(None)
    policy = EdgeNormalised(space, init_std=1.0, seed=3)
    gates, name = without_edges(proposed(policy), [space.choices[3]])(HERE), space.choices[3].name
    own, before = gates[name].scale, proposed(policy)(HERE)[name].scale
    assert own is not None
    assert before is not None
    assert torch.equal(own, before)


@pytest.mark.parametrize("seed", range(6))
def test_the_most_worthy_operations_and_edges_stay(seed: int, nodes: NodesMaker) -> None:
    """Worths add up, so that no order matters, and the result is known."""
    space = nodes(2)
    worth, policy = worths(space, seed), Softmax(space)
    best = {name: max((1, 2, 3), key=lambda i, own=own: own[i]) for name, own in worth.items()}  # type: ignore[misc]
    expected: list[int] = []
    for node in ("normal_a", "normal_b", "reduce_a"):
        edges = [c.name for c in space.choices if c.node == node]
        # What is lost with an edge is the worth of its operation, and what is won is that of none.
        lost = {name: worth[name][best[name]] - worth[name][0] for name in edges}
        kept = sorted(edges, key=lambda name: -lost[name])[:2]
        expected += [best[name] if name in kept else 0 for name in edges]
    made = Made(space, worth)
    derivation = Perturbation(seed=seed)
    derivation.check(space, policy)
    assert derivation.derive(Trained(space, policy, dict, made)) == tuple(expected)
    assert len(made.asked) == 8 * 3 + 2 * 3  # three operations of eight edges; two nodes have an edge too many
    assert policy.allowed == space.all_options()


def test_none_competes_where_edges_are_not_counted(nodes: NodesMaker) -> None:
    space = nodes(None)
    worth = {c.name: [0.5, 0.2, 0.8 if c.name.endswith("0") else 0.3, 0.1] for c in space.choices}
    picked = Perturbation(edges=None).derive(Trained(space, Softmax(space), dict, Made(space, worth)))
    assert picked == (2, 0, 2, 0, 0, 2, 0, 0)


def test_what_is_settled_runs_alone_and_the_order_is_keyed() -> None:
    space = Tiny64(channels=4)

    def order(seed: int) -> list[str]:
        made = Made(space, worths(space, 0))
        Perturbation(seed=seed).derive(Trained(space, Softmax(space), dict, made))
        assert len(made.asked) == 12
        settled = [{name for name, gate in gates.items() if len(gate.active) == 1} for gates in made.asked]
        assert [len(s) for s in settled] == [0] * 4 + [1] * 4 + [2] * 4
        return [*settled[4], *(settled[8] - settled[4])]

    assert order(3) == order(3)
    assert len({tuple(order(seed)) for seed in range(20)}) == 6


def test_the_mask_is_obeyed_and_put_back(nodes: NodesMaker) -> None:
    space = nodes(2)
    policy = EdgeNormalised(space)
    policy.restrict("normal_b0", [2, 3])  # without none: it stays
    policy.restrict("normal_b1", [0])
    policy.restrict("reduce_a0", [0])
    before = dict(policy.allowed)
    worth = {c.name: [0.0, 0.9, 0.1, 0.2] for c in space.choices}
    picked = Perturbation().derive(Trained(space, policy, dict, Made(space, worth)))
    assert picked == (1, 1, 3, 0, 1, 0, 1, 1)
    assert policy.allowed == policy.operations.allowed == before


def test_what_cannot_be_derived_is_refused(nodes: NodesMaker) -> None:
    tiny, cells = Tiny64(channels=4), WeightSharing64(channels=4)
    with pytest.raises(InputError, match=r"derivation.edges is 0: expected at least 1, or null"):
        Perturbation(edges=0)
    with pytest.raises(InputError, match="UniformPath runs one at a time: use BestRanked"):
        Perturbation().check(tiny, UniformPath(tiny))
    with pytest.raises(InputError, match="keeps 1 of the 2 edges into node2"):
        Perturbation(edges=1).check(cells, Sigmoid(cells))
    with pytest.raises(InputError, match=r"derivation.edges is 1, and node normal_a of nodes takes at least 2 inputs"):
        Perturbation(edges=1).check(nodes(2), Sigmoid(nodes(2)))
    with pytest.raises(InputError, match="measures the supernet, and there is none here"):
        Perturbation().derive(Trained(tiny, Softmax(tiny), dict))
    Perturbation().check(cells, Softmax(cells))
    Perturbation().check(tiny, Softmax(tiny))


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning")
def test_a_trained_supernet_is_measured_and_left_as_it_was(make: Callable[..., Run]) -> None:
    run = make("darts", None, {"trainer.max_epochs": 4})
    run.fit()
    module, data = run.module, run.data
    state = {key: value.clone() for key, value in module.state_dict().items() if isinstance(value, torch.Tensor)}
    modes = [m.training for m in module.modules()]

    def accuracy(draw: Draw) -> float:
        return gated_accuracy(module, data, draw)

    module.networks.train()
    batches = data.evaluation_batches("validation")
    before = statistics(batch_norms(module.networks))
    with torch.no_grad(), module.frozen_statistics():
        gates = module.policy.propose(HERE)[0]
        expected = [(module.logits(b.images, gates).argmax(1) == b.labels).float().mean() for b in batches]
    assert all(map(torch.equal, before, statistics(batch_norms(module.networks))))
    assert accuracy(proposed(module.policy)) == pytest.approx(float(torch.stack(expected).mean()))

    picked = Perturbation().derive(Trained(module.space, module.policy, dict, accuracy))
    module.space.check(picked)
    after = module.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in state.items())
    assert [m.training for m in module.modules()] == modes
