"""What second derivatives cost on the space of DARTS: a second-order step, and the dominant eigenvalue in alpha."""

import torch

from benchmarks.darts_tricks import BATCH, Steps, steps
from benchmarks.measure import Clock, Result, alternate, compared, ratios
from nastricks.estimators.hessian import HessianProduct, dense_hessian, flat
from nastricks.modules.curvature import search_eigenpair
from nastricks.modules.step import TrainingStep

SAME = 1e-2  # the largest relative difference of the two eigenvalues, in single precision


def second_order(rounds: int = 4, batch_size: int = BATCH, channels: int = 16, cells: int = 8) -> Result:
    """A training step, alpha's and the weights', by finite differences against one of first order."""
    size = batch_size, channels, cells
    second, told = steps(*size, "--model.init_args.estimator.class_path", "nastricks.estimators.SecondOrder")
    first, _ = steps(*size)
    times = alternate(second.take, first.take, rounds)
    return Result.of("second_order", ratios(*times), 3.0, f"darts, {told}: a step {compared(*times)}")


def hessian_eigenvalue(
    rounds: int = 1, batch_size: int = BATCH, channels: int = 16, cells: int = 8, nodes: int = 4
) -> Result:
    """The largest eigenvalue of the search loss's Hessian by alpha against all of its entries, row by row.

    Raises:
        RuntimeError: the two ways give different eigenvalues.
    """
    run, told = steps(batch_size, channels, cells, "--space.init_args.nodes", str(nodes))
    times: tuple[list[Clock], list[Clock]] = ([], [])
    for _ in range(rounds):
        start = Clock.now()
        found = search_eigenpair(run.run.module, run.run.module.moment("weights"))
        middle = Clock.now()
        values = torch.linalg.eigvalsh(dense(run).double())
        times[0].append(middle.since(start))
        times[1].append(Clock.now().since(middle))
        if abs(found.value - float(values[-1])) > SAME * float(values.abs().max()):
            raise RuntimeError(f"benchmark hessian_eigenvalue: {found.value} is not {float(values[-1])}")
    note = f"darts, {told}: {found.products} products against {len(values)}, {compared(*times)}"
    return Result.of("hessian_eigenvalue", ratios(*times), 0.2, note)


def dense(run: Steps) -> torch.Tensor:
    """The Hessian (n, n) whose eigenvalue `search_eigenpair` finds, at its own batch."""
    module = run.run.module
    batch, at = run.run.data.batch("search", 0), module.moment("weights")
    parameters = list(module.policy.parameters())
    step = TrainingStep(module, at, batch, weight_optimizer=run.run.trainer.strategy.optimizers[0])
    product = HessianProduct(step.loss(step.propose()[0], batch), parameters)
    return dense_hessian(product, flat(parameters).detach())
