"""Two processes on one machine (DDP over gloo) take the same paths and end with what one does with both batches."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from nastricks.recipe import resolve
from nastricks.run import build
from proofs.small_runs import same

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
]

STEPS = 3
# Space, keys of its own, and the passes of a run with the paths that differ among them at least.
CASES: dict[str, tuple[str, dict[str, Any], int, int]] = {
    "bignas": ("elastic", {"tricks.largest_only_regularisation.dropout": 0.0}, 4 * STEPS, 5),
    "tunas": ("tiny64", {}, STEPS + 2 * 4, 3),  # the policy is off in the first step, and has four episodes in others
    "mct_sampling": ("tiny64", {"tricks.weight_warmup": "null"}, STEPS, STEPS),
    "single_level": ("tiny64", {"tricks.resource_penalty": "{kind: fixed, weight: 1.0}"}, STEPS, 1),
}
# Batch norm and its calibration would see half of the batch; dropout and shifted images are drawn a process.
KEYS: dict[str, Any] = {
    "tricks.bn_calibration": "null",
    "data.init_args.crop_padding": 0,
    "data.init_args.train_size": 32 * STEPS,
    "data.init_args.validation_size": 32,
    "trainer.accelerator": "cpu",
    "trainer.max_epochs": 1,
    "trainer.precision": "64-true",
}
WATCH = """
import os

import pytorch_lightning as pl
import torch


class Watch(pl.Callback):
    def on_fit_start(self, trainer, module):
        self.paths = []
        module.networks[0].segments["stem"].register_forward_pre_hook(self.note)

    def note(self, segment, inputs):
        self.paths.append({name: gate.active for name, gate in inputs[1].items()})

    def on_fit_end(self, trainer, module):
        own = {"paths": self.paths, "images": trainer.datamodule.batch_size, "weights": module.networks.state_dict()}
        own |= {"policy": module.policy.state_dict()}
        torch.save(own, os.path.join(os.environ["WATCHED"], f"rank{trainer.global_rank}.pt"))
"""


@pytest.mark.parametrize("algorithm", CASES)
def test_two_processes_do_what_one_does_with_the_doubled_batch(algorithm: str, tmp_path: Path) -> None:
    space, own, passes, different = CASES[algorithm]
    files = [
        f"recipes/{n}.yaml" for n in (f"spaces/{space}", "data/digits", f"algorithms/{algorithm}", "tricks/norm_swap")
    ]
    keys = {**KEYS, **own}
    (tmp_path / "watching_ranks.py").write_text(WATCH)
    two = {
        **keys,
        "data.init_args.batch_size": 16,
        "trainer.devices": 2,
        "trainer.strategy": "ddp_find_unused_parameters_true",
        "trainer.callbacks+": "watching_ranks.Watch",
        "out": str(tmp_path / "two"),
    }
    told = [part for file in files for part in ("-c", file)] + [f"--{key}={value}" for key, value in two.items()]
    paths = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    command = [str(Path(sys.executable).with_name("nastricks")), "fit", *told]
    environment = {**os.environ, "PYTHONPATH": paths, "WATCHED": str(tmp_path), "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # with it each process compiles torch anew
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    assert first["paths"] == second["paths"]
    assert len(first["paths"]) == passes
    assert len({str(path) for path in first["paths"]}) >= different
    assert same(first["policy"], second["policy"])

    one = {**keys, "data.init_args.batch_size": 32}
    run = build(resolve(files, [f"--{key}={value}" for key, value in one.items()]), None, quiet=True)
    before = {name: p.detach().double() for name, p in run.module.networks.named_parameters()}
    run.fit()
    assert run.module.steps_seen == STEPS
    for name, value in run.module.networks.state_dict().items():
        assert value.dtype == torch.float64
        assert torch.equal(first["weights"][name], second["weights"][name]), f"{name} differs between the processes"
        torch.testing.assert_close(
            first["weights"][name], value, rtol=1e-8, atol=1e-8, msg=lambda m, name=name: f"{name}: {m}"
        )
    policy = run.module.policy
    expected = {**dict(policy.named_parameters()), **policy.memory()}
    found = {**first["policy"], **(first["policy"]["_extra_state"].get("memory") or {})}
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value.detach(), rtol=1e-6, atol=1e-7)  # rewards are single precision
    assert bool(expected) == (algorithm != "bignas")
    moved = [
        not torch.allclose(p, before[name], rtol=0, atol=1e-5) for name, p in run.module.networks.named_parameters()
    ]
    assert sum(moved) > len(moved) / 2  # branches whose scale starts at 0 move late
