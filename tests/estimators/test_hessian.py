"""Eigenvalues of known matrices and of a supernet's Hessian; and how its curvature grows."""

from collections.abc import Callable
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from nastricks.errors import InputError
from nastricks.estimators.hessian import (
    Eigenpair,
    HessianProduct,
    dense_hessian,
    dominant_eigenpair,
    flat,
    gradient_of_curvature,
)
from nastricks.modules.curvature import search_eigenpair
from nastricks.modules.normalisation import SmoothBatchNorm, batch_norms, frozen_statistics
from nastricks.modules.step import TrainingStep
from nastricks.rng import generator
from nastricks.run import Run

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
]

Which = Literal["magnitude", "largest"]


def drawn(n: int, key: object = 0) -> Tensor:
    return torch.randn(n, generator=generator("hessian", key), dtype=torch.float64)


def matrix(*eigenvalues: float, key: object = 0) -> Tensor:
    """A symmetric matrix with these eigenvalues, along axes that are drawn."""
    n = len(eigenvalues)
    axes, _ = torch.linalg.qr(drawn(n * n, key).view(n, n))
    return axes @ torch.diag(torch.tensor(eigenvalues, dtype=torch.float64)) @ axes.T


SPECTRA: dict[str, list[float]] = {
    "positive": [0.1, 0.5, 2.0, 3.0],
    "largest magnitude is negative": [-5.0, -1.0, 0.5, 2.0],
    "all negative": [-3.0, -2.0, -0.5],
    "opposite pair": [-2.0, 2.0, 0.1, 0.3],
    "close pair": [1.0, 0.999, 0.5, 0.2, 0.1],
    "equal pair": [1.0, 1.0, 0.1],
    "one number": [-0.7],
    "rank one": [0.0, 0.0, 0.0, 4.0],
    "many": [*(0.01 * i for i in range(100)), 1.5],
}


@pytest.mark.parametrize("which", ["magnitude", "largest"])
@pytest.mark.parametrize("name", SPECTRA)
def test_known_spectra(name: str, which: Which) -> None:
    values = SPECTRA[name]
    h = matrix(*values)
    found = dominant_eigenpair(lambda v: h @ v, drawn(len(values), 1), which)
    exact = max(values, key=abs) if which == "magnitude" else max(values)
    if name == "opposite pair" and which == "magnitude":
        assert abs(found.value) == pytest.approx(2.0, rel=1e-6)
    else:
        assert found.value == pytest.approx(exact, rel=1e-3 if name == "close pair" else 1e-5)
    assert float(found.vector.norm()) == pytest.approx(1.0)
    assert float((h @ found.vector - found.value * found.vector).norm()) == pytest.approx(found.residual, abs=1e-9)
    assert found.residual <= 1e-3 * max(map(abs, values)) + 1e-12


def test_products_are_counted_and_limited() -> None:
    h, asked = matrix(*SPECTRA["many"]), []

    def product(v: Tensor) -> Tensor:
        asked.append(v)
        return h @ v

    few = dominant_eigenpair(product, drawn(101, 1), iterations=3)
    assert few.products == len(asked) == 3
    assert few.value < 1.49  # and it says by its residual that this is not it
    assert few.residual > 1e-2
    enough = dominant_eigenpair(product, drawn(101, 1))
    assert enough.products < 40
    assert dominant_eigenpair(product, enough.vector).products == 1  # from the answer on there is nothing to do
    tight = dominant_eigenpair(product, drawn(101, 1), tolerance=1e-9, iterations=200)
    assert tight.value == pytest.approx(1.5, rel=1e-12)
    assert enough.products < tight.products <= 101


def test_no_curvature_is_zero() -> None:
    found = dominant_eigenpair(torch.zeros_like, drawn(5))
    assert (found.value, found.residual, found.products) == (0.0, 0.0, 1)


