"""A teacher's soft labels beside the labels: its gradient, what it costs, and which teachers are refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn
from torch.nn import functional as F

from nastricks.callbacks.distillation import Distillation
from nastricks.cli import main
from nastricks.errors import InputError
from nastricks.run import Run, load_module, load_run
from nastricks.spaces import Gates, Network
from nastricks.stages import read_stages
from nastricks.stages.check import check_stages
from proofs.small_runs import SMALL, teacher

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
]

ONE_STEP = {"trainer.max_steps": 1, "trainer.precision": "64-true"}
BASE = ["recipes/spaces/tiny64.yaml", "recipes/data/digits.yaml"]
TRICK = "recipes/tricks/distillation.yaml"


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return all(torch.allclose(g, expected[name], rtol=1e-8, atol=1e-11) for name, g in found.items())


@pytest.fixture(scope="module")
def sandwich(make: Callable[..., Run], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of an elastic supernet of two steps."""
    folder = tmp_path_factory.mktemp("teacher") / "run"
    make("sandwich", changes={"trainer.max_steps": 2}, out=folder).fit()
    return folder


@pytest.mark.parametrize("statistics", ["batch", "running"])
def test_the_loss_is_the_labels_plus_the_teachers(make: Callable[..., Run], first_step: Any, statistics: str) -> None:
    arguments = {"teacher": teacher(), "weight": 0.5, "temperature": 3.0, "statistics": statistics}
    seen = first_step(make("spos", {"distillation": arguments}, ONE_STEP))
    images, labels = seen.batch.images.double(), seen.batch.labels
    network = load_module(teacher()).networks[0].double().eval()
    if statistics == "batch":
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.train().track_running_stats = False
    told = (network(images) / 3).softmax(1).detach()

    def loss(student: Network, gates: Gates, number: int) -> Tensor:
        z = student(images, gates)
        return F.cross_entropy(z, labels) - 0.5 * 9 * (told * (z / 3).log_softmax(1)).sum(1).mean()

    assert same(seen.gradients, seen.apart(loss))


def test_the_largest_child_of_a_supernet_teaches_every_path(
    make: Callable[..., Run], first_step: Any, sandwich: Path
) -> None:
    run = make("sandwich", {"distillation": {"teacher": str(sandwich)}}, ONE_STEP)
    seen = first_step(run)
    images, labels = seen.batch.images.double(), seen.batch.labels
    module = load_module(sandwich)
    space = module.space
    largest = space.extract(module.networks[0], module.spec, space.largest(space.all_options())).double().train()  # type: ignore[arg-type]
    told = largest(images).detach().softmax(1)

    def loss(student: Network, gates: Gates, number: int) -> Tensor:
        z = student(images, gates)
        return F.cross_entropy(z, labels) - (told * z.log_softmax(1)).sum(1).mean()

    assert same(seen.gradients, seen.apart(loss))


class Passes:
    """How often a network runs."""

    def __init__(self, network: nn.Module) -> None:
        self.count = 0
        network.register_forward_hook(self._count)

    def _count(self, *args: Any) -> None:
        self.count += 1


def test_it_is_asked_once_a_batch_and_never_learns(make: Callable[..., Run], sandwich: Path) -> None:
    chosen = {"distillation": {"teacher": str(sandwich)}, "sam": {"rho": 0.05}}
    run = make("sandwich", chosen, {"trainer.max_steps": 3})
    trick = next(t for t in run.tricks if isinstance(t, Distillation))
    run.check()
    assert trick._network is not None
    passes, before = Passes(trick._network), {k: v.clone() for k, v in trick._network.state_dict().items()}
    run.fit()
    assert passes.count == 3  # four paths, two passes each, three steps
    assert all(torch.equal(v, before[k]) for k, v in trick._network.state_dict().items())
    assert not any(p.requires_grad for p in trick._network.parameters())
    assert not any("distillation" in name for name in run.module.state_dict())


def test_a_checkpoint_in_a_run_folder_teaches_and_one_elsewhere_does_not(tmp_path: Path) -> None:
    last = Path(teacher()) / "checkpoints/last.ckpt"
    by_file, by_folder = load_module(last).state_dict(), load_module(teacher()).state_dict()
    tensors = [key for key, value in by_file.items() if isinstance(value, Tensor)]
    assert all(torch.equal(by_file[key], by_folder[key]) for key in tensors)
    assert tensors
    shutil.copy(last, tmp_path / "lost.ckpt")
    with pytest.raises(InputError, match=r"lies in no run's folder, and a checkpoint alone does not say"):
        load_module(tmp_path / "lost.ckpt")


def test_the_trained_run_does_not_need_its_teacher_any_more(make: Callable[..., Run], tmp_path: Path) -> None:
    shutil.copytree(teacher(), tmp_path / "teacher")
    chosen = {"distillation": {"teacher": str(tmp_path / "teacher")}}
    make("child", chosen, {"trainer.max_steps": 1}, out=tmp_path / "run").fit()
    shutil.rmtree(tmp_path / "teacher")
    assert load_run(tmp_path / "run").module.steps_seen == 1
    with pytest.raises(InputError, match="holds no run"):
        make("child", chosen).check()


def test_threads_stay_those_of_the_run(make: Callable[..., Run]) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        load_module(teacher())  # its recipe has one
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


# What is refused.


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert main(list(arguments)) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    return line


