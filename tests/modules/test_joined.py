"""One-level learning: the weights' backward pass also teaches the policy."""

from pathlib import Path

import pytest
import torch

from nastricks.estimators import Estimator, Step
from nastricks.modules import SupernetModule
from nastricks.recipe import resolve
from nastricks.run import build

STACK = ["spaces/tiny64.yaml", "data/digits.yaml", "algorithms/darts.yaml"]


class OneLevel(Estimator):
    """Takes what the joined backward pass left."""

    order = "joined"
    left: dict[str, torch.Tensor]

    def update(self, step: Step) -> None:
        self.left = {name: p.grad.clone() for name, p in self.policy.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("tricks", [[], ["--tricks.sam.rho", "0.0"]], ids=["one pass", "two passes"])
@pytest.mark.parametrize("parts", [1, 2])
def test_joined_gradients_equal_autograd(tricks: list[str], parts: int, tmp_path: Path) -> None:
    shape = ["--trainer.max_steps", "1", "--trainer.max_epochs", "1", "--trainer.precision", "64-true"]
    config = resolve(STACK, [*shape, "--model.micro_batches", str(parts), *tricks])
    run = build(config, None, quiet=True)
    module = run.module
    assert isinstance(module, SupernetModule)
    estimator = OneLevel(module.policy)
    module.estimator = estimator
    run.data.setup("fit")
    start = {name: tensor.clone() for name, tensor in module.double().state_dict().items() if torch.is_tensor(tensor)}
    run.fit()
    module.load_state_dict(start, strict=False)
    module.train()
    batch = run.data.batch("train", 0)
    batch.images = batch.images.double()
    loss = torch.zeros(())
    (gates,) = module.policy.propose(module.moment("weights"))
    for part in batch.chunks(parts):
        loss = loss + module.criterion(module.logits(part.images, gates), part) * len(part) / len(batch)
    names, parameters = zip(*module.policy.named_parameters(), strict=True)
    exact = torch.autograd.grad(loss, parameters)
    assert set(estimator.left) == set(names)
    for name, gradient in zip(names, exact, strict=True):
        assert torch.allclose(estimator.left[name], gradient, rtol=1e-9, atol=1e-12)
        assert gradient.abs().max() > 0
