"""The scored images' own statistics, against a batch norm written out; what it refuses; regrouped batches."""

from collections.abc import Callable

import pytest
import torch
from torch.nn import functional as F

from nastricks.callbacks.batch_statistics import BatchStatistics
from nastricks.data import Batch
from nastricks.errors import InputError
from nastricks.modules import Calibration
from nastricks.modules.normalisation import batch_norms, statistics
from nastricks.ranking.evaluate import Scoring, regrouped, score_children, scoring_of
from nastricks.ranking.rank import scored
from nastricks.run import Run

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
]


@pytest.fixture(scope="module")
def trained(make: Callable[..., Run]) -> Run:
    run = make("spos", {"batch_statistics": {"size": 8}})
    run.fit()
    return run


def by_hand(run: Run, architecture: tuple[int, ...], batches: list[Batch]) -> tuple[float, float]:
    """Accuracy and loss where every batch norm is replaced by its formula on the batch that it sees."""
    network, logits = run.module.networks[0], []

    def normalise(norm: torch.nn.BatchNorm2d, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        (x,) = inputs
        mean, variance = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), unbiased=False, keepdim=True)
        y = (x - mean) / (variance + norm.eps).sqrt()
        if norm.weight is not None:
            y = y * norm.weight.view(1, -1, 1, 1) + norm.bias.view(1, -1, 1, 1)
        return y

    handles = [norm.register_forward_hook(normalise) for norm in batch_norms(network)]
    network.eval()
    with torch.no_grad():
        for batch in batches:
            logits.append(network(batch.images, run.module.space.gates(architecture)))
    for handle in handles:
        handle.remove()
    network.train()
    whole, labels = torch.cat(logits), torch.cat([batch.labels for batch in batches])
    return float((whole.argmax(1) == labels).float().mean()), float(F.cross_entropy(whole, labels))


@pytest.mark.parametrize("size", [None, 6])
def test_scores_are_those_of_the_formula(trained: Run, size: int | None) -> None:
    chosen = [(0, 1, 2), (3, 3, 3), (0, 1, 0), (2, 2, 1)]
    before = statistics(batch_norms(trained.module.networks))
    found = scored(trained.module, trained.data, chosen, Calibration(own=True, size=size))
    batches = trained.data.evaluation_batches("validation")
    batches = batches if size is None else regrouped(batches, size)
    for architecture in chosen:
        accuracy, loss = by_hand(trained, architecture, batches)
        assert found[architecture].loss == pytest.approx(loss, rel=1e-4)
        assert found[architecture].accuracy == pytest.approx(accuracy, abs=1e-6)
    after = statistics(batch_norms(trained.module.networks))
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_sharing_prefixes_changes_nothing(trained: Run) -> None:
    chosen = list(trained.module.space.architectures())[:9]
    scoring = scoring_of(trained.data, Calibration(own=True), "validation")
    network = trained.module.networks[0]
    one, other = (
        score_children(trained.module.space, network, chosen, scoring, share_prefixes=shared)  # type: ignore[arg-type]
        for shared in (True, False)
    )
    assert [one[a].loss for a in chosen] == pytest.approx([other[a].loss for a in chosen], rel=1e-5)


def test_it_differs_from_running_statistics_and_from_calibration(trained: Run) -> None:
    losses = [
        scored(trained.module, trained.data, [(1, 1, 1)], calibration)[(1, 1, 1)].loss
        for calibration in (None, Calibration(2), Calibration(own=True))
    ]
    assert len({round(loss, 6) for loss in losses}) == 3


def test_batches_of_nearly_equal_sizes() -> None:
    whole = [
        Batch(torch.arange(7.0).view(7, 1), torch.arange(7)),
        Batch(torch.arange(7, 10.0).view(3, 1), torch.arange(7, 10)),
    ]
    for size, expected in ((3, [4, 3, 3]), (4, [5, 5]), (20, [10]), (5, [5, 5])):
        parts = regrouped(whole, size)
        assert [len(part.labels) for part in parts] == expected
        assert torch.cat([part.labels for part in parts]).tolist() == list(range(10))


def test_what_is_asked_for_is_told() -> None:
    assert BatchStatistics().calibration() == Calibration(own=True)
    assert BatchStatistics(size=8).calibration().words == "batch statistics of the images scored, 8 at a time"
    assert Calibration(3).words == "calibrated over 3 training batches"
    assert Scoring([]).own is False


def test_refusals(make: Callable[..., Run]) -> None:
    with pytest.raises(InputError, match=r"batch_statistics.size is 1: expected at least 2 images"):
        BatchStatistics(size=1)
    with pytest.raises(InputError, match="tricks batch_statistics and bn_calibration both say which statistics"):
        make("spos", {"batch_statistics": {"size": 8}, "bn_calibration": {"batches": 2}}).fit()