def test_a_loss_that_diverged_is_refused() -> None:
    with pytest.raises(InputError, match="the Hessian is not finite: the loss has diverged"):
        dominant_eigenpair(lambda v: v * float("nan"), drawn(5))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"which": "smallest"}, "which is 'smallest': expected magnitude or largest"),
        ({"iterations": 0}, "iterations is 0: expected at least 1"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        dominant_eigenpair(torch.zeros_like, drawn(5), **arguments)


def test_products_equal_the_hessian() -> None:
    a, b, unused = (nn.Parameter(drawn(n, n)) for n in (3, 2, 4))

    def loss(x: Tensor, y: Tensor) -> Tensor:
        return (x.exp().sum() * y.prod()).sin() + (x[0] * y).square().sum()

    blocks: Any = torch.autograd.functional.hessian(loss, (a.detach(), b.detach()))
    exact = torch.zeros(9, 9, dtype=torch.float64)
    exact[:5, :5] = torch.cat([torch.cat(list(row), 1) for row in blocks])
    found = dense_hessian(HessianProduct(loss(a, b), [a, b, unused]), flat([a, b, unused]).detach())
    torch.testing.assert_close(found, exact)


def test_a_plane_has_no_curvature() -> None:
    a = nn.Parameter(drawn(3))
    assert not bool(HessianProduct(a.sum(), [a])(drawn(3, 1)).any())


def test_the_growth_of_curvature_by_hand() -> None:
    """x y^2: v' H v is 4 y v_x v_y + 2 x v_y^2."""
    x, y = (nn.Parameter(torch.tensor([value])) for value in (3.0, 2.0))
    product = HessianProduct((x * y.square()).sum(), [x, y])
    found = gradient_of_curvature(product, torch.tensor([0.6, 0.8]))
    torch.testing.assert_close(found, torch.tensor([2 * 0.64, 4 * 0.48]))
    parabola = HessianProduct((x * y).sum(), [x, y])
    assert not bool(gradient_of_curvature(parabola, torch.tensor([0.6, 0.8])).any())


# Of a supernet.


def test_the_dominant_eigenvalue_of_a_supernet_equals_the_dense_one(make: Callable[..., Run]) -> None:
    """On tiny64, in single precision, after eight steps; and on three batches."""
    run = make("darts")
    found: list[tuple[float, Tensor]] = []

    def measure() -> None:
        module = run.module
        at = module.moment("weights")
        parameters = list(module.policy.parameters())
        for batches in (1, 3):
            dense = torch.zeros(12, 12, dtype=torch.float64)
            for number in range(batches):
                batch = run.data.batch("search", number)
                step = TrainingStep(module, at, batch, weight_optimizer=run.trainer.optimizers[0])
                product = HessianProduct(step.loss(step.propose()[0], batch), parameters)
                dense += dense_hessian(product, flat(parameters).detach()).double() / batches
            found.append((search_eigenpair(module, at, batches).value, dense))

    run.module.on_train_epoch_end = measure  # type: ignore[method-assign]
    run.fit()
    assert len(found) == 4
    for value, dense in found:
        torch.testing.assert_close(dense, dense.T, atol=1e-6, rtol=1e-4)
        assert value == pytest.approx(float(torch.linalg.eigvalsh(dense)[-1]), rel=1e-3)
        assert value > 1e-3
    assert found[0][0] != found[1][0]


def test_the_same_sharpness_leaves_everything_as_it_was(make: Callable[..., Run]) -> None:
    ends = []
    for measured in (False, True):
        run = make("darts")
        if measured:
            run.module.on_train_epoch_end = lambda module=run.module: search_eigenpair(  # type: ignore[method-assign]
                module, module.moment("weights")
            )
        run.fit()
        ends.append({key: v for key, v in run.module.state_dict().items() if isinstance(v, Tensor)})
    assert all(torch.equal(value, ends[1][key]) for key, value in ends[0].items())


@pytest.mark.parametrize("which", ["magnitude", "largest"])
def test_the_gradient_of_curvature_is_that_of_the_eigenvalue(which: Which, supernet: Any) -> None:
    """Against central differences of the eigenvalue, in double precision, batch norm included."""
    step = supernet.supernet_step(history=3)
    parameters = list(step.policy.parameters())

    def product() -> HessianProduct:
        with SmoothBatchNorm(), frozen_statistics(batch_norms(step.network)):
            return HessianProduct(step.objective(step.propose()[0]), parameters)

    def pair() -> Eigenpair:
        return dominant_eigenpair(product(), drawn(12), which, tolerance=1e-9)

    found = gradient_of_curvature(product(), pair().vector)
    for index in range(12):
        alpha, at = parameters[index // 4].data, index % 4
        values = []
        for sign in (1, -2, 1):
            alpha[at] += sign * 1e-5
            values.append(pair().value)
        slope = (values[0] - values[1]) / 2e-5
        assert float(found[index]) == pytest.approx(slope, abs=1e-4 * float(found.abs().max()))
    assert float(found.abs().max()) > 1e-3
