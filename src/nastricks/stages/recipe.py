"""What a file of stages says: the stages in order, each a stack of recipe files and what it takes from which other.

stages:
  search:
    stack: [recipes/spaces/darts.yaml, …]
    set: {trainer.max_epochs: 25}
  deeper:
    stack: […]
    options_of: search    # each choice keeps the strongest options of that stage's policy,
    keep: 5               # this many
  tuned:
    stack: […]
    weights_of: search    # starts from its weights,
    policy_of: search     # and from its alpha
  child:
    stack: […, recipes/tricks/distillation.yaml]
    architecture_of: deeper
    teacher_of: tuned     # learns that stage's network's outputs too
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace

from nastricks.errors import InputError, unknown
from nastricks.recipe import KEYS, dump, read_yaml, resolve

LINKS = {
    "architecture_of": "model.init_args.architecture",
    "weights_of": "model.init_args.weights",
    "policy_of": "model.init_args.policy_weights",
    "options_of": "model.init_args.allowed",
    "teacher_of": "tricks.distillation.teacher",
}
"""Key of a stage -> the key of its recipe that is filled from the stage named."""


@dataclass(frozen=True)
class Stage:
    """One fit.

    `overrides` are keys of its recipe, ``--a.b=value``; `links` say which earlier stage each of `LINKS` is taken from;
    `keep` goes with `options_of`.
    """

    name: str
    stack: tuple[str, ...]
    overrides: tuple[str, ...] = ()
    links: Mapping[str, str] = field(default_factory=dict)
    keep: int | None = None

    @property
    def derives(self) -> bool:
        """Whether it searches; the others train a child that an earlier one derived."""
        return "architecture_of" not in self.links

    def with_keys(self, keys: Mapping[str, Any]) -> "Stage":
        """The same stage with more keys of its recipe on top."""
        return replace(self, overrides=(*self.overrides, *overrides_of(keys)))

    def config(self, taken: Sequence[str] = ()) -> Namespace:
        """The resolved configuration, with what was `taken` from earlier stages on top."""
        return resolve(self.stack, [*self.overrides, *taken])


@dataclass(frozen=True)
class Stages:
    """A file of stages as it is written."""

    name: str
    stages: tuple[Stage, ...]

    @cached_property
    def text(self) -> str:
        """All that the stages depend on, as a mapping from each to its resolved recipe and its links."""
        parts = {s.name: {**yaml.safe_load(dump(s.config())), **s.links, "keep": s.keep} for s in self.stages}
        return yaml.safe_dump(parts, sort_keys=False)

    @property
    def searches(self) -> tuple[Stage, ...]:
        """The stages that search."""
        return tuple(stage for stage in self.stages if stage.derives)

    def changed(self, stack: Sequence[str], overrides: Sequence[str], tricks: Sequence[str]) -> "Stages":
        """The same stages with files and keys on top of every one, and tricks on top of those that derive.

        A key that begins with a stage's name is for that stage alone: ``--search.trainer.max_epochs=3``.
        """
        names = {stage.name for stage in self.stages}
        changed = []
        for stage in self.stages:
            own = []
            for override in overrides:
                first, _, rest = override.removeprefix("--").partition(".")
                if first == stage.name:
                    own.append(f"--{rest}")
                elif first not in names:
                    own.append(override)
            own += tricks if stage.derives else ()
            changed.append(replace(stage, stack=(*stage.stack, *stack), overrides=(*stage.overrides, *own)))
        return replace(self, stages=tuple(changed))


def overrides_of(keys: Mapping[str, Any]) -> list[str]:
    """Dotted keys as arguments of a recipe."""
    return [f"--{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in keys.items()]


def read_stages(file: str | Path) -> Stages:
    """The stages of a file.

    Raises:
        InputError: an unknown key, a stage without a stack, one that takes something from none before it, or a `keep`
            that cannot be.
    """
    content = read_yaml(file)
    for key in content:
        if key not in ("name", "description", "stages"):
            raise unknown(f"key of {file}", key, ("name", "description", "stages"))
    written = content.get("stages")
    if not isinstance(written, dict) or not written:
        raise InputError(f"{file} has no stages: expected stages, each with a stack of recipe files")
    stages: list[Stage] = []
    for name, settings in written.items():
        if str(name) in KEYS or "." in str(name):
            raise InputError(f"{file} calls a stage {name!r}: expected a name that is no key of a recipe, without dots")
        stages.append(_stage(str(name), settings, [stage.name for stage in stages], str(file)))
    return Stages(str(content.get("name") or Path(file).stem), tuple(stages))


def _stage(name: str, settings: Any, before: Sequence[str], file: str) -> Stage:
    if not isinstance(settings, dict) or not settings.get("stack"):
        raise InputError(f"stage {name} of {file} lacks a stack of recipe files")
    for key in settings:
        if key not in ("stack", "set", "keep", *LINKS):
            raise unknown(f"key of stage {name} in {file}", key, ("stack", "set", "keep", *LINKS))
    links = {key: str(settings[key]) for key in LINKS if key in settings}
    for key, earlier in links.items():
        if earlier not in before:
            raise InputError(f"stage {name} of {file} takes {key} {earlier!r}, which is no earlier stage")
    keep = settings.get("keep")
    if (keep is None) == ("options_of" in links):
        raise InputError(f"stage {name} of {file} names one of options_of and keep: they go together, give both")
    if keep is not None and (not isinstance(keep, int) or isinstance(keep, bool) or keep < 1):
        raise InputError(f"keep of stage {name} in {file} is {keep!r}: expected a number of options, at least 1")
    return Stage(name, tuple(settings["stack"]), tuple(overrides_of(settings.get("set") or {})), links, keep)