def told(*files: str) -> list[str]:
    small = [f"--{key}={value}" for key, value in SMALL.items()]
    return ["fit", *(part for file in files for part in ("-c", file)), *small]


SEVEN = """
import dataclasses

from nastricks.data import Digits, ImageSpec, RawImages


class Seven(Digits):
    \"\"\"The digits 0 to 6.\"\"\"

    description = dataclasses.replace(Digits.description, spec=ImageSpec(1, 8, 7))

    @staticmethod
    def load(root):
        raw = Digits.load(root)
        kept = raw.labels < 7
        return RawImages(raw.images[kept], raw.labels[kept])
"""


@pytest.fixture
def other_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The run folder of a child that was trained on the first seven digits."""
    (tmp_path / "seven_digits.py").write_text(SEVEN)
    monkeypatch.syspath_prepend(tmp_path)
    folder = tmp_path / "seven"
    fit, *files = told(BASE[0], "recipes/child/tiny64.yaml")
    small = files[files.index("recipes/child/tiny64.yaml") + 1 :]
    files = files[: -len(small)]
    steps = ["--trainer.max_steps=1", "--out", str(folder)]
    assert main([fit, *files, "--data=seven_digits.Seven", *small, *steps]) == 0
    return folder


def test_a_teacher_with_other_classes_is_refused_before_training(
    other_classes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = told(*BASE, "recipes/algorithms/spos.yaml", TRICK)
    line = refused(capsys, *files, f"--tricks.distillation.teacher={other_classes}", "--out", str(tmp_path / "run"))
    assert f"the teacher {other_classes} knows 7 classes and the data have 10" in line
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--tricks.distillation.teacher", "nowhere"], "nowhere holds no run"),
        (["--tricks.distillation.teacher", "null"], "distillation.teacher is not set"),
        (["--tricks.distillation.weight", "0"], "distillation.weight is 0"),
        (["--tricks.distillation.temperature", "-1"], "distillation.temperature is -1"),
        (["--tricks.distillation.statistics", "none"], "none"),
    ],
)
def test_bad_teachers_and_values(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = told(*BASE, "recipes/algorithms/spos.yaml", TRICK)
    assert words in refused(capsys, *files, *arguments, "--out", str(tmp_path / "run"))


def test_a_supernet_without_an_order_of_sizes_needs_an_architecture(make: Callable[..., Run], tmp_path: Path) -> None:
    make("spos", changes={"trainer.max_steps": 1}, out=tmp_path / "run").fit()
    arguments = {"teacher": str(tmp_path / "run")}
    with pytest.raises(InputError, match="a supernet of tiny64, of which no child is the largest: say which teaches"):
        make("child", {"distillation": arguments}).check()
    make("child", {"distillation": {**arguments, "architecture": "321"}}).check()
    with pytest.raises(InputError, match="'987' is no architecture of tiny64"):
        make("child", {"distillation": {**arguments, "architecture": "987"}}).check()
    child = load_run(teacher()).module.space.format(load_run(teacher()).module.policy.architecture)  # type: ignore[arg-type]
    other = "444" if child != "444" else "111"
    with pytest.raises(InputError, match=f"does not hold {other}: name one of its options"):
        make("child", {"distillation": {"teacher": teacher(), "architecture": other}}).check()


# Stages.


def stages(folder: Path, **second: Any) -> str:
    small = {**SMALL, "trainer.max_epochs": 1}
    one = {"stack": [*BASE, "recipes/child/tiny64.yaml"], "set": small}
    two = {"stack": [*BASE, "recipes/child/tiny64.yaml", *second.pop("stack", [TRICK])], "set": small, **second}
    (folder / "stages.yaml").write_text(yaml.safe_dump({"stages": {"one": one, "two": two}}, sort_keys=False))
    return str(folder / "stages.yaml")


def test_an_earlier_stage_teaches(tmp_path: Path) -> None:
    file, out = stages(tmp_path, teacher_of="one"), tmp_path / "out"
    assert main(["run", file, "--out", str(out)]) == 0
    config = yaml.safe_load((out / "two/config.yaml").read_text())
    assert config["tricks"]["distillation"]["init_args"]["teacher"] == str(out / "one")
    before = (out / "two/result.json").read_text()
    shutil.move(out, tmp_path / "moved")  # a finished stage is read wherever its folder is
    assert main(["run", file, "--out", str(tmp_path / "moved")]) == 0
    assert (tmp_path / "moved/two/result.json").read_text() == before
    assert "fingerprint" in json.loads(before)


def test_teachers_of_stages_are_refused_before_the_first_one_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="teacher_of is for the trick distillation: add recipes/tricks/distillation"):
        check_stages(read_stages(stages(tmp_path, teacher_of="one", stack=[])))
    with pytest.raises(InputError, match="takes teacher_of 'three', which is no earlier stage"):
        read_stages(stages(tmp_path, teacher_of="three"))
    (tmp_path / "seven_digits.py").write_text(SEVEN)
    monkeypatch.syspath_prepend(tmp_path)
    content = yaml.safe_load(Path(stages(tmp_path, teacher_of="one")).read_text())
    one = content["stages"]["one"]
    one["set"] = {"data": "seven_digits.Seven", **one["set"]}
    (tmp_path / "stages.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    with pytest.raises(InputError, match="the teacher one knows 7 classes and the data have 10"):
        check_stages(read_stages(tmp_path / "stages.yaml"))
