"""Projects a trained supernet on one architecture, choice by choice, and trains on in between: DARTS-PT.

Wang et al. 2021, section 5, algorithm 1: what is kept is the option whose removal hurts the supernet's validation
accuracy most; then the edges into each node whose removal hurts most.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import pytorch_lightning as pl
import torch

from nastricks.derivations.edges import check_edges
from nastricks.derivations.perturbation import Accuracy, edges_that_matter, option_that_matters, proposed
from nastricks.errors import InputError
from nastricks.modules.scoring import gated_accuracy
from nastricks.modules.trick import Change, Need, Trick
from nastricks.moment import Moment
from nastricks.policies import Policy
from nastricks.rng import generator
from nastricks.spaces import Allowed, Space
from nastricks.spaces.legality import absent_option, edges_of_nodes

if TYPE_CHECKING:
    from nastricks.modules import TrainingModule

Places = tuple[int, ...]
"""A choice, as its place alone, or the edges into a node."""


def projection_rounds(space: Space, allowed: Allowed, edges: int | None, at_once: int, seed: int) -> list[list[Places]]:
    """What is decided in each round: of every kind of cell `at_once` choices, then as many nodes, in a random order.

    Args:
        space: The space.
        allowed: Options in the contest; choices with one are decided.
        edges: Edges that a node keeps; None decides no nodes, since `none` is an option like the others.
        at_once: Of each kind of cell, at least 1.
        seed: Key of the order.
    """
    rounds: list[list[Places]] = []
    nodes = edges_of_nodes(space) if edges is not None else {}
    for cell in dict.fromkeys(choice.cell for choice in space.choices):
        mine = [place for place, choice in enumerate(space.choices) if choice.cell == cell]
        open_choices = [(place,) for place in mine if len(allowed[space.choices[place].name]) > 1]
        open_nodes = [tuple(p) for p in nodes.values() if p[0] in mine and len(p) > (edges or 0)]
        for number, parts in enumerate((_shuffled(open_choices, seed, cell), _shuffled(open_nodes, seed, cell))):
            start = 0 if number == 0 else -(-len(open_choices) // at_once)
            for position, part in enumerate(parts):
                place = start + position // at_once
                rounds += [[] for _ in range(place + 1 - len(rounds))]
                rounds[place].append(part)
    return rounds


def _shuffled(things: Sequence[Places], seed: int, cell: str | None) -> list[Places]:
    order = torch.randperm(len(things), generator=generator(seed, "op_projection", str(cell), len(things)))
    return [things[i] for i in order.tolist()]


def project_choice(policy: Policy, place: int, edges: int | None, accuracy: Accuracy) -> None:
    """Leave a choice the option that matters most; `none` competes where `edges` is None, or the choice is no edge."""
    choice = policy.space.choices[place]
    options = list(policy.allowed[choice.name])
    if edges is not None and choice.node is not None:
        options = [index for index in options if not choice.options[index].absent] or options
    policy.restrict(choice.name, [option_that_matters(proposed(policy), choice, options, accuracy)])


def project_node(policy: Policy, places: Places, may_go: Sequence[bool], edges: int, accuracy: Accuracy) -> None:
    """Leave a node, whose edges have one operation each, the `edges` that matter most; the others become `none`."""
    choices = policy.space.choices
    there = [p for p in places if not choices[p].options[policy.allowed[choices[p].name][0]].absent]
    free = [p for p in there if may_go[p]]
    count = max(0, edges - (len(there) - len(free)))
    kept = edges_that_matter(proposed(policy), [choices[p] for p in free], count, accuracy)
    for number, place in enumerate(free):
        none = absent_option(choices[place])
        if number not in kept and none is not None:
            policy.settle(choices[place].name, none)  # it was given up when the operation was settled


class OpProjection(Trick):
    """Decides some choices before every `tune_epochs`-th epoch, from the second epoch on, and lets the rest train on.

    The last decision comes before the last epoch at the latest. Derive with `Argmax` afterwards: one option a choice is
    allowed then.

    Args:
        tune_epochs: Epochs from one decision to the next, at least 1.
        edges: Edges that stay of each node, at least 1; None lets `none` compete as an option like the others.
        at_once: Choices of each kind of cell that are decided together, at least 1.

    Raises:
        InputError: a value is out of its range.
    """

    changes: ClassVar[Change] = "options"
    needs: ClassVar[tuple[Need, ...]] = ("supernet", "mixture of options")
    order = 10  # after options were pruned

    def __init__(self, tune_epochs: int = 5, edges: int | None = 2, at_once: int = 1) -> None:
        super().__init__()
        for name, value in {"tune_epochs": tune_epochs, "edges": edges, "at_once": at_once}.items():
            if value is not None and value < 1:
                raise InputError(f"op_projection.{name} is {value}: expected at least 1")
        self.tune_epochs, self.edges, self.at_once = tune_epochs, edges, at_once
        self._rounds: list[list[Places]] = []
        self._may_go: list[bool] = []

    def epochs_needed(self, module: "TrainingModule") -> int:
        """Epochs in which every choice is decided, and one more."""
        return 2 + (len(self._plan(module)) - 1) * self.tune_epochs

    def refusal(self, module: "TrainingModule") -> str | None:
        missing = super().refusal(module)
        if missing is not None:
            return missing
        if edges_of_nodes(module.space):
            try:
                check_edges(module.space, module.policy.derivable, self.edges, self.name)
            except InputError as error:
                return (
                    str(error)
                    .replace("derivation op_projection", "trick op_projection")
                    .replace("derivation.edges", "op_projection.edges")
                )
        epochs = module.trainer.max_epochs
        return None if epochs is None or epochs < 1 else self._too_short(module, epochs)

    def _too_short(self, module: "TrainingModule", epochs: float) -> str | None:
        needed = self.epochs_needed(module)
        if epochs >= needed:
            return None
        return (
            f"trick op_projection decides {len(self._plan(module))} times, once every {self.tune_epochs} epochs, and "
            f"the run has {epochs:g}: set trainer.max_epochs to {needed}, or op_projection.tune_epochs lower"
        )

    def _plan(self, module: "TrainingModule") -> list[list[Places]]:
        return projection_rounds(module.space, module.policy.allowed, self.edges, self.at_once, module.seed)

    def surgery(self, module: "TrainingModule") -> None:
        """Plan by the options of the start: a resumed run's mask comes later."""
        self._rounds = self._plan(module)
        # Also where the search does not know `none` (S1, S2, S4 of RobustDARTS) an architecture leaves edges out by it.
        derivable = module.policy.derivable
        self._may_go = [absent_option(choice) in derivable[choice.name] for choice in module.space.choices]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        module: TrainingModule = pl_module  # type: ignore[assignment]
        if module.steps_seen == 0 and (reason := self._too_short(module, module.epochs)) is not None:
            raise InputError(reason)  # where the length is given in steps

    def on_epoch(self, module: "TrainingModule", at: Moment) -> bool:
        number, rest = divmod(int(at.epoch) - 1, self.tune_epochs)
        if rest == 0 and number < len(self._rounds):
            data = module.trainer.datamodule  # type: ignore[attr-defined]
            for places in self._rounds[number]:
                self._decide(module.policy, places, lambda draw: gated_accuracy(module, data, draw))
            self.act()
        return False

    def _decide(self, policy: Policy, places: Places, accuracy: Accuracy) -> None:
        if len(places) == 1:
            project_choice(policy, places[0], self.edges, accuracy)
        elif self.edges is not None:
            project_node(policy, places, self._may_go, self.edges, accuracy)

    def first_active_step(self, module: "TrainingModule") -> int:
        return module.steps_per_epoch
