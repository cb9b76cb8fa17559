"""The proof that a trick is alive (DESIGN, "A trick proves that it is alive").

A trick says what it changes and from which step on. One training step is run twice from the same state, with the
trick and without it, by the very loop that users run; what it says it changes is then compared. A trick may change
nothing at one step by chance (drop path on an identity), so a few steps are tried before it is called dead.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from nastricks.data import TensorDataModule
from nastricks.data.batch import Batch
from nastricks.data.loader import KeyedLoader
from nastricks.modules.normalisation import batch_norms, statistics
from nastricks.modules.points import POINTS, acts_at
from nastricks.modules.training import TrainingModule
from nastricks.modules.trick import Calibration, Change, Trick, in_order
from nastricks.spaces import Gates, Space

TOLERANCE = 1e-6  # a smaller relative difference is rounding: the same sum in another order
ATTEMPTS = 10  # steps that are tried before a trick is called dead


class Built(Protocol):
    """What a configuration builds, as far as the proof needs it (`nastricks.run.Run`)."""

    @property
    def trainer(self) -> pl.Trainer: ...

    @property
    def module(self) -> TrainingModule: ...

    @property
    def data(self) -> TensorDataModule: ...

    @property
    def tricks(self) -> list[Trick]: ...


Build = Callable[[str | None], Built]
"""Builds the run afresh: whole for None, without one trick for its name."""

Score = Callable[[TrainingModule, TensorDataModule, Calibration | None], tuple[float, float]]
"""Accuracy and loss of one child, with its statistics recomputed where a calibration is given."""


@dataclass(frozen=True)
class Measured:
    """How far a step with a trick is from the one without it: 0 is the same; `words` say it with its unit."""

    size: float
    words: str


@dataclass(frozen=True)
class Proof:
    """What was found of one trick: it acts from step `first` on, counted from 0, and was measured at `step`."""

    trick: str
    changes: Change
    first: int
    step: int
    measured: Measured
    acts: int

    @property
    def alive(self) -> bool:
        """Whether the trick changed what it says it changes, and counted that."""
        return self.measured.size > TOLERANCE and self.acts > 0


@dataclass
class Observation:
    """One training step as it was seen; tensors are float64 on the CPU.

    `images`, `targets` and `gates` have an entry a pass through a network, in order; passes in eval mode are none of
    the training's [an attack, a measurement]. The others are the state after the step.
    """

    images: list[Tensor] = field(default_factory=list)
    targets: list[Tensor] = field(default_factory=list)
    gates: list[Tensor] = field(default_factory=list)
    weights: Tensor = field(default_factory=lambda: torch.zeros(0))
    gradients: Tensor = field(default_factory=lambda: torch.zeros(0))
    statistics: Tensor = field(default_factory=lambda: torch.zeros(0))
    policy: Tensor = field(default_factory=lambda: torch.zeros(0))
    policy_gradients: Tensor = field(default_factory=lambda: torch.zeros(0))
    rates: list[float] = field(default_factory=list)
    loss: float = 0.0
    allowed: dict[str, tuple[int, ...]] = field(default_factory=dict)
    architectures: int = 0
    scores: tuple[tuple[float, float], tuple[float, float]] | None = None
    acts: int = 0
    first: int = 0
    step: int = 0


class Observer(pl.Callback):
    """Sets the clock to a step, lets that one step run, and writes down what happened in it.

    Args:
        data: The run's data; the step gets its own batch of it.
        trick: The trick that is looked at, or None in the run without it.
        step: The step; None takes the trick's first active one.
        after: How many steps after that.
        score: Scores a child; given for tricks that act after training.
    """

    def __init__(
        self, data: TensorDataModule, trick: Trick | None, step: int | None, after: int, score: Score | None
    ) -> None:
        self.data, self.trick, self.step, self.after, self.score = data, trick, step, after, score
        self.seen = Observation()

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        module = _training_module(pl_module)
        first = self.step if self.step is not None else self.trick.first_active_step(module) if self.trick else 0
        step = step_to_try(first, self.after, round(module.epochs * module.steps_per_epoch))
        self.seen.first, module.steps_seen, self.seen.step = first, step, step
        loader = KeyedLoader(lambda index: self.data.batch("train", step), 1)
        setattr(self.data, "train_dataloader", lambda: loader)  # noqa: B010 - mypy refuses to assign to a method
        for network in module.networks:
            # Every way through a network starts at its first segment, also the one with an auxiliary head.
            first_segment = next(iter(network.segments.values()))  # type: ignore[operator]
            first_segment.register_forward_pre_hook(self._pass(module.space))
        criterion = module.criterion

        def observed(logits: Tensor, batch: Batch) -> Tensor:
            if module.networks.training:
                hard = nn.functional.one_hot(batch.labels, logits.shape[1])
                self.seen.targets.append(_flat([hard if batch.targets is None else batch.targets]))
            return criterion(logits, batch)

        setattr(module, "criterion", observed)  # noqa: B010 - as above

    def _pass(self, space: Space) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def record(segment: nn.Module, inputs: tuple[Any, ...]) -> None:
            if not segment.training:
                return
            images, gates = inputs
            self.seen.images.append(_flat([images]))
            self.seen.gates.append(dense_gates(space, gates, len(images)))

        return record

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        module, seen = _training_module(pl_module), self.seen
        parameters = list(module.networks.parameters())
        seen.weights = _flat(parameters)
        seen.gradients = _flat(_gradients(parameters))
        seen.statistics = _flat(statistics(batch_norms(module.networks)))
        seen.policy = _flat([*module.policy.parameters(), *module.policy.memory().values()])
        seen.policy_gradients = _flat(_gradients(list(module.policy.parameters())))
        seen.allowed = dict(module.policy.allowed)
        kept = module.policy.kept
        seen.architectures = module.space.size if kept is None else len(kept)
        seen.rates = [float(group["lr"]) for o in trainer.optimizers[:1] for group in o.param_groups]
        seen.loss = module.epoch_metrics().get("train/loss", float("nan"))  # a guard may have ended before the step
        if self.trick is not None and self.score is not None:
            calibration = self.trick.calibration()
            seen.scores = self.score(module, self.data, None), self.score(module, self.data, calibration)
        if self.trick is not None:
            seen.acts = self.trick.acts
        for trick in module.points.tricks:
            trick.act()  # one step is no run: the end of fit would refuse the tricks that act at other steps
        trainer.should_stop = True


def prove(name: str, build: Build, score: Score, attempts: int = ATTEMPTS) -> Proof:
    """Run a step with and without a trick, from its first active step on, until what it changes has changed.

    Args:
        name: The trick.
        build: Builds the run with all tricks, or without one.
        score: Scores a child, for tricks that act after training.
        attempts: Consecutive steps to try, at least 1.
    """
    first: int | None = None
    for attempt in range(max(1, attempts)):
        run = build(None)
        trick = next(t for t in run.tricks if t.name == name)
        scoring = score if trick.after_training else None
        seen = _observe(run, Observer(run.data, trick, first, attempt, scoring))
        first = seen.first
        if scoring is not None:
            measured = measure_scores(seen)
        elif trick.guard:
            measured = Measured(float(seen.acts), trick.measured())
        else:
            other = build(name)
            measured = measure(trick.changes, seen, _observe(other, Observer(other.data, None, first, attempt, None)))
        proof = Proof(name, trick.changes, first, seen.step, measured, seen.acts)
        if proof.alive or trick.after_training:
            break
    return proof


def step_to_try(first: int, attempt: int, steps: int) -> int:
    """The step of an attempt, counted from 0: from `first` on, and back from it where the run of `steps` ends."""
    left = max(0, steps - 1 - first)
    return first + attempt if attempt <= left else max(0, first - (attempt - left))


def _observe(run: Built, observer: Observer) -> Observation:
    run.trainer.limit_val_batches = 0
    run.trainer.callbacks.append(observer)  # type: ignore[attr-defined]
    run.trainer.fit(run.module, datamodule=run.data)
    return observer.seen


def measure(change: Change, on: Observation, off: Observation) -> Measured:
    """How far what a trick declares to change is apart in a step with it (`on`) and one without it (`off`)."""
    if change == "batch":
        images, targets = _largest(on.images, off.images), _largest(on.targets, off.targets)
        return Measured(max(images, targets), f"pixels by up to {images:.3g}, targets by up to {targets:.3g}")
    if change == "gates":
        return Measured(size := _largest(on.gates, off.gates), f"path weights by up to {size:.3g}")
    if change == "loss":
        size = abs(on.loss - off.loss) / max(abs(off.loss), 1e-12)
        return Measured(size, f"loss {off.loss:.6g} -> {on.loss:.6g}")
    if change == "learning rate":
        pairs = list(zip(on.rates, off.rates, strict=True))
        size = max((abs(a - b) / max(abs(b), 1e-12) for a, b in pairs), default=0.0)
        return Measured(size, f"learning rate {off.rates[0]:.6g} -> {on.rates[0]:.6g}")
    if change == "network":
        size = abs(len(on.weights) - len(off.weights)) / max(len(off.weights), 1)
        return Measured(size, f"network of {len(off.weights):,} weights -> {len(on.weights):,}")
    if change == "options":
        masked = sum(len(set(off.allowed[name]) ^ set(on.allowed[name])) for name in off.allowed)
        dropped = abs(off.architectures - on.architectures)
        words = f"{masked} allowed options" + (f", {dropped} architectures" if dropped else "")
        return Measured(float(masked + dropped), words)
    vectors = {
        "weights": (on.weights, off.weights, "weights after the step"),
        "gradients": (on.gradients, off.gradients, "gradient of the weights"),
        "normalisation statistics": (on.statistics, off.statistics, "running statistics"),
        "policy": (on.policy, off.policy, "policy after the step"),
        "policy gradient": (on.policy_gradients, off.policy_gradients, "gradient of the policy"),
    }
    a, b, what = vectors[change]
    size = relative_difference(a, b)
    return Measured(size, f"{what} by {100 * size:.3g} %")


def measure_scores(seen: Observation) -> Measured:
    """How far the scores of one child are apart with and without what a trick does before scoring."""
    if seen.scores is None:
        return Measured(0.0, "no child was scored")
    (accuracy, loss), (calibrated_accuracy, calibrated_loss) = seen.scores
    size = max(abs(calibrated_loss - loss) / max(abs(loss), 1e-12), abs(calibrated_accuracy - accuracy))
    words = f"a child's loss {loss:.4g} -> {calibrated_loss:.4g}, accuracy {accuracy:.3f} -> {calibrated_accuracy:.3f}"
    return Measured(size, words)


def relative_difference(a: Tensor, b: Tensor) -> float:
    """|a - b| / |b| in the Euclidean norm, of vectors (n,); of different lengths it is infinite."""
    if a.shape != b.shape:
        return float("inf")
    distance, length = float((a - b).norm()), float(b.norm())
    return 0.0 if distance == 0.0 else distance / max(length, 1e-12)


def dense_gates(space: Space, gates: Gates, samples: int) -> Tensor:
    """Gates as one vector: the weight of each option, and of the bypass, for each sample; 0 where it does not run.

    Where the cells that share a choice differ, those of the first.
    """
    rows = []
    for choice in space.choices:
        gate = gates[choice.name].at(0).scaled()
        table = torch.zeros(len(choice.options) + 1, samples, dtype=torch.float64)
        for position, index in enumerate(gate.active):
            table[index] = 1.0 if gate.weights is None else gate.weights[position].detach().double().cpu()
        if gate.bypass is not None:
            table[-1] = gate.bypass.detach().double().cpu()
        rows.append(table)
    return _flat(rows)


def order_of_tricks(tricks: Sequence[Trick]) -> Mapping[str, list[str]]:
    """The names of the tricks that act at each point, in their order; the last wraps the gradients outermost."""
    acting = {point: [t.name for t in in_order(tricks) if acts_at(t, point)] for point in POINTS}
    return {point: names for point, names in acting.items() if names}


def _largest(on: Sequence[Tensor], off: Sequence[Tensor]) -> float:
    """The largest absolute difference over passes; a trick may add passes, and those are not compared."""
    pairs = list(zip(on, off, strict=False))
    if any(a.shape != b.shape for a, b in pairs):
        return float("inf")
    return max((float((a - b).abs().max()) for a, b in pairs if a.numel()), default=0.0)


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    """All entries in one vector (n,)."""
    flat = [t.detach().double().cpu().flatten() for t in tensors]
    return torch.cat(flat) if flat else torch.zeros(0, dtype=torch.float64)


def _gradients(parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    return [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]


def _training_module(module: pl.LightningModule) -> TrainingModule:
    assert isinstance(module, TrainingModule)
    return module
