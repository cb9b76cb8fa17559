"""What second derivatives cost on the space of DARTS: a second-order step, and the dominant eigenvalue in alpha."""

import time

import torch

from benchmarks.darts_tricks import BATCH, Steps, steps
from benchmarks.measure import Result, alternate, compared, ratios
from nastricks.estimators.hessian import HessianProduct, flat
from nastricks.modules.curvature import search_eigenpair
from nastricks.modules.step import TrainingStep


def second_order(rounds: int = 4, batch_size: int = BATCH, channels: int = 16, cells: int = 8) -> Result:
    """A training step, alpha's and the weights', by finite differences against one of first order."""
    size = batch_size, channels, cells
    second, told = steps(*size, "--model.init_args.estimator.class_path", "nastricks.estimators.SecondOrder")
    first, _ = steps(*size)
    times = alternate(second.take, first.take, rounds)
    return Result.of("second_order", ratios(*times), 3.0, f"darts, {told}: a step {compared(*times)}")


def hessian_eigenvalue(
    rounds: int = 2, batch_size: int = BATCH, channels: int = 16, cells: int = 8, nodes: int = 4, rows: int = 8
) -> Result:
    """The largest eigenvalue of the search loss's Hessian by alpha against all of its entries, row by row.

    A row takes the same time as another, so `rows` of them are timed, and their time is scaled up to all of them.
    """
    run, told = steps(batch_size, channels, cells, "--space.init_args.nodes", str(nodes))
    module = run.run.module
    values: list[float] = []
    for _ in range(rounds):
        start = time.perf_counter()
        found = search_eigenpair(module, module.moment("weights"))
        middle = time.perf_counter()
        product, like = hessian(run)
        begun = time.perf_counter()
        for row in torch.eye(len(like))[:rows]:
            product(row)
        end = time.perf_counter()
        dense = (begun - middle) + (end - begun) * len(like) / rows
        values.append((middle - start) / dense)
    note = (
        f"darts, {told}: {found.products} products for the eigenvalue, {len(like)} rows, of which {rows} were timed; "
        f"{middle - start:.1f} s against {dense:.1f} s"
    )
    return Result.of("hessian_eigenvalue", values, 0.2, note)


def hessian(run: Steps) -> tuple[HessianProduct, torch.Tensor]:
    """Products with the Hessian whose eigenvalue `search_eigenpair` finds; and a vector (n,) of its size."""
    module = run.run.module
    batch, at = run.run.data.batch("search", 0), module.moment("weights")
    parameters = list(module.policy.parameters())
    step = TrainingStep(module, at, batch, weight_optimizer=run.run.trainer.strategy.optimizers[0])
    return HessianProduct(step.loss(step.propose()[0], batch), parameters), flat(parameters).detach()
