"""Dropout and decay reach the largest path alone, or every path with its own part of the weights."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from nastricks.callbacks.largest_only_regularisation import LargestOnlyRegularisation, half_square, part_of
from nastricks.errors import InputError
from nastricks.run import Run
from nastricks.spaces import Gates, Network

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
]

ONE_STEP = {"trainer.max_steps": 1, "trainer.precision": "64-true"}
DECAY = 3e-4  # of the stack's optimizer


def test_the_part_of_a_path_is_the_first_channels_and_the_middle_of_a_kernel() -> None:
    kernel = torch.arange(4 * 3 * 5 * 5.0).view(4, 3, 5, 5)
    assert torch.equal(part_of(kernel, torch.Size((2, 1, 3, 3))), kernel[:2, :1, 1:4, 1:4])
    assert torch.equal(part_of(kernel, kernel.shape), kernel)
    assert torch.equal(part_of(torch.arange(6.0), torch.Size((4,))), torch.arange(4.0))


def test_the_gradient_of_half_the_squares_is_the_weights() -> None:
    w = torch.tensor([[1.0, -2.0], [0.5, 3.0]], requires_grad=True)
    v = torch.tensor([4.0], requires_grad=True)
    half_square([w, v]).backward()  # type: ignore[no-untyped-call]
    assert torch.equal(w.grad, w)  # type: ignore[arg-type]
    assert torch.equal(v.grad, v)  # type: ignore[arg-type]


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return all(torch.allclose(g, expected[name], rtol=1e-9, atol=1e-12) for name, g in found.items())


@pytest.mark.parametrize("every_path", [False, True])
def test_the_decay_is_that_of_the_path(make: Callable[..., Run], first_step: Any, every_path: bool) -> None:
    arguments = {"dropout": 0.0, "every_path": every_path}
    run = make("sandwich", {"largest_only_regularisation": arguments}, ONE_STEP)
    seen = first_step(run)
    images, labels = seen.batch.images.double(), seen.batch.labels
    space, spec = run.module.space, run.module.spec

    def loss(network: Network, gates: Gates, number: int) -> Tensor:
        own = F.cross_entropy(network(images, gates), labels)
        if number and not every_path:
            return own
        # A subnet that is taken out holds the parts of the weights that its path runs.
        child = space.extract(network, spec, tuple(gates[choice.name].active[0] for choice in space.choices))
        for name, parameter in child.named_parameters():
            shared = dict(network.named_parameters())[name]
            index = tuple(slice(None, n) for n in parameter.shape[:2])
            margin = (shared.shape[-1] - parameter.shape[-1]) // 2 if parameter.dim() == 4 else 0
            middle = slice(margin, shared.shape[-1] - margin)
            run_part = shared[index] if parameter.dim() < 4 else shared[(*index, middle, middle)]
            assert torch.equal(run_part, parameter)
            own = own + DECAY / 2 * run_part.square().sum()
        return own

    assert same(seen.gradients, seen.apart(loss))
    assert {group["weight_decay"] for group in run.trainer.optimizers[0].param_groups} == {0.0}


def test_without_dropout_the_largest_alone_decays_as_under_sgd(make: Callable[..., Run]) -> None:
    """Kernels are cropped, so the largest path holds every weight; an optimizer decays each once a step."""
    plain = make("sandwich", changes={"trainer.precision": "64-true"})
    moved = make("sandwich", {"largest_only_regularisation": {"dropout": 0.0}}, {"trainer.precision": "64-true"})
    plain.fit()
    moved.fit()
    for one, other in zip(plain.module.networks.parameters(), moved.module.networks.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def classifier_inputs(run: Run) -> list[Tensor]:
    """What enters the last layer in every pass of the first step."""
    seen: list[Tensor] = []
    classifier = run.module.networks[0].segments["head"].classifier  # type: ignore[index, union-attr]
    original = classifier.forward

    def forward(x: Tensor) -> Tensor:
        seen.append(x.detach().clone())
        return original(x)

    classifier.forward = forward  # type: ignore[method-assign]
    run.fit()
    return seen


@pytest.mark.parametrize(("every_path", "dropping"), [(False, [0]), (True, [0, 1, 2, 3])])
def test_inputs_of_the_classifier_are_dropped(make: Callable[..., Run], every_path: bool, dropping: list[int]) -> None:
    plain = classifier_inputs(make("sandwich", changes=ONE_STEP))
    arguments = {"dropout": 0.25, "every_path": every_path}
    found = classifier_inputs(make("sandwich", {"largest_only_regularisation": arguments}, ONE_STEP))
    assert len(plain) == len(found) == 4
    for number, (before, after) in enumerate(zip(plain, found, strict=True)):
        if number not in dropping:
            assert torch.equal(before, after)
            continue
        kept = after != 0
        torch.testing.assert_close(after[kept], before[kept] / 0.75)
        share, n = float((after[before != 0] == 0).double().mean()), int((before != 0).sum())
        assert abs(share - 0.25) < 3 * (0.25 * 0.75 / n) ** 0.5


def test_nothing_is_dropped_when_children_are_scored(make: Callable[..., Run]) -> None:
    run = make("sandwich", {"largest_only_regularisation": {"dropout": 0.5}}, ONE_STEP)
    run.fit()
    module = run.module.eval()
    images = run.data.batch("validation", 0).images.double()
    gates = module.space.gates(module.space.largest(module.policy.allowed))
    with torch.no_grad():
        assert torch.equal(module.logits(images, gates), module.logits(images, gates))


def test_refusals(make: Callable[..., Run]) -> None:
    adamw = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.01, "weight_decay": 0.01}}
    plain = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.01}}
    for optimizer, dropout, words in ((adamw, 0.2, "use SGD or Adam in place of AdamW"), (plain, 0.0, "nothing to do")):
        run = make("sandwich", {"largest_only_regularisation": {"dropout": dropout}})
        kind = getattr(torch.optim, str(optimizer["class_path"]).rpartition(".")[2])
        settings: Any = optimizer["init_args"]
        run.module.optimizer_maker = lambda parameters, kind=kind, settings=settings: kind(parameters, **settings)
        with pytest.raises(InputError, match=words):
            run.fit()
    with pytest.raises(InputError, match=r"largest_only_regularisation\.dropout is 1\.0"):
        LargestOnlyRegularisation(dropout=1.0)
