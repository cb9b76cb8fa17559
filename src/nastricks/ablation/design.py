"""What an ablation's YAML says: arms from lists and designs, pairings, seeds, metrics."""

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nastricks.ablation.questions import Question, check_questions, read_questions
from nastricks.errors import InputError, unknown
from nastricks.modules.registry import tricks as all_tricks
from nastricks.recipe import read_yaml

BASE = "base"
KEYS = (
    "name", "description", "stack", "set", "tricks", "design", "arms", "interactions", "seeds", "metrics", "table",
    "children", "threads", "truth_arm", "stages", "questions",
)  # fmt: skip
DESIGNS = ("add_one", "leave_one_out", "cumulative", "factorial", "crossed")
DEFAULT_METRICS = {"gt_tau": "max", "gt_tau_by_loss": "max", "p_at_10": "max", "derived_accuracy": "max"}
MOST_FACTORS = 6


@dataclass(frozen=True)
class Arm:
    """One setting: recipe files, tricks (name -> settings, None to drop) and dotted keys on top of the base.

    `against` is the arm that it is judged against. `stages` is a file of stages to run in place of the base stack;
    files and keys then come on top of every stage, tricks on top of those that search.
    """

    tricks: Mapping[str, Any] = field(default_factory=dict)
    stack: tuple[str, ...] = ()
    set: Mapping[str, Any] = field(default_factory=dict)
    against: str = BASE
    stages: str | None = None

    def with_tricks(self, tricks: Mapping[str, Any]) -> "Arm":
        return replace(self, tricks={**self.tricks, **tricks})


@dataclass(frozen=True)
class Design:
    """An ablation as it is written.

    `interactions` are (name, first, second, both): arms whose difference of differences is judged.
    """

    name: str
    description: str
    stack: tuple[str, ...]
    set: Mapping[str, Any]
    arms: Mapping[str, Arm]
    interactions: tuple[tuple[str, str, str, str], ...]
    seeds: tuple[int, ...]
    metrics: Mapping[str, str]
    table: str | None
    children: str
    truth_arm: str | None = None
    stages: str | None = None
    left_out: tuple[str, ...] = ()
    questions: Mapping[str, Any] = field(default_factory=dict)

    @property
    def asked(self) -> list[Question]:
        """What the trials are to answer beyond the effects of the arms."""
        return read_questions(self.questions, next(iter(self.metrics)))

    @property
    def against(self) -> dict[str, str]:
        """Arm -> the arm that it is judged against, for those that are not judged against base."""
        return {name: arm.against for name, arm in self.arms.items() if arm.against != BASE}

    def without(self, arms: Iterable[str]) -> "Design":
        """The same ablation without some arms.

        Raises:
            InputError: an arm that is not there, or on which another part of the ablation rests.
        """
        left_out = tuple(arms)
        for name in left_out:
            if name not in self.arms:
                raise unknown(f"arm of {self.name}:", name, self.arms)
        kept = {name: arm for name, arm in self.arms.items() if name not in left_out}
        named = {BASE, *(arm.against for arm in kept.values()), self.truth_arm}
        for name in left_out:
            if name in named or any(name in interaction[1:] for interaction in self.interactions):
                raise InputError(f"arm {name} of {self.name} cannot be left out: others are judged against it")
        return replace(self, arms=kept, left_out=left_out)


def read_design(file: str | Path) -> Design:
    """An ablation from its YAML file.

    Raises:
        InputError: an unknown key, design, trick or arm, or a value that cannot be.
    """
    content = read_yaml(file)
    for key in content:
        if key not in KEYS:
            raise unknown(f"key of {file}", key, KEYS)
    if not content.get("seeds") or not (content.get("stack") or content.get("stages")):
        key = "seeds" if not content.get("seeds") else "stack"
        raise InputError(f"{file} lacks {key}: an ablation names a stack of recipe files (or stages) and seeds")
    if content.get("stack") and content.get("stages"):
        raise InputError(f"{file} names both a stack and stages: the base runs one of them, leave the other out")
    arms, interactions = _arms(content, str(file))
    metrics = content.get("metrics") or DEFAULT_METRICS
    for metric, direction in metrics.items():
        if direction not in ("max", "min"):
            raise InputError(f"metric {metric} of {file} is {direction!r}: expected max or min, the better direction")
    questions = content.get("questions") or {}
    check_questions(read_questions(questions, next(iter(metrics)), str(file)), arms, metrics, str(file))
    return Design(
        name=str(content.get("name") or Path(file).stem),
        description=" ".join(str(content.get("description", "")).split()),
        stack=tuple(_strings(content.get("stack") or [], f"stack of {file}")),
        set=_flat(content.get("set") or {}),
        arms=arms,
        interactions=interactions,
        seeds=_seeds(content["seeds"], str(file)),
        metrics=dict(metrics),
        table=content.get("table"),
        children=str(content.get("children", "all")),
        truth_arm=_truth_arm(content, arms, str(file)),
        stages=content.get("stages"),
        questions=questions,
    )


