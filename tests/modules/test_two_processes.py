"""Two processes on one machine (DDP over gloo) take the same paths and end with what one does with both batches."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric.plugins.environments.lightning import find_free_network_port

from nastricks.recipe import resolve
from nastricks.run import build
from proofs.small_runs import same

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
    pytest.mark.xdist_group("two processes"),
]

STEPS = 3


@dataclass(frozen=True)
class Case:
    """A run: the files above space and data, its passes, the paths that differ among them at least, keys of its own.

    `moves`: the part of the parameters that three steps move at least.
    """

    files: tuple[str, ...]
    passes: int
    different: int
    space: str = "tiny64"
    keys: Mapping[str, Any] = field(default_factory=dict)
    moves: float = 0.5


SPREAD = {"data.init_args.train_size": 32, "trainer.max_epochs": STEPS}  # a step an epoch
CASES = {
    "spos": Case(("algorithms/spos",), STEPS, 2, moves=0.2),
    "fairnas": Case(("algorithms/fairnas",), 4 * STEPS, 8),
    "bender_oneshot": Case(("algorithms/bender_oneshot",), STEPS, 2, keys={"tricks.path_dropout.rate": 0.9}),
    # The policy is off in the first step, and has four episodes in others.
    "tunas": Case(("algorithms/tunas",), STEPS + 2 * 4, 3),
    "mct_sampling": Case(("algorithms/mct_sampling",), STEPS, STEPS, keys={"tricks.weight_warmup": "null"}, moves=0.2),
    "bignas": Case(
        ("algorithms/bignas",), 4 * STEPS, 5, "elastic", {"tricks.largest_only_regularisation.dropout": 0.0}
    ),
    "autoslim": Case(("algorithms/autoslim",), 4 * STEPS, 5, "slimmable"),
    "ofa": Case(
        ("algorithms/ofa",),
        STEPS,
        2,
        "elastic",
        {**SPREAD, "tricks.progressive_shrinking.starts": "[0.0,0.3,0.3,0.6,0.6]"},
    ),
    "single_level": Case(
        ("algorithms/single_level",), STEPS, 1, keys={"tricks.resource_penalty": "{kind: fixed, weight: 1.0}"}
    ),
    "groups": Case(("algorithms/spos", "sharing/groups"), STEPS, 2, moves=0.0),
    "prefix": Case(("algorithms/spos", "sharing/prefix"), STEPS, 2, moves=0.0),
    "few_shot": Case(("algorithms/spos", "sharing/few_shot"), STEPS, 2, moves=0.05),
}
BY_COMMAND = "bignas"  # started as users do, with --trainer.devices 2; the others run in two processes that stay
# Batch norm and its calibration would see half of the batch; dropout and shifted images are drawn a process.
KEYS: dict[str, Any] = {
    "tricks.bn_calibration": "null",
    "data.init_args.crop_padding": 0,
    "data.init_args.train_size": 32 * STEPS,
    "data.init_args.search_size": 32 * STEPS,
    "data.init_args.validation_size": 32,
    "trainer.accelerator": "cpu",
    "trainer.max_epochs": 1,
    "trainer.precision": "64-true",
}
TWO: dict[str, Any] = {
    "data.init_args.batch_size": 16,
    "trainer.devices": 2,
    "trainer.strategy": "ddp_find_unused_parameters_true",
    "trainer.callbacks+": "watching_ranks.Watch",
}
WATCH = """
import json
import os
import sys

import pytorch_lightning as pl
import torch

from nastricks.cli import main


class Watch(pl.Callback):
    def on_fit_start(self, trainer, module):
        self.paths = []
        stems = {network.segments["stem"] for network in module.networks}
        self.hooks = [stem.register_forward_pre_hook(self.note) for stem in stems]

    def note(self, segment, inputs):
        self.paths.append({name: gate.active for name, gate in inputs[1].items()})

    def on_fit_end(self, trainer, module):
        own = {"paths": self.paths, "images": trainer.datamodule.batch_size, "weights": module.networks.state_dict()}
        own |= {"policy": module.policy.state_dict()}
        torch.save(own, os.path.join(os.environ["WATCHED"], f"rank{trainer.global_rank}.pt"))


