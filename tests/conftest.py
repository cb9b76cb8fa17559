"""Shared test settings: one thread a worker (the networks are tiny), no network, no login; small runs of whole recipes
(tiny64 on 128 digits, eight steps in two epochs); and networks as after training."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # proofs and benchmarks are no part of the installed package
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import pytest
import torch
from jsonargparse import Namespace
from torch import nn

from nastricks.recipe import resolve
from nastricks.rng import generator
from nastricks.run import Run, build
from nastricks.spaces import Network
from nastricks.spaces.elastic_layers import is_transform

torch.set_num_threads(1)

BASE = ("recipes/spaces/tiny64.yaml", "recipes/data/digits.yaml")
STACKS = {
    "spos": (*BASE, "recipes/algorithms/spos.yaml"),
    "darts": (*BASE, "recipes/algorithms/darts.yaml"),
    "child": (*BASE, "recipes/child/tiny64.yaml"),
    "sandwich": ("recipes/spaces/elastic.yaml", BASE[1], "recipes/algorithms/spos.yaml"),  # for tricks of sizes
}
SMALL = {
    "data.init_args.train_size": 128,
    "data.init_args.search_size": 96,
    "data.init_args.validation_size": 64,
    "data.init_args.batch_size": 32,
    "trainer.accelerator": "cpu",
    "trainer.max_epochs": 2,
}
OWN: dict[str, dict[str, Any]] = {
    "sandwich": {
        "data.init_args.train_size": 64,
        "data.init_args.batch_size": 16,
        "model.init_args.policy": "nastricks.policies.Sandwich",
    }
}

Make = Callable[..., Run]


@pytest.fixture(autouse=True)
def _draws_of_its_own() -> None:
    """What a test draws from torch's own generator depends on no test that ran before it on the same worker."""
    torch.manual_seed(0)


@cache
def small(stack: str, trick: str | None = None, arguments: tuple[tuple[str, Any], ...] = ()) -> Namespace:
    """The configuration of a small run, with one trick or none."""
    overrides = [part for key, value in {**SMALL, **OWN.get(stack, {})}.items() for part in (f"--{key}", str(value))]
    overrides += [part for key, value in arguments for part in (f"--tricks.{trick}.{key}", str(value))]
    if trick is not None and not arguments:
        overrides += [f"--tricks.{trick}", "{}"]
    return resolve(STACKS[stack], overrides)


@pytest.fixture(scope="session")
def configure() -> Callable[..., Namespace]:
    """``configure(stack, {trick: arguments}, {key: value})`` -> a configuration."""

    def make(
        stack: str, tricks: Mapping[str, Mapping[str, Any]] | None = None, changes: Mapping[str, Any] | None = None
    ) -> Namespace:
        config = small(stack).clone()
        for name, arguments in (tricks or {}).items():
            config.tricks[name] = small(stack, name, tuple(sorted(arguments.items()))).tricks[name].clone()
        for key, value in (changes or {}).items():
            config[key] = value
        return config

    return make


@pytest.fixture(scope="session")
def make(configure: Callable[..., Namespace]) -> Make:
    """``make(stack, {trick: arguments}, {key: value}, out)`` -> a run that has not started."""

    def built(
        stack: str,
        tricks: Mapping[str, Mapping[str, Any]] | None = None,
        changes: Mapping[str, Any] | None = None,
        out: Path | None = None,
    ) -> Run:
        return build(configure(stack, tricks, changes), out, quiet=True)

    return built


@pytest.fixture(scope="session")
def worn() -> Callable[..., Network]:
    """``worn(network, *key)``: the network with random batch norms, and random matrices of learned kernels."""

    def wear(network: Network, *key: object) -> Network:
        rng = generator(*key)
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                if is_transform(name):
                    parameter.normal_(generator=rng)
            for module in network.modules():
                if isinstance(module, nn.BatchNorm2d):
                    assert module.running_mean is not None
                    assert module.running_var is not None
                    module.running_mean.normal_(generator=rng)
                    module.running_var.uniform_(0.5, 2.0, generator=rng)
                    if module.affine:
                        module.weight.uniform_(0.5, 1.5, generator=rng)
                        module.bias.normal_(generator=rng)
        return network

    return wear
