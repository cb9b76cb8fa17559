"""`nastricks bench`: a table of ground truth."""

import argparse
from contextlib import closing
from pathlib import Path

from nastricks.commands.progress import progress
from nastricks.ranking.baselines import noise_ceiling
from nastricks.ranking.tables import load_table
from nastricks.recipe import resolve
from nastricks.run import build
from nastricks.search.bench import make_table
from nastricks.search.engine import engine


def bench(arguments: argparse.Namespace) -> int:
    """Train every child alone, or those that are missing."""
    config = resolve(arguments.config, arguments.overrides)
    probe = build(config, None, quiet=True)
    space, data = probe.module.space, probe.data
    folder = Path(arguments.out) if arguments.out else Path("runs") / f"bench-{space.name}-{data.name}"
    total = space.rankable_size * max(arguments.replicas, 0)
    with (
        closing(engine(arguments.workers, arguments.ray)) as runs,
        progress(f"bench {space.name}", total) as (bar, number),
    ):
        path = make_table(config, arguments.replicas, folder, runs, lambda line: bar.advance(number))
    ceiling = noise_ceiling(load_table(path).replicas)
    print(f"table: {path}")
    print(f"noise ceiling: {'none from one replica' if ceiling is None else f'{ceiling:.3f}'}")
    return 0