if __name__ == "__main__":  # one of two processes, which takes all runs that it is told in a row
    with open(sys.argv[1]) as file:
        told = json.load(file)
    for folder, arguments in told.items():
        os.environ["WATCHED"] = folder
        out = os.path.join(folder, "run" + os.environ["LOCAL_RANK"])
        if main(["fit", *arguments, "--out", out]) != 0:
            sys.exit(f"{folder} failed")
"""


def files_of(case: Case) -> list[str]:
    return [f"recipes/{n}.yaml" for n in (f"spaces/{case.space}", "data/digits", *case.files, "tricks/norm_swap")]


def arguments_of(case: Case) -> list[str]:
    keys = {**KEYS, **case.keys, **TWO}
    return [part for file in files_of(case) for part in ("-c", file)] + [
        f"--{key}={value}" for key, value in keys.items()
    ]


def environment_in(folder: Path, **more: str) -> dict[str, str]:
    paths = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    found = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", **more}
    found.pop("PYTHONDONTWRITEBYTECODE", None)  # with it each process compiles torch anew
    return found


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with what both processes saw, a folder a case."""
    place = tmp_path_factory.mktemp("two")
    (place / "watching_ranks.py").write_text(WATCH)
    for name in CASES:
        (place / name).mkdir()
    told = {str(place / name): arguments_of(case) for name, case in CASES.items() if name != BY_COMMAND}
    (place / "told.json").write_text(json.dumps(told))
    port = str(find_free_network_port())
    command = [sys.executable, str(place / "watching_ranks.py"), str(place / "told.json")]
    started = [
        subprocess.Popen(
            command,
            env=environment_in(place, LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT=port),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    try:
        errors = [process.communicate(timeout=280)[1] for process in started]
    finally:
        for process in started:
            process.kill()
    for process, error in zip(started, errors, strict=True):
        assert process.returncode == 0, error[-3000:]
    return place


def by_command(place: Path) -> None:
    """The run that is started as users start it."""
    folder = place / BY_COMMAND
    nastricks = str(Path(sys.executable).with_name("nastricks"))
    command = [nastricks, "fit", *arguments_of(CASES[BY_COMMAND]), "--out", str(folder / "run")]
    environment = environment_in(place, WATCHED=str(folder))
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("name", CASES)
def test_two_processes_do_what_one_does_with_the_doubled_batch(name: str, watched: Path) -> None:
    case = CASES[name]
    if name == BY_COMMAND:
        by_command(watched)
    first, second = (torch.load(watched / name / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    assert first["images"] == 16
    assert first["paths"] == second["paths"]
    assert len(first["paths"]) == case.passes
    assert len({str(path) for path in first["paths"]}) >= case.different
    assert same(first["policy"], second["policy"])

    one = {**KEYS, **case.keys, "data.init_args.batch_size": 32}
    run = build(resolve(files_of(case), [f"--{key}={value}" for key, value in one.items()]), None, quiet=True)
    before = {key: p.detach().double() for key, p in run.module.networks.named_parameters()}
    run.fit()
    assert run.module.steps_seen == STEPS
    for key, value in run.module.networks.state_dict().items():
        assert value.dtype == torch.float64
        assert torch.equal(first["weights"][key], second["weights"][key]), f"{key} differs between the processes"
        torch.testing.assert_close(
            first["weights"][key], value, rtol=1e-8, atol=1e-8, msg=lambda m, key=key: f"{key}: {m}"
        )
    policy = run.module.policy
    expected = {**dict(policy.named_parameters()), **policy.memory()}
    found = {**first["policy"], **(first["policy"]["_extra_state"].get("memory") or {})}
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value.detach(), rtol=1e-6, atol=1e-7)  # rewards are single precision
    assert bool(expected) == (name in ("tunas", "mct_sampling", "single_level"))
    after = dict(run.module.networks.named_parameters())
    moved = [not torch.allclose(p, before[key], rtol=0, atol=1e-5) for key, p in after.items()]
    assert sum(moved) > case.moves * len(moved)  # branches whose scale starts at 0 move late, other paths not at all
