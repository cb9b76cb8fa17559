"""How sharp the search loss is in the policy's parameters (Zela et al. 2020, RobustDARTS, section 4)."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nastricks.estimators.hessian import Eigenpair, HessianProduct, dominant_eigenpair, flat
from nastricks.modules.step import TrainingStep
from nastricks.moment import Moment
from nastricks.rng import generator

if TYPE_CHECKING:
    from nastricks.data import TensorDataModule
    from nastricks.modules.training import TrainingModule


def search_eigenpair(module: "TrainingModule", at: Moment, batches: int = 1, iterations: int = 40) -> Eigenpair:
    """The largest eigenvalue of the Hessian of the search loss by the policy's parameters.

    The loss is that of the gates proposed at `at`, in train mode with the batch-norm statistics left alone, a mean over
    the first `batches` batches of the search split, the same ones each time: what changes from call to call is the
    supernet. The tricks that act on gates act, those on batches and losses do not. Computed in full precision inside a
    mixed run too, and over all ranks.

    Raises:
        InputError: no search image, or a Hessian that is not finite.
    """
    data: TensorDataModule = module.trainer.datamodule  # type: ignore[attr-defined]
    parameters = [p for p in module.policy.parameters() if p.requires_grad]
    optimizers = module.optimizers(use_pl_optimizer=False)
    first = optimizers[0] if isinstance(optimizers, list) else optimizers
    products = []
    with torch.enable_grad(), torch.autocast(at.device.type, enabled=False):
        for number in range(batches):
            batch = data.batch("search", number, rank=at.rank, world=module.trainer.world_size)
            step = TrainingStep(module, at, batch, weight_optimizer=first)
            loss = torch.stack([step.loss(gates, batch) for gates in step.propose()]).sum()
            products.append(HessianProduct(loss, parameters))

        def product(vector: Tensor) -> Tensor:
            (averaged,) = step.average([torch.stack([p(vector) for p in products]).mean(0)])
            return averaged

        like = flat([p.detach() for p in parameters])
        start = torch.randn(len(like), generator=generator(at.seed, "hessian"), dtype=torch.float64).to(like)
        return dominant_eigenpair(product, start, "largest", iterations)