def _truth_arm(content: Mapping[str, Any], arms: Mapping[str, Arm], file: str) -> str | None:
    named = content.get("truth_arm")
    if named is None:
        return None
    if named not in arms:
        raise unknown(f"truth_arm of {file}:", str(named), arms)
    if not str(content.get("children", "all")).isdigit():
        raise InputError(f"{file} names a truth_arm: say under children how many children every arm trains, such as 24")
    if len(_seeds(content["seeds"], file)) < 2:
        raise InputError(
            f"{file} names a truth_arm and one seed: rankings are judged by the arm's other seeds, give two"
        )
    return str(named)


def _strings(value: Any, what: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise InputError(f"{what} is {value!r}: expected a list of file names")
    return value


def _seeds(value: Any, file: str) -> tuple[int, ...]:
    """A list of seeds, or how many: 0, 1, 2, …"""
    seeds = list(range(value)) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(seeds, list) or not seeds or not all(isinstance(s, int) and s >= 0 for s in seeds):
        raise InputError(f"seeds of {file} is {value!r}: expected a number above 0, or a list of integers from 0")
    if len(set(seeds)) != len(seeds):
        raise InputError(f"seeds of {file} names a seed twice: {seeds}")
    return tuple(seeds)


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys as dotted ones; values that name a class are taken whole."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and "class_path" not in value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _tricks(value: Any, what: str) -> dict[str, Any]:
    """Trick -> settings; a list of names takes each with its recipe's settings (`{}`)."""
    settings = {name: {} for name in value} if isinstance(value, list) else value
    if not isinstance(settings, Mapping):
        raise InputError(f"{what} is {value!r}: expected names of tricks, with their settings where they differ")
    for name, arguments in settings.items():
        if name not in all_tricks():
            raise unknown("trick", str(name), all_tricks())
        if not (arguments is None or isinstance(arguments, Mapping)):
            raise InputError(f"{what} sets {name} to {arguments!r}: expected its settings, or null to drop it")
    return dict(settings)


def _arm(value: Any, what: str) -> Arm:
    """An arm: tricks alone, or a mapping with any of tricks, stack, set, against and stages."""
    if isinstance(value, Mapping) and set(value) <= {"tricks", "stack", "set", "against", "stages"} and value:
        return Arm(
            _tricks(value.get("tricks") or {}, f"tricks of {what}"),
            tuple(_strings(value.get("stack") or [], f"stack of {what}")),
            _flat(value.get("set") or {}),
            str(value.get("against", BASE)),
            value.get("stages"),
        )
    return Arm(_tricks(value or {}, what))


def _arms(content: Mapping[str, Any], file: str) -> tuple[dict[str, Arm], tuple[tuple[str, str, str, str], ...]]:
    common = _tricks(content.get("tricks") or {}, f"tricks of {file}")
    arms: dict[str, Arm] = {BASE: Arm(common)}
    interactions: list[tuple[str, str, str, str]] = []
    design = content.get("design")
    if design is not None:
        made, interactions = _designed(design, common, file)
        arms |= made
    for name, value in (content.get("arms") or {}).items():
        if name in arms and name != BASE:
            raise InputError(f"{file} names the arm {name} twice: once by its design, once under arms")
        arm = _arm(value, f"arm {name} of {file}")
        arms[str(name)] = replace(arm, tricks={**common, **arm.tricks})
    for quadruple in content.get("interactions") or []:
        if not isinstance(quadruple, list) or len(quadruple) != 3:
            raise InputError(f"interactions of {file} holds {quadruple!r}: expected [first arm, second arm, both]")
        for arm in quadruple:
            if arm not in arms:
                raise unknown(f"arm in interactions of {file}:", str(arm), arms)
        interactions.append((f"{quadruple[0]} x {quadruple[1]}", *quadruple))
    for name, arm in arms.items():
        if arm.against not in arms:
            raise unknown(f"arm that {name} of {file} is judged against:", arm.against, arms)
        if arm.against == name and name != BASE:
            raise InputError(f"arm {name} of {file} is judged against itself: name another, or leave `against` out")
    if len(arms) < 2:
        raise InputError(f"{file} has no arm beside {BASE}: give a design or arms")
    return arms, tuple(interactions)


def _designed(
    design: Any, common: Mapping[str, Any], file: str
) -> tuple[dict[str, Arm], list[tuple[str, str, str, str]]]:
    if not isinstance(design, Mapping) or "kind" not in design or "tricks" not in design:
        raise InputError(f"design of {file} is {design!r}: expected kind and tricks (and modifier where crossed)")
    kind = design["kind"]
    if kind not in DESIGNS:
        raise unknown("design", str(kind), DESIGNS)
    for key in design:
        if key not in ("kind", "tricks", "modifier"):
            raise unknown(f"key of design in {file}", str(key), ("kind", "tricks", "modifier"))
    tricks = _tricks(design["tricks"], f"design.tricks of {file}")
    if not tricks:
        raise InputError(f"design.tricks of {file} is empty: name at least one trick")
    if (kind == "crossed") != ("modifier" in design):
        raise InputError(f"design of {file} is {kind}: modifier goes with crossed, and crossed needs one")
    base = Arm(common)
    if kind == "crossed":
        return _crossed(base, tricks, _tricks(design["modifier"], f"design.modifier of {file}"), file)
    if kind == "factorial":
        return _factorial(base, tricks, file)
    if kind == "add_one":
        return {name: base.with_tricks({name: settings}) for name, settings in tricks.items()}, []
    if kind == "leave_one_out":
        whole = base.with_tricks(tricks)
        return {BASE: whole, **{f"without_{name}": whole.with_tricks({name: None}) for name in tricks}}, []
    names = list(tricks)
    return {
        "+".join(names[:n]): base.with_tricks({t: tricks[t] for t in names[:n]}) for n in range(1, len(names) + 1)
    }, []


def _crossed(
    base: Arm, tricks: Mapping[str, Any], modifier: Mapping[str, Any], file: str
) -> tuple[dict[str, Arm], list[tuple[str, str, str, str]]]:
    if len(modifier) != 1 or set(modifier) & set(tricks):
        raise InputError(f"design.modifier of {file} is {dict(modifier)}: expected one trick that is not among tricks")
    (name,) = modifier
    arms = {name: base.with_tricks(modifier)}
    arms |= {trick: base.with_tricks({trick: settings}) for trick, settings in tricks.items()}
    arms |= {f"{t}+{name}": base.with_tricks({t: settings, **modifier}) for t, settings in tricks.items()}
    return arms, [(f"{trick} x {name}", trick, name, f"{trick}+{name}") for trick in tricks]


def _factorial(
    base: Arm, tricks: Mapping[str, Any], file: str
) -> tuple[dict[str, Arm], list[tuple[str, str, str, str]]]:
    if not 2 <= len(tricks) <= MOST_FACTORS:
        raise InputError(f"design.tricks of {file} names {len(tricks)}: a factorial takes 2 to {MOST_FACTORS} tricks")
    arms: dict[str, Arm] = {}
    for chosen in _subsets(tricks):
        arms["+".join(chosen)] = base.with_tricks({t: tricks[t] for t in chosen})
    pairs = itertools.combinations(tricks, 2)
    return arms, [(f"{a} x {b}", a, b, f"{a}+{b}") for a, b in pairs]


def _subsets(names: Iterable[str]) -> Iterable[tuple[str, ...]]:
    """All non-empty subsets, small ones first, in the order of the names."""
    kept = list(names)
    return itertools.chain.from_iterable(itertools.combinations(kept, n) for n in range(1, len(kept) + 1))
