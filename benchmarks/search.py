"""Black-box search: children of an episode on two workers against one, and how fast a controller draws and scores."""

import time
from contextlib import closing

from benchmarks.measure import CPU, Result
from nastricks.policies import LSTMController
from nastricks.recipe import resolve
from nastricks.rng import generator
from nastricks.search.algorithm import Proposal
from nastricks.search.engine import RayWorkers
from nastricks.search.trained_child import ChildTask, train_child
from nastricks.spaces import NASNet, SequenceSpace, Space, Tiny64


def episode_on_two_workers(rounds: int = 4, children: int = 8, epochs: int = 20) -> Result:
    """Seconds that two Ray workers take for the children of an episode over those that one takes.

    Both have imported and read the data before; a round is an episode of its own children. One goes first, since both
    at a time would need three workers. `rounds` at least 1.
    """
    files = ["spaces/tiny64.yaml", "data/digits.yaml", "child/tiny64.yaml"]
    config = resolve(files, [*CPU, "--trainer.max_epochs", str(epochs)])
    space, rng = Tiny64(), generator("benchmark", "episode")
    episodes = [[space.sample(rng) for _ in range(children)] for _ in range(rounds + 1)]
    times: dict[int, list[float]] = {1: [], 2: []}
    for workers, taken in times.items():
        with closing(RayWorkers(workers)) as engine:
            for number, episode in enumerate(episodes):
                tasks = [ChildTask(config, Proposal(a), space.format(a)) for a in episode]
                start = time.perf_counter()
                if len(list(engine.run(train_child, tasks))) != children:
                    raise RuntimeError("benchmark episode_on_two_workers: a child was lost")
                if number > 0:
                    taken.append(time.perf_counter() - start)
    note = f"{children} children of {epochs} epochs: {min(times[2]):.1f} s against {min(times[1]):.1f} s"
    ratios = [two / one for two, one in zip(times[2], times[1], strict=True)]
    return Result.of("episode_on_two_workers", ratios, target=1 / 1.7, note=note)


def controller_draws(rounds: int = 5, architectures: int = 1000) -> Result:
    """Seconds in which an LSTM of 100 units draws architectures and scores them; the slowest of three spaces."""
    spaces: dict[str, Space] = {"sequence": SequenceSpace(), "nasnet": NASNet(), "tiny64": Tiny64()}
    taken: dict[str, list[float]] = {name: [] for name in spaces}
    for name, space in spaces.items():
        policy = LSTMController(space, seed=0)
        for number in range(rounds + 1):
            start = time.perf_counter()
            policy.score(policy.draw(generator("benchmark", number), architectures).tokens)
            if number > 0:
                taken[name].append(time.perf_counter() - start)
    slowest = max(taken, key=lambda name: sum(taken[name]))
    note = f"{architectures} of {slowest}, {len(spaces[slowest].choices)} tokens each"
    return Result.of("controller_draws", taken[slowest], target=1.0, note=note, unit="s")
