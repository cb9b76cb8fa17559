"""Measures by hand, in a run that is killed and continued, and their files."""

import csv
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from nastricks.derivations import Argmax, BestRanked, Derivation, Trained
from nastricks.errors import InputError
from nastricks.modules.gate_history import GateHistory, draw_gates
from nastricks.modules.measures import Measures, absence, agreement, counts, discretisation, entropy, gap, strengths_of
from nastricks.modules.run_folder import LAST
from nastricks.modules.scoring import score_gates
from nastricks.modules.tracking import Tracked, WandbTracking, finish
from nastricks.policies import Independent, Softmax, UniformPath
from nastricks.ranking.evaluate import score_children
from nastricks.ranking.rank import rank
from nastricks.run import Run, build
from nastricks.spaces import Architecture, Gate, NASBench201, Tiny64

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
]

SPACE = Tiny64(channels=4)
LOGGED = ["gates/entropy", "gates/entropy_share", "gates/gap", "derived/skips", "derived/parameter_free"]


def softmax(alphas: Sequence[Sequence[float]]) -> Softmax:
    policy = Softmax(SPACE)
    with torch.no_grad():
        for choice, values in zip(SPACE.choices, alphas, strict=True):
            policy.alpha[choice.name].copy_(torch.tensor(values))
    return policy


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_entropy_and_gap_by_hand() -> None:
    assert entropy([0.25] * 4) == pytest.approx(math.log(4))
    assert entropy([2.0, 2.0]) == pytest.approx(math.log(2))  # sigmoid gates do not sum to one
    assert entropy([0.5, 0.25, 0.25]) == pytest.approx(1.5 * math.log(2))
    assert entropy([1.0, 0.0, 0.0]) == 0.0
    assert entropy([0.0, 0.0]) == pytest.approx(math.log(2))
    assert gap([0.1, 0.7, 0.2]) == pytest.approx(0.5)
    assert gap([0.8]) == 0.8


def test_skips_and_parameter_free_options_are_counted() -> None:
    assert counts(SPACE, (3, 1, 3)) == {"derived/skips": 2.0, "derived/parameter_free": 2.0}
    assert counts(SPACE, (0, 1, 2)) == {"derived/skips": 0.0, "derived/parameter_free": 0.0}  # its pooling has a norm
    assert agreement((0, 1, 2, 3), (0, 1, 3, 3)) == 0.75


def test_absence_is_the_share_of_choices_that_it_wins_among_those_that_offer_it() -> None:
    assert absence({name: {0: 0.9, 1: 0.1} for name in ("layer1", "layer2", "layer3")}, Tiny64()) == {}
    space = NASBench201()
    strengths = {c.name: {0: 0.1, 1: 0.5, 3: 0.4} for c in space.choices}  # option 0 is `none`
    assert absence(strengths, space) == {"gates/absent": 0.0}
    strengths[space.choices[2].name] = {0: 0.6, 3: 0.4}
    strengths[space.choices[4].name] = {1: 0.6, 3: 0.4}  # offers it no longer
    assert absence(strengths, space) == {"gates/absent": 1 / 5}


def test_what_is_taken_at_an_epoch(make: Callable[..., Run]) -> None:
    policy = softmax([[0, 9, 0, 0], [0, 0, 0, 9], [0, 0, 0, 9]])
    measures, module = Measures(SPACE, policy, Argmax()), make("darts").module
    first = measures.take(module, 0)
    assert list(first) == LOGGED
    assert first["derived/skips"] == 2.0
    assert first["gates/entropy_share"] == pytest.approx(first["gates/entropy"] / math.log(4))
    with torch.no_grad():
        policy.alpha["layer3"].copy_(torch.tensor([9.0, 0, 0, 0]))
    assert measures.take(module, 1)["derived/agreement"] == pytest.approx(2 / 3)


def test_a_removed_option_has_no_strength(make: Callable[..., Run]) -> None:
    policy = softmax([[0, 0, 0, 0]] * 3)
    measures, module = Measures(SPACE, policy, Argmax()), make("darts").module
    measures.take(module, 0)
    policy.restrict("layer1", [1])
    taken = measures.take(module, 1)
    assert taken["gates/entropy_share"] == pytest.approx(2 / 3)
    assert strengths_of(policy)["layer1"] == {1: 1.0}
    told = measures.history.csv().splitlines()
    assert len(told) == 1 + 12 + 9
    assert told[13] == "1,layer1,sep_conv_3x3,1"
    assert "url(#gone)" in draw_gates(measures.history, "gates")


class Undecided(Derivation):
    """Finds nothing, as a threshold does early in a search."""

    needs_preferences = True

    def derive(self, trained: Trained) -> Architecture:
        raise InputError("no option is above the threshold")


def test_a_derivation_that_finds_nothing_yet_leaves_its_columns_empty(make: Callable[..., Run]) -> None:
    taken = Measures(SPACE, softmax([[0, 0, 0, 0]] * 3), Undecided()).take(make("darts").module, 0)
    assert list(taken) == LOGGED[:3]


