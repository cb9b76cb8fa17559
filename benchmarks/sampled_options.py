"""What it saves on DARTS' own space to run the option that a gate names, and not all of them."""

import torch

from benchmarks.darts_tricks import BATCH, steps
from benchmarks.measure import Result, alternate, compared, ratios
from nastricks.data import Batch
from nastricks.modules import TrainingModule
from nastricks.ranking.evaluate import score_children
from nastricks.rng import generator
from nastricks.spaces import Architecture, Gate, Gates, Space

HARD = ("--model.init_args.policy.class_path", "nastricks.policies.GumbelHard")


def gumbel_hard(rounds: int = 6, batch_size: int = BATCH, channels: int = 16, cells: int = 8) -> Result:
    """A training step with one sampled option a choice against one with all of them, weighted by softmax."""
    size = batch_size, channels, cells
    (hard, told), (mixed, _) = steps(*size, *HARD), steps(*size)
    times = alternate(hard.take, mixed.take, rounds)
    return Result.of("gumbel_hard", ratios(*times), 0.22, f"darts, {told}: a step {compared(*times)}")


def one_hot(space: Space, architecture: Architecture) -> Gates:
    """All options on, those that are not chosen with weight 0: the common way to score a child in a supernet."""
    return {
        choice.name: Gate(tuple(range(len(choice.options))), torch.eye(len(choice.options))[index])
        for choice, index in zip(space.choices, architecture, strict=True)
    }


@torch.no_grad()
def score_one_hot(module: TrainingModule, architectures: list[Architecture], batches: list[Batch]) -> None:
    """Accuracy of each child with one-hot gates."""
    network = module.networks[0].eval()
    for architecture in architectures:
        gates = one_hot(module.space, architecture)
        for batch in batches:
            (network(batch.images, gates).argmax(1) == batch.labels).float().mean()


def active_options(
    rounds: int = 4, children: int = 5, batch_size: int = BATCH, channels: int = 16, cells: int = 8
) -> Result:
    """Scores of random children by their active options alone against one-hot gates over all eight."""
    run, told = steps(batch_size, channels, cells)
    module = run.run.module
    space = module.space
    rng = generator("active_options")
    drawn = [space.sample(rng) for _ in range(children)]
    batches = [run.run.data.batch("train", 0)]
    network = module.network_of(space.gates(drawn[0]))

    def active() -> None:
        score_children(space, network, drawn, batches, share_prefixes=False)

    times = alternate(active, lambda: score_one_hot(module, drawn, batches), rounds)
    note = f"darts, {told}, {children} children: one {compared(*times, children)}"
    return Result.of("active_options", ratios(*times), 0.3, note)
