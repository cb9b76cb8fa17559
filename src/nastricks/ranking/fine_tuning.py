"""Does a little training of its own restore a child's rank? Children continue from the supernet's weights.

Each child gets its own copy of the shared weights and an optimizer of its own, and is scored after so many batches: the
ranking after 0, 1, 5, 10, ... of them is a curve (a question of "Deeper Insights into Weight Sharing", 2001.01431).
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.nn import functional as F

from nastricks.chart import BLUE, GREEN, GREY, ORANGE, Chart
from nastricks.data import Batch, TensorDataModule
from nastricks.errors import InputError
from nastricks.modules import Calibration, TrainingModule
from nastricks.modules.scoring import Score
from nastricks.ranking.baselines import noise_ceiling
from nastricks.ranking.evaluate import score_children, scoring_of
from nastricks.ranking.metrics import ranking_metrics, ranking_metrics_by_accuracy_and_loss
from nastricks.ranking.rank import cost
from nastricks.ranking.tables import Table
from nastricks.rng import forked_rng
from nastricks.spaces import Architecture, Network

PART = 0.1  # of the recipe's learning rate, where no other is given


@dataclass(frozen=True)
class FineTuning:
    """What fine-tuning did to a ranking.

    `children` has a row a child and number of batches; `curve` a row a number of batches: the means over the children,
    and, with a table, the measures of the ranking. `baseline` is the Kendall tau of the parameter counts, `ceiling`
    that of a perfect ranking; both None without a table.
    """

    children: pd.DataFrame
    curve: pd.DataFrame
    baseline: float | None
    ceiling: float | None

    @property
    def metrics(self) -> dict[str, float]:
        """The curve as numbers with names, such as ``gt_tau_after_5``."""
        rows: list[dict[str, float]] = self.curve.to_dict("records")  # type: ignore[assignment]
        return {
            f"{name}_after_{int(row['batches'])}": float(value)
            for row in rows
            for name, value in row.items()
            if name != "batches"
        }


def batches_of(text: str) -> list[int]:
    """The numbers of batches in a text such as ``0,1,5,10``.

    Raises:
        InputError: something else than different numbers of at least 0 in rising order.
    """
    parts = [part.strip() for part in text.split(",")]
    numbers = [int(part) for part in parts if part.isascii() and part.isdigit()]
    if len(numbers) != len(parts) or numbers != sorted(set(numbers)) or numbers[-1] < 1:
        raise InputError(f"--fine-tune is {text!r}: expected rising numbers of batches, such as 0,1,5,10")
    return numbers


def check_asked(batches: Sequence[int], rate: float | None) -> None:
    """Refuse what cannot be asked for.

    Raises:
        InputError: numbers of batches that do not rise, none above 0, or a rate that is no positive number.
    """
    if list(batches) != sorted(set(batches)) or not batches or batches[-1] < 1 or batches[0] < 0:
        raise InputError(f"the numbers of batches are {list(batches)}: expected rising ones, such as 0, 1, 5, 10")
    if rate is not None and not 0 < rate < float("inf"):
        raise InputError(f"--fine-tune-rate is {rate:g}: expected a number above 0, or leave it out")


def fine_tune(
    module: TrainingModule,
    data: TensorDataModule,
    table: Table | None,
    architectures: Sequence[Architecture],
    batches: Sequence[int],
    *,
    rate: float | None = None,
    calibration: Calibration | None = None,
    done: Callable[[int], None] = lambda count: None,
) -> FineTuning:
    """Fine-tune each child and rank all of them after each number of batches; the module is left as it was.

    All children see the same training batches, the first of the train split, as training sees them. The optimizer is
    the recipe's at a constant rate, clipped as there; tricks that act on batches, gates, losses or gradients do not
    act.

    Args:
        module: A trained supernet.
        data: Its data.
        table: Ground truth, or None.
        architectures: Which children.
        batches: After how many batches they are ranked, rising; 0 is the shared weights themselves.
        rate: The learning rate; None for a tenth of the recipe's.
        calibration: How a child's statistics are found before each score.
        done: Called with the number of children done since the last call.

    Raises:
        InputError: see `check_asked`; or a table without one of the children.
    """
    check_asked(batches, rate)
    data.to(module.device)
    names = [module.space.format(architecture) for architecture in architectures]
    truth = None if table is None else table.truth(names)
    training = [data.batch("train", number) for number in range(batches[-1])]
    scoring = scoring_of(data, calibration, "validation")
    rows: list[dict[str, Any]] = []
    for name, architecture in zip(names, architectures, strict=True):
        network = module.networks[module.sharing.copy_of(architecture)]
        for count, tuned in _tuned(module, network, architecture, training, batches, rate):  # type: ignore[arg-type]
            score = score_children(module.space, tuned, [architecture], scoring)[architecture]
            rows.append({"architecture": name, "batches": count, **Score._asdict(score)})
        done(1)
    children = pd.DataFrame(rows)
    curve = pd.DataFrame([_point(count, part, truth) for count, part in children.groupby("batches")])
    if table is None or truth is None:
        return FineTuning(children, curve, None, None)
    params = [cost(module.space, architecture, module).params for architecture in architectures]
    by_params = ranking_metrics(params, truth)["gt_tau"]
    replicas = table.replicas[[table.row[name] for name in names]]
    return FineTuning(children, curve, by_params, noise_ceiling(replicas))


def _point(count: Any, part: pd.DataFrame, truth: np.ndarray | None) -> dict[str, float]:
    means = {"batches": float(count), "mean_accuracy": part["accuracy"].mean(), "mean_loss": part["loss"].mean()}
    return (
        means if truth is None else means | ranking_metrics_by_accuracy_and_loss(part["accuracy"], part["loss"], truth)
    )


def _tuned(
    module: TrainingModule,
    network: Network,
    architecture: Architecture,
    training: Sequence[Batch],
    batches: Sequence[int],
    rate: float | None,
) -> Iterator[tuple[int, Network]]:
    """A copy of the network whose path of the child has been trained for each number of batches."""
    own, gates = copy.deepcopy(network), module.space.gates(architecture)
    own.train()
    optimizer = module.optimizer_maker(own.parameters())
    for group in optimizer.param_groups:
        group["lr"] = group["lr"] * PART if rate is None else rate
    for count in range(batches[-1] + 1):
        if count in batches:
            yield count, own
        if count < batches[-1]:
            batch = training[count]
            with torch.enable_grad(), forked_rng(module.seed, "fine tuning", count, device=module.device):
                optimizer.zero_grad(set_to_none=True)
                images = batch.images.to(module.dtype, memory_format=torch.channels_last)
                loss = F.cross_entropy(own(images, gates), batch.labels, label_smoothing=module.label_smoothing)
                loss.backward()  # type: ignore[no-untyped-call]
            if module.gradient_clip_val is not None:
                torch.nn.utils.clip_grad_norm_(own.parameters(), module.gradient_clip_val)
            optimizer.step()


def draw_fine_tuning(found: FineTuning, title: str) -> str:
    """The text of an SVG file: the ranking over the number of batches; without a table, the mean accuracy."""
    batches = found.curve["batches"].tolist()
    judged = found.baseline is not None
    lines = {"gt_tau": ("by accuracy", BLUE), "gt_tau_by_loss": ("by loss", GREEN)}
    if not judged:
        lines = {"mean_accuracy": ("mean over the children", BLUE)}
    levels = {"counting parameters": found.baseline, "noise ceiling": found.ceiling}
    known = {words: level for words, level in levels.items() if level is not None}
    values = [value for name in lines for value in found.curve[name]]
    label = "Kendall tau against the truth" if judged else "accuracy on the validation split"
    chart = Chart(title, ("batches of fine-tuning", label), batches, [*values, *known.values()])
    for (words, level), colour in zip(known.items(), (GREY, ORANGE), strict=False):
        chart.line([(batches[0], level), (batches[-1], level)], colour, dashed=True, width=1.5)
        chart.text((batches[-1], level), words, colour, anchor="end", dy=-6)
    for name, (words, colour) in lines.items():
        points = list(zip(batches, found.curve[name], strict=True))
        chart.line(points, colour)
        for point in points:
            chart.dot(point, colour, told=f"{words}, after {point[0]:g} batches: {point[1]:.3f}")
        chart.legend(words, colour, "line")
    return chart.svg()
