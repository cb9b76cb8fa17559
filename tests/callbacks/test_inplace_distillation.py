"""In-place distillation: the sandwich's gradients, and that none reaches the teacher through the children's losses."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from nastricks.callbacks.inplace_distillation import InplaceDistillation
from nastricks.errors import InputError
from nastricks.modules.soft_labels import soft_cross_entropy
from nastricks.policies import Sandwich, UniformPath
from nastricks.run import Run
from nastricks.spaces import Gates, Network

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
]

ONE_STEP = {"trainer.max_steps": 1, "trainer.precision": "64-true"}


def logits(seed: int, rows: int = 6) -> Tensor:
    return torch.randn(rows, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_it_is_the_divergence_plus_the_teachers_entropy(temperature: float) -> None:
    student, teacher = logits(1), logits(2)
    p, q = (teacher / temperature).softmax(1), (student / temperature).softmax(1)
    divergence = (p * (p / q).log()).sum(1).mean()
    entropy = -(p * p.log()).sum(1).mean()
    found = soft_cross_entropy(student, teacher, temperature)
    torch.testing.assert_close(found, temperature**2 * (divergence + entropy), rtol=1e-12, atol=1e-12)
    same = soft_cross_entropy(teacher, teacher, temperature)
    torch.testing.assert_close(same, temperature**2 * entropy, rtol=1e-12, atol=1e-12)
    assert same < found


def test_sure_teachers_are_labels() -> None:
    labels = torch.tensor([0, 4, 2, 2, 1, 3])
    sure = 1e3 * F.one_hot(labels, 5).double()
    torch.testing.assert_close(soft_cross_entropy(logits(1), sure), F.cross_entropy(logits(1), labels))


def test_no_gradient_reaches_the_teachers_logits() -> None:
    student, teacher = logits(1).requires_grad_(), logits(2).requires_grad_()
    soft_cross_entropy(student, teacher).backward()  # type: ignore[no-untyped-call]
    assert teacher.grad is None
    assert student.grad is not None
    difference = (student.softmax(1) - teacher.softmax(1)).detach() / len(student)
    torch.testing.assert_close(student.grad, difference, rtol=1e-12, atol=1e-12)


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return all(torch.allclose(g, expected[name], rtol=1e-9, atol=1e-12) for name, g in found.items())


def test_a_sandwichs_gradient_is_the_sum_of_its_paths_apart(make: Callable[..., Run], first_step: Any) -> None:
    seen = first_step(make("sandwich", changes=ONE_STEP))
    images, labels = seen.batch.images.double(), seen.batch.labels
    assert len(seen.paths) == 4

    def loss(network: Network, gates: Gates, number: int) -> Tensor:
        return F.cross_entropy(network(images, gates), labels)

    expected = seen.apart(loss)
    assert same(seen.gradients, expected)
    assert not same(seen.gradients, {name: g / 4 for name, g in expected.items()})


def test_no_gradient_flows_into_the_teacher_path(make: Callable[..., Run], first_step: Any) -> None:
    """The gradient is that of soft labels which are constants; were they not, it would be another one."""
    seen = first_step(make("sandwich", {"inplace_distillation": {"temperature": 2.0}}, ONE_STEP))
    images, labels = seen.batch.images.double(), seen.batch.labels

    def through(constant: bool) -> Callable[[Network, Gates, int], Tensor]:
        def loss(network: Network, gates: Gates, number: int) -> Tensor:
            if number == 0:
                return F.cross_entropy(network(images, gates), labels)
            largest = network(images, seen.paths[0])
            p = ((largest.detach() if constant else largest) / 2).softmax(1)
            return -4 * (p * (network(images, gates) / 2).log_softmax(1)).sum(1).mean()

        return loss

    assert same(seen.gradients, seen.apart(through(constant=True)))
    assert not same(seen.gradients, seen.apart(through(constant=False)))


def test_in_micro_batches_children_learn_from_the_same_images(make: Callable[..., Run], first_step: Any) -> None:
    parts = {**ONE_STEP, "model.init_args.micro_batches": 2}
    seen = first_step(make("sandwich", {"inplace_distillation": {"temperature": 1.0}}, parts))

    def loss(network: Network, gates: Gates, number: int) -> Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for images, labels in zip(seen.batch.images.double().chunk(2), seen.batch.labels.chunk(2), strict=True):
            z = network(images, gates)
            soft = network(images, seen.paths[0]).detach().softmax(1)
            own = F.cross_entropy(z, labels) if number == 0 else -(soft * z.log_softmax(1)).sum(1).mean()
            total = total + own / 2
        return total

    assert same(seen.gradients, seen.apart(loss))


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("inf"), float("nan")])
def test_bad_temperatures(temperature: float) -> None:
    with pytest.raises(InputError, match=r"inplace_distillation\.temperature is .*: expected a number above 0"):
        InplaceDistillation(temperature)


def test_a_sandwich_of_the_largest_alone_has_nobody_to_teach(make: Callable[..., Run]) -> None:
    sandwich = make("sandwich").module.policy
    assert sandwich.largest_first
    space = sandwich.space
    assert not Sandwich(space, randoms=0, smallest=False).largest_first
    assert Sandwich(space, randoms=1, smallest=False).largest_first
    assert not UniformPath(space).largest_first
