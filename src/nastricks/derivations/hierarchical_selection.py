"""The best of some architectures that a trained Monte-Carlo tree leads to (MCT-NAS, Su et al. 2021, section 3.3)."""

import torch

from nastricks.derivations.base import Derivation, Trained
from nastricks.errors import InputError
from nastricks.policies import MonteCarloTree, Policy
from nastricks.rng import generator
from nastricks.spaces import Architecture, Space
from nastricks.spaces.base import drawn


class HierarchicalSelection(Derivation):
    """Goes down the tree level by level, after it has looked at each node's children often enough.

    While the children of a node were visited fewer than `threshold` times on average, uniform architectures below it
    are measured; then a child is drawn as in training. What is measured teaches the tree, so that `samples` descents
    settle on its best parts. The best measured architecture is derived; ties go to the first in lexicographic order.

    A measurement is the supernet's accuracy on the validation split; batch norms use the statistics of its batches. It
    earns its ratio to the mean of all so far, so that it stands beside the rewards of training, which are around 1.

    Args:
        samples: Descents, at least 1; the paper's search takes 20 architectures.
        threshold: Visits a child on average, at least 0.
        seed: Key of the draws.

    Raises:
        InputError: a value is out of its range.
    """

    needs_network = True

    def __init__(self, samples: int = 20, threshold: float = 4.0, seed: int = 0) -> None:
        if samples < 1:
            raise InputError(f"derivation.samples is {samples}: expected at least 1, such as 20")
        if not 0 <= threshold < float("inf"):
            raise InputError(f"derivation.threshold is {threshold}: expected at least 0, such as 4")
        self.samples, self.threshold, self.seed = samples, threshold, seed

    def check(self, space: Space, policy: Policy) -> None:
        super().check(space, policy)
        if not isinstance(policy, MonteCarloTree):
            raise InputError(
                f"derivation HierarchicalSelection goes down a tree, and {type(policy).__name__} has none: use "
                "BestRanked, or the policy MonteCarloTree"
            )

    def derive(self, trained: Trained) -> Architecture:
        self.check(trained.space, trained.policy)
        tree, state = trained.policy, trained.policy.get_extra_state()
        assert isinstance(tree, MonteCarloTree), "checked"
        descents = Descents(trained, tree, generator(self.seed, "hierarchical selection"))
        try:
            for _ in range(self.samples):
                descents.take(self.threshold)
        finally:
            tree.set_extra_state(state)
        accuracies = descents.accuracies
        return max(sorted(accuracies), key=lambda architecture: accuracies[architecture])


class Descents:
    """Measures architectures below nodes of a tree, which it teaches.

    Args:
        trained: What measures.
        tree: Its policy.
        rng: Draws.
    """

    def __init__(self, trained: Trained, tree: MonteCarloTree, rng: torch.Generator) -> None:
        self.trained, self.tree, self.rng = trained, tree, rng
        self.accuracies: dict[Architecture, float] = {}
        self._sum, self._count = 0.0, 0

    def take(self, threshold: float) -> None:
        """Go down once, and measure where it ends."""
        prefix: Architecture = ()
        for _ in self.tree.space.choices:
            while self.tree.mean_visits(prefix) < threshold:
                self._measure(self._below(prefix))
            prefix += (drawn(self.tree.odds(prefix), self.rng),)
        self._measure(prefix)

    def _below(self, prefix: Architecture) -> Architecture:
        """A uniform architecture that begins so."""
        for _ in self.tree.space.choices[len(prefix) :]:
            prefix += (drawn(self.tree.uniform_odds(prefix), self.rng),)
        return prefix

    def _measure(self, architecture: Architecture) -> None:
        if architecture not in self.accuracies:
            gates = self.tree.space.gates(architecture)
            self.accuracies[architecture] = self.trained.accuracy(lambda moment: gates)
        accuracy = self.accuracies[architecture]
        self._sum, self._count = self._sum + accuracy, self._count + 1
        self.tree.observe(architecture, accuracy * self._count / self._sum if self._sum > 0 else 1.0)