def test_a_derivation_that_scores_children_is_not_asked(make: Callable[..., Run]) -> None:
    taken = Measures(SPACE, softmax([[0, 0, 0, 0]] * 3), BestRanked()).take(make("darts").module, 0)
    assert list(taken) == LOGGED[:3]


def test_every_epoch_is_logged_and_drawn(make: Callable[..., Run], tmp_path: Path) -> None:
    run = make("darts", out=tmp_path)
    run.fit()
    logged = rows(tmp_path / "metrics.csv")
    assert [row["epoch"] for row in logged] == ["0", "1"]
    assert all(row[name] != "" for row in logged for name in LOGGED)
    assert [row["derived/agreement"] != "" for row in logged] == [False, True]
    gates = rows(tmp_path / "gates.csv")
    assert len(gates) == 2 * 3 * 4
    last = {(row["choice"], row["option"]): float(row["strength"]) for row in gates if row["epoch"] == "1"}
    for choice, strengths in run.module.policy.strengths().items():
        named = [option.name for option in next(c for c in run.module.space.choices if c.name == choice).options]
        assert [last[choice, name] for name in named] == pytest.approx(strengths.tolist(), rel=1e-5)
    picture = (tmp_path / "gates.svg").read_text()
    assert all(word in picture for word in ("layer1", "layer3", "sep_conv_5x5", "epoch 0"))


def test_policies_without_strengths_and_measures_turned_off_write_nothing(
    make: Callable[..., Run], tmp_path: Path
) -> None:
    for name, stack, changes in (("spos", "spos", {}), ("off", "darts", {"measures.gates": False})):
        make(stack, changes=changes, out=tmp_path / name).fit()
        assert not list((tmp_path / name).glob("gates.*"))
        assert not set(rows(tmp_path / name / "metrics.csv")[0]) & set(LOGGED)


class KilledError(Exception):
    """The run is killed here."""


class Kill(pl.Callback):
    """Kills a run before its sixth batch."""

    def on_train_batch_start(self, trainer: pl.Trainer, *args: Any) -> None:
        if trainer.global_step == 5:
            raise KilledError


@pytest.mark.parametrize("every", [{"checkpoint.every_n_epochs": 1}, {"checkpoint.every_n_steps": 2}])
def test_a_run_that_was_killed_measures_the_same(
    every: dict[str, int], make: Callable[..., Run], tmp_path: Path
) -> None:
    make("darts", out=tmp_path / "straight").fit()
    first = make("darts", changes=every, out=tmp_path / "killed")
    first.trainer.callbacks.append(Kill())  # type: ignore[attr-defined]
    with pytest.raises(KilledError):
        first.fit()
    make("darts", changes=every, out=tmp_path / "killed").fit(str(tmp_path / "killed" / LAST))
    for name in ("metrics.csv", "gates.csv", "gates.svg"):
        assert (tmp_path / "killed" / name).read_text() == (tmp_path / "straight" / name).read_text()


# What costs passes through the network.


def test_discretisation_is_measured_when_asked(make: Callable[..., Run], tmp_path: Path) -> None:
    run = make("darts", changes={"measures.discretisation": True, "measures.every_n_epochs": 2}, out=tmp_path)
    run.fit()
    first, second = rows(tmp_path / "metrics.csv")
    assert first["discretisation/loss"] == ""
    own, path = float(second["discretisation/supernet"]), float(second["discretisation/derived"])
    assert float(second["discretisation/loss"]) == pytest.approx(own - path)
    module, data = run.module, run.data
    assert module.measures is not None
    assert module.measures.derived is not None
    alone = module.measures.derived
    network: Any = module.networks[0]
    batches = (data.evaluation_batches("validation"), data.calibration_batches(10))
    assert path == pytest.approx(score_children(module.space, network, [alone], *batches)[alone].accuracy)
    plain = make("darts")
    plain.fit()
    for (name, one), (_, other) in zip(plain.module.state_dict().items(), module.state_dict().items(), strict=True):
        assert name.endswith("extra_state") or torch.equal(one, other), f"measuring changed {name}"


def test_the_dominant_eigenvalue_is_that_of_the_dense_hessian(make: Callable[..., Run], tmp_path: Path) -> None:
    run = make("darts", changes={"measures.hessian": True}, out=tmp_path)
    run.fit()
    logged = [float(row["hessian/eigenvalue"]) for row in rows(tmp_path / "metrics.csv")]
    assert len(logged) == 2
    module: Any = run.module
    alpha, batch = module.policy.alpha, run.data.batch("search", 0)

    def loss(flat: torch.Tensor) -> torch.Tensor:
        parts = dict(zip(alpha, flat.split(4), strict=True))
        gates = {name: Gate((0, 1, 2, 3), torch.softmax(part, 0)) for name, part in parts.items()}
        with module.frozen_statistics():
            return torch.nn.functional.cross_entropy(module.networks[0](batch.images, gates), batch.labels)

    module.networks.train()
    hessian = torch.autograd.functional.hessian(loss, torch.cat([p.detach() for p in alpha.values()]))
    assert logged[-1] == pytest.approx(float(torch.linalg.eigvalsh(hessian)[-1]), rel=2e-3)


