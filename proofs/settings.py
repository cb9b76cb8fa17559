"""With which arguments each trick acts within the eight steps of a small run, and which stacks refuse it."""

from dataclasses import dataclass, field
from typing import Any

from proofs.small_runs import teacher


@dataclass(frozen=True)
class Settings:
    """How a trick is tested.

    `arguments` make it act within the eight steps of a small run, those that have to be made first as functions;
    `refuses` says which stacks it refuses, and a piece of the sentence; `also` names stacks that it is tested on beside
    those of every trick; `excludes` which tricks it is refused with, and a piece of the sentence; `acts_at_neutral`:
    whether it counts acts at its neutral setting (SAM does its second pass there too), since a run in which it never
    acts is an error.
    """

    given: dict[str, Any]
    refuses: dict[str, str] = field(default_factory=dict)
    acts_at_neutral: bool = False
    documented: dict[str, Any] = field(default_factory=dict)  # arguments whose value in the recipe is no default
    steps: int = 2  # within which it has acted, and let others act
    also: tuple[str, ...] = ()
    excludes: dict[str, str] = field(default_factory=dict)

    @property
    def arguments(self) -> dict[str, Any]:
        return {key: value() if callable(value) else value for key, value in self.given.items()}


OF_PATHS = {
    "spos": "UniformPath runs no such paths",
    "darts": "Softmax runs no such paths",
    "child": "Fixed runs no such paths",
}
WITHOUT_RESIDUALS = dict.fromkeys(("spos", "darts", "child"), "networks of tiny64 have none")


SETTINGS: dict[str, Settings] = {
    "auto_augment": Settings({"kind": "rand_augment"}, documented={"kind": "auto_augment"}),
    "arch_perturbation": Settings(
        {"epsilon": 0.3},
        {"spos": "UniformPath runs one at a time", "child": "Fixed runs one at a time"},
    ),
    "auxiliary_skip": Settings({"start": 1.0}),
    "batch_statistics": Settings(
        {"size": 8}, excludes={"bn_calibration": "tricks batch_statistics and bn_calibration both say which statistics"}
    ),
    "bn_affine": Settings({"affine": False}),
    "bn_calibration": Settings({"batches": 2}),
    "constant_ending": Settings({"start": 0.5}, excludes={"sgdr": "tricks constant_ending and sgdr both set the"}),
    "cutout": Settings({"length": 4}),
    "distillation": Settings({"teacher": teacher}, documented={"teacher": "runs/teacher"}),
    "drop_path": Settings({"probability": 0.5}),
    # The guards do not stop: an early end would leave nothing to kill and to resume.
    "early_stop_ranking": Settings(
        {"epochs": 10}, {"spos": "UniformPath has no parameters", "child": "a child has no choices left"}, steps=5
    ),
    "early_stop_skips": Settings(
        {"skips": 4}, {"spos": "UniformPath has no parameters", "child": "a child has no choices left"}, steps=5
    ),
    "early_stop_hessian": Settings(
        {"window": 1, "distance": 1, "first_epoch": 1},
        {"spos": "UniformPath has no parameters", "child": "Fixed has no parameters"},
        steps=6,
    ),
    # Digits are shifted at random, which stored outputs cannot follow: the trick's own tests turn that off.
    "freeze_prefix_cache": Settings(
        {"blocks": 0}, dict.fromkeys(("spos", "darts", "child"), "training images are shifted by up to")
    ),
    "ghost_batch_norm": Settings({"size": 8}),
    "hessian_penalty": Settings({"weight": 1.0}, {"spos": "UniformPath takes none", "child": "Fixed takes none"}),
    "filter_warmup": Settings(
        {"fraction": 0.5},
        {
            "spos": "needs a choice of a size",
            "darts": "needs a choice of a size",
            "child": "a child has no choices left",
        },
        also=("sandwich",),
    ),
    "inplace_distillation": Settings({"temperature": 1.0}, OF_PATHS, also=("sandwich",)),
    "largest_only_regularisation": Settings({"dropout": 0.2}, OF_PATHS, also=("sandwich",)),
    "mixup": Settings({"alpha": 1.0}),
    "norm_swap": Settings(
        {"kind": "group"},
        excludes=dict.fromkeys(("bn_calibration", "batch_statistics", "ghost_batch_norm"), "needs a batch norm"),
    ),
    "op_warmup": Settings(
        {"fraction": 0.5},
        {"darts": "Softmax runs several options at once", "child": "a child has no choices left"},
    ),
    "path_dropout": Settings(
        {"rate": 0.5}, {"spos": "UniformPath runs one at a time", "child": "Fixed runs one at a time"}
    ),
    "op_pruning": Settings(
        {"k": 2},
        {"spos": "UniformPath has no parameters", "child": "a child has no choices left"},
        documented={"k": 1, "start": 0.25, "end": 0.9},
        steps=5,
    ),
    "progressive_shrinking": Settings(
        {"phases": "[kernel]", "starts": "[0.5]"},
        {"spos": "tiny64 has none", "darts": "tiny64 has none", "child": "a child has no choices left"},
        also=("sandwich",),
    ),
    "resource_penalty": Settings(
        {"weight": 1.0}, {"spos": "UniformPath has no parameters", "child": "Fixed has no parameters"}
    ),
    "op_dropout": Settings({"probability": 0.5}, {"child": "needs a skip connection"}),
    "partial_channels": Settings({"parts": 4}, {"child": "a child has no choices left"}),
    "op_projection": Settings(
        {"at_once": 3},
        {"spos": "UniformPath", "child": "a child has no choices left"},
        steps=8,  # it decides before the second epoch, and refuses a run without one
    ),
    "space_pruning": Settings(
        {"epochs": 1},
        {"darts": "Softmax cannot keep to one", "child": "a child has no choices left"},
        steps=5,
    ),
    "sam": Settings({"rho": 0.05}, acts_at_neutral=True, documented={"rho": 0.05}),
    "sgdr": Settings({"t_0": 1}),
    "sync_batch_norm": Settings({}, dict.fromkeys(("spos", "darts", "child"), "needs GPUs")),
    "weight_warmup": Settings(
        {"epochs": 1},
        {"spos": "UniformPath has no parameters", "child": "Fixed has no parameters"},
        documented={"fraction": 0.3},
        steps=6,
    ),
    "zero_init_residual": Settings({"scale": 0.0}, WITHOUT_RESIDUALS, also=("sandwich",)),
    "zero_one_loss": Settings({"weight": 10.0}, {"spos": "UniformPath takes none", "child": "Fixed takes none"}),
}
