"""An auxiliary head counts in the weights' loss and nowhere else; at weight 0 it is not there."""

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from nastricks.errors import InputError
from nastricks.recipe import resolve
from nastricks.run import Run, build

# Lightning 2.6 calls the parser by its old name.
pytestmark = pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning")

CHILD = ["recipes/spaces/darts.yaml", "recipes/data/digits.yaml", "recipes/child/darts.yaml"]
SUPERNET = [*CHILD[:2], "recipes/algorithms/spos.yaml"]
SMALL = {
    "space.init_args.channels": 4,
    "space.init_args.cells": 3,
    "space.init_args.nodes": 4,
    "data.init_args.train_size": 32,
    "data.init_args.search_size": 16,
    "data.init_args.validation_size": 16,
    "data.init_args.batch_size": 16,
    "trainer.accelerator": "cpu",
    "trainer.max_epochs": 1,
}


def made(files: list[str], *, head: bool = False, **model: Any) -> Run:
    settings = {**SMALL, "space.init_args.auxiliary_head": head, **{f"model.{key}": v for key, v in model.items()}}
    return build(resolve(files, [f"--{key}={value}" for key, value in settings.items()]), None, quiet=True)


def trained(files: list[str], **changes: Any) -> dict[str, torch.Tensor]:
    run = made(files, gradient_clip_val=1e6, **changes)  # a norm over more zeros is rounded otherwise
    run.fit()
    return {name: value.clone() for name, value in run.module.networks.state_dict().items()}


@pytest.mark.parametrize("files", [CHILD, SUPERNET], ids=["child", "supernet"])
def test_a_head_of_weight_0_is_as_good_as_none(files: list[str]) -> None:
    without = trained(files)
    at_zero = trained(files, head=True, auxiliary_weight=0.0)
    counted = trained(files, head=True)
    heads = {name for name in at_zero if name.startswith("0.auxiliary.")}
    assert heads
    assert set(without) == set(at_zero) - heads
    assert all(torch.equal(without[name], at_zero[name]) for name in without)
    assert any(not torch.equal(without[name], counted[name]) for name in without)


def test_the_loss_is_the_weighted_sum() -> None:
    module = made(CHILD, head=True, auxiliary_weight=0.7).module
    data = made(CHILD).data
    data.setup()
    batch, gates = data.batch("train", 0), module.policy.propose(module.moment("weights"))[0]
    with torch.no_grad():
        logits, loss = module._logits_and_loss(batch, gates, module.moment("weights"))
        own, extra = module.network_of(gates).with_auxiliary(batch.images, gates)
    expected = F.cross_entropy(own, batch.labels) + 0.7 * F.cross_entropy(extra, batch.labels)
    torch.testing.assert_close(logits, own)
    torch.testing.assert_close(loss, expected)


def test_weights_that_cannot_be() -> None:
    with pytest.raises(InputError, match=r"model\.auxiliary_weight is -0\.4: expected at least 0"):
        made(CHILD, auxiliary_weight=-0.4)