def test_nothing_is_lost_where_the_gates_are_the_path(make: Callable[..., Run]) -> None:
    run = make("darts")
    run.fit()
    with torch.no_grad():
        for alpha in run.module.policy.parameters():
            alpha.copy_(torch.tensor([0.0, 200.0, 0.0, 0.0]))
    assert discretisation(run.module, (1, 1, 1))["discretisation/loss"] == 0.0


def test_a_ranking_notes_what_its_derived_path_loses(make: Callable[..., Run]) -> None:
    run = make("darts")
    run.fit()
    found = rank(run.module, run.data, None, architectures=[(0, 0, 0), (1, 1, 1)])
    derived = run.module.space.parse(str(found.derived))
    score = discretisation(run.module, derived)
    assert found.metrics == {
        "supernet_accuracy": score["discretisation/supernet"],
        "discretisation_loss": score["discretisation/loss"],
    }
    assert rank(make("spos").module, run.data, None, architectures=[(0, 0, 0), (1, 1, 1)]).metrics == {}


def test_scores_of_gates_leave_the_network_as_it_was(make: Callable[..., Run]) -> None:
    run = make("spos")
    run.fit()
    before = {name: value.clone() for name, value in run.module.networks.state_dict().items()}
    gates = {choice.name: Gate(active=(1, 2)) for choice in run.module.space.choices}
    data = run.data
    scored = score_gates(
        run.module, lambda _: gates, data.evaluation_batches("validation"), data.calibration_batches(2)
    )
    assert 0 <= scored.accuracy <= 1
    assert all(torch.equal(before[name], value) for name, value in run.module.networks.state_dict().items())
    assert run.module.networks.training


@pytest.mark.parametrize(
    ("stack", "changes", "sentence"),
    [
        ("spos", {"measures.discretisation": True}, "needs a policy with strengths, and UniformPath has none"),
        (
            "spos",
            {"measures.hessian": True},
            "measures.hessian needs a policy with strengths, and UniformPath has none",
        ),
        ("darts", {"measures.every_n_epochs": 0}, "measures.every_n_epochs is 0: expected at least 1"),
        ("darts", {"measures.gates": False, "measures.discretisation": True}, "measures.gates is false"),
        (
            "darts",
            {
                "measures.discretisation": True,
                "model.init_args.derivation.class_path": "nastricks.derivations.BestRanked",
            },
            "BestRanked reads none off Softmax without scoring children",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused(
    stack: str, changes: dict[str, Any], sentence: str, configure: Callable[..., Any]
) -> None:
    with pytest.raises(InputError, match=sentence):
        build(configure(stack, None, changes), None, quiet=True)


def test_no_validation_images_are_refused_before_training(make: Callable[..., Run]) -> None:
    run = make("darts", changes={"measures.discretisation": True, "data.init_args.validation_size": 0})
    with pytest.raises(InputError, match="the validation split of digits is empty"):
        run.fit()
    assert run.module.steps_seen == 0


def test_preferences_stand_in_for_strengths_and_uniform_paths_have_neither() -> None:
    assert strengths_of(UniformPath(SPACE)) == {}
    controller = Independent(SPACE)
    controller.restrict("layer2", [0, 3])
    assert strengths_of(controller)["layer1"] == pytest.approx(dict.fromkeys(range(4), 0.25))
    assert strengths_of(controller)["layer2"] == pytest.approx({0: 0.5, 3: 0.5})


def test_the_picture_reaches_weights_and_biases(
    make: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.chdir(tmp_path)
    run = make("darts", out=tmp_path / "run")
    run.trainer.loggers.append(
        WandbTracking(mode="offline").logger(tmp_path / "run", {}, [], Tracked("run"))  # type: ignore[attr-defined]
    )
    try:
        run.fit()
    finally:
        finish()
    kept = [path.read_text() for path in (tmp_path / "run").rglob("media/html/gates*.html")]
    assert kept == [(tmp_path / "run/gates.svg").read_text()]


# The picture.


def test_a_heat_map_draws_runs_of_equal_shades_as_one_box() -> None:
    history = GateHistory(SPACE)
    for epoch in range(100):
        strong = 0.7 if epoch >= 50 else 0.1
        history.record(epoch, {choice.name: {0: strong, 1: 0.1, 2: 0.1, 3: 0.0} for choice in SPACE.choices})
    picture = draw_gates(history, "a < b")
    assert "a &lt; b" in picture
    boxes = picture.count("M")
    assert boxes == 3 * (2 + 1 + 1)  # a step in the first option, constants in two, white for the last
    assert len(picture) < 10_000
