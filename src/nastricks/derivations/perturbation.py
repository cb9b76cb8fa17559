"""What hurts the supernet most when it is missing: DARTS-PT (Wang et al. 2021, section 5, algorithm 1).

The rules of one choice and of one node are functions of their own, for a search that trains on between projections.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from nastricks.derivations.base import Derivation, Draw, Trained
from nastricks.derivations.edges import check_edges, legal_or_refused
from nastricks.errors import InputError
from nastricks.moment import Moment
from nastricks.policies import Policy
from nastricks.rng import generator
from nastricks.spaces import Architecture, Choice, Gate, Gates, Space
from nastricks.spaces.legality import absent_option, edges_of_nodes

Accuracy = Callable[[Draw], float]
"""The supernet's accuracy in [0, 1] under the gates that it is given a batch."""


def most_missed(missing: Sequence[float], count: int = 1) -> list[int]:
    """The places of the `count` things without which the accuracy is lowest, in order; ties go to the first."""
    ranked = sorted(range(len(missing)), key=lambda place: missing[place])
    return sorted(ranked[:count])


def proposed(policy: Policy) -> Draw:
    """The gates that a policy proposes, its first set."""
    return lambda at: policy.propose(at)[0]


def without_option(draw: Draw, choice: Choice, option: int) -> Draw:
    """Gates in which one option of a choice does not run; the weights of the others stay as they are."""

    def masked(at: Moment) -> Gates:
        gates = draw(at)
        gate = gates[choice.name]
        left = [place for place, index in enumerate(gate.active) if index != option]
        weights = None if gate.weights is None else gate.weights[left]
        return {**gates, choice.name: replace(gate, active=tuple(gate.active[p] for p in left), weights=weights)}

    return masked


def without_edges(draw: Draw, edges: Sequence[Choice]) -> Draw:
    """Gates in which some edges are absent; what passes beside an edge's operations keeps the edge's weight."""

    def masked(at: Moment) -> Gates:
        absent, gates = {edge.name: absent_option(edge) for edge in edges}, draw(at)
        gone = {name: Gate((i,), scale=gates[name].scale) for name, i in absent.items() if i is not None}
        return {**gates, **gone}

    return masked


def option_that_matters(draw: Draw, choice: Choice, options: Sequence[int], accuracy: Accuracy) -> int:
    """The option of a choice without which the supernet is worst; it is measured without each of them in turn.

    Args:
        draw: The gates of the supernet as it is.
        choice: The choice.
        options: Those in the contest, at least one of several that run.
        accuracy: Measures the supernet.
    """
    if len(options) == 1:
        return options[0]
    return options[most_missed([accuracy(without_option(draw, choice, option)) for option in options])[0]]


def edges_that_matter(draw: Draw, edges: Sequence[Choice], count: int, accuracy: Accuracy) -> list[int]:
    """The places of the `count` edges into a node without which the supernet is worst, measured one by one."""
    if len(edges) <= count:
        return list(range(len(edges)))
    return most_missed([accuracy(without_edges(draw, [edge])) for edge in edges], count)


class Perturbation(Derivation):
    """Settles choice by choice, in a random order, on the option whose removal hurts the supernet most.

    What is settled runs alone from then on. `none` is no option of an edge here; when all operations are settled, nodes
    in a random order keep the `edges` edges whose removal hurts most. Nothing is trained in between. As in the released
    code, the gates' weights are not renormalised where an option is missing, ties go to the first, and batch norms use
    the statistics of each validation batch.

    Args:
        edges: Edges that stay of each node, at least 1; None lets `none` compete as an option like the others.
        seed: Key of the order of choices and nodes.

    Raises:
        InputError: `edges` is below 1.
    """

    needs_network = True

    def __init__(self, edges: int | None = 2, seed: int = 0) -> None:
        if edges is not None and edges < 1:
            raise InputError(f"derivation.edges is {edges}: expected at least 1, or null")
        self.edges, self.seed = edges, seed

    def check(self, space: Space, policy: Policy) -> None:
        super().check(space, policy)
        if not policy.mixed:
            raise InputError(
                f"derivation Perturbation takes options out of a mixture, and {type(policy).__name__} runs one at a "
                "time: use BestRanked, or an algorithm that mixes them"
            )
        if edges_of_nodes(space):
            check_edges(space, policy.derivable, self.edges, type(self).__name__)

    def derive(self, trained: Trained) -> Architecture:
        self.check(trained.space, trained.policy)
        policy, state = trained.policy, trained.policy.get_extra_state()
        may_go = [absent_option(choice) in policy.derivable[choice.name] for choice in trained.space.choices]
        try:
            picked = self._operations(trained)
            for place in self._edges_to_go(trained, picked, may_go):
                none = absent_option(trained.space.choices[place])
                assert none is not None, "an edge that may go has a way to be absent"
                picked[place] = none
        finally:
            policy.set_extra_state(state)
        return legal_or_refused(trained.space, tuple(picked), "use BestEdges, or other derivation.edges")

    def _operations(self, trained: Trained) -> list[int]:
        """An option for every choice; the policy allows nothing else from then on."""
        choices, policy = trained.space.choices, trained.policy
        picked = [0] * len(choices)
        for place in _shuffled(len(choices), self.seed, "choices"):
            choice = choices[place]
            options = list(policy.allowed[choice.name])
            if self.edges is not None and choice.node is not None:
                options = [index for index in options if not choice.options[index].absent] or options
            picked[place] = option_that_matters(proposed(policy), choice, options, trained.accuracy)
            policy.restrict(choice.name, [picked[place]])
        return picked

    def _edges_to_go(self, trained: Trained, picked: Sequence[int], may_go: Sequence[bool]) -> list[int]:
        """The places of the edges that their nodes do not keep."""
        choices, gone = trained.space.choices, list[int]()
        nodes = list(edges_of_nodes(trained.space).values())
        for number in _shuffled(0 if self.edges is None else len(nodes), self.seed, "nodes"):
            there = [place for place in nodes[number] if not choices[place].options[picked[place]].absent]
            free = [place for place in there if may_go[place]]
            draw = without_edges(proposed(trained.policy), [choices[place] for place in gone])
            count = max(0, (self.edges or 0) - (len(there) - len(free)))
            kept = edges_that_matter(draw, [choices[place] for place in free], count, trained.accuracy)
            gone += [place for i, place in enumerate(free) if i not in kept]
        return gone


def _shuffled(count: int, seed: int, purpose: str) -> list[int]:
    """The numbers below `count` in a random order."""
    return list(map(int, torch.randperm(count, generator=generator(seed, "perturbation", purpose))))
