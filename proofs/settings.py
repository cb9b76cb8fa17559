"""With which arguments each trick acts within the eight steps of a small run, and which stacks refuse it."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Settings:
    """How a trick is tested.

    `arguments` make it act within the eight steps of a small run; `refuses` says which stacks it refuses, and a
    piece of the sentence; `acts_at_neutral`: whether it counts acts at its neutral setting (SAM does its second pass
    there too), since a run in which it never acts is an error.
    """

    arguments: dict[str, Any]
    refuses: dict[str, str] = field(default_factory=dict)
    acts_at_neutral: bool = False
    documented: dict[str, Any] = field(default_factory=dict)  # arguments whose value in the recipe is no default
    steps: int = 2  # within which it has acted, and let others act


SETTINGS: dict[str, Settings] = {
    "auto_augment": Settings({"kind": "rand_augment"}, documented={"kind": "auto_augment"}),
    "arch_perturbation": Settings(
        {"epsilon": 0.3},
        {"spos": "UniformPath runs one at a time", "child": "Fixed runs one at a time"},
    ),
    "auxiliary_skip": Settings({"start": 1.0}),
    "bn_affine": Settings({"affine": False}),
    "bn_calibration": Settings({"batches": 2}),
    "cutout": Settings({"length": 4}),
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
    "ghost_batch_norm": Settings({"size": 8}),
    "hessian_penalty": Settings({"weight": 1.0}, {"spos": "UniformPath takes none", "child": "Fixed takes none"}),
    "filter_warmup": Settings(
        {"fraction": 0.5},
        {
            "spos": "needs a choice of a size",
            "darts": "needs a choice of a size",
            "child": "a child has no choices left",
        },
    ),
    "mixup": Settings({"alpha": 1.0}),
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
    "sam": Settings({"rho": 0.05}, acts_at_neutral=True, documented={"rho": 0.05}),
    "sgdr": Settings({"t_0": 1}),
    "weight_warmup": Settings(
        {"epochs": 1},
        {"spos": "UniformPath has no parameters", "child": "Fixed has no parameters"},
        documented={"fraction": 0.3},
        steps=6,
    ),
    "zero_one_loss": Settings({"weight": 10.0}, {"spos": "UniformPath takes none", "child": "Fixed takes none"}),
}
