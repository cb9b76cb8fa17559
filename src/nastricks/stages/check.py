"""Refuses stages that cannot run, before the first of them trains."""

from dataclasses import dataclass

from nastricks.errors import InputError
from nastricks.modules import ChildModule, SupernetModule
from nastricks.modules.shared_weights import load_shared_weights
from nastricks.modules.teacher import check_teacher, teacher_gates
from nastricks.rng import generator
from nastricks.run import Run, build
from nastricks.spaces import Network
from nastricks.stages.recipe import Stage, Stages

SAMPLES = 20


@dataclass(frozen=True)
class Checked:
    """A stage, built; `left` says how many options each choice will have."""

    run: Run
    left: dict[str, int]


def check_stages(stages: Stages) -> dict[str, Run]:
    """Build every stage, and see that it can take what it takes; the built stages by name.

    What an earlier stage decides is not known yet, so that stages are built with all options allowed.

    Raises:
        InputError: a stage cannot run, or cannot take what it names.
    """
    checked: dict[str, Checked] = {}
    for stage in stages.stages:
        try:
            run = build(stage.config(), None, quiet=True)
            run.check(prepared="teacher_of" not in stage.links)  # the teacher is not there yet
            left = {name: len(options) for name, options in run.module.policy.allowed.items()}
            for key, earlier in stage.links.items():
                left = _CHECKS[key](stage, run, checked[earlier], left)
        except InputError as error:
            raise InputError(f"stage {stage.name} of {stages.name}: {error}") from error
        checked[stage.name] = Checked(run, left)
    return {name: one.run for name, one in checked.items()}


def _architecture(stage: Stage, run: Run, earlier: Checked, left: dict[str, int]) -> dict[str, int]:
    if not isinstance(earlier.run.module, SupernetModule):
        raise InputError(f"architecture_of is {stage.links['architecture_of']}, which trains a child and derives none")
    if not isinstance(run.module, ChildModule):
        raise InputError("architecture_of is for a stage that trains a child: add a child recipe to its stack")
    searched, rng = earlier.run.module.space, generator(0, "architecture_of")
    for _ in range(SAMPLES):  # what one space writes the other must read; it may know more operations
        run.module.space.parse(searched.format(searched.sample(rng)))
    return left


def _weights(stage: Stage, run: Run, earlier: Checked, left: dict[str, int]) -> dict[str, int]:
    network = run.module.networks[0]
    assert isinstance(network, Network)
    if isinstance(earlier.run.module, SupernetModule):  # a child holds one architecture, and which is not known yet
        state = {f"networks.0.{name}": value for name, value in earlier.run.module.networks[0].state_dict().items()}
        load_shared_weights(network, state)
    return left


def _policy(stage: Stage, run: Run, earlier: Checked, left: dict[str, int]) -> dict[str, int]:
    for module in (earlier.run.module, run.module):
        if not isinstance(module, SupernetModule):
            raise InputError("policy_of is for supernets: a child has no policy that learns")
    own, other = (type(module.policy).__name__ for module in (run.module, earlier.run.module))
    if own != other:
        raise InputError(f"policy_of names a stage with the policy {other}, and this one's is {own}: take the same")
    _same_choices(run, earlier, "policy_of")
    return left


def _options(stage: Stage, run: Run, earlier: Checked, left: dict[str, int]) -> dict[str, int]:
    module, keep = earlier.run.module, stage.keep
    assert keep is not None, "options_of and keep go together"
    if not isinstance(module, SupernetModule) or not isinstance(run.module, SupernetModule):
        raise InputError("options_of is for supernets: a child has one option a choice")
    if not module.policy.preferences():
        raise InputError(
            f"options_of names a stage with the policy {type(module.policy).__name__}, which prefers no option to "
            "another: use an algorithm whose policy learns"
        )
    _same_choices(run, earlier, "options_of")
    most = max(earlier.left.values())
    if keep >= most:
        raise InputError(
            f"keep is {keep}, and no choice of stage {stage.links['options_of']} has more than {most} options: keep "
            "fewer, or leave options_of out"
        )
    if keep < 2 and any(option.absent for choice in module.space.choices for option in choice.options):
        raise InputError(f"keep is {keep}, and the option that is no connection always stays: keep at least 2")
    if run.config.model.init_args.get("allowed"):
        raise InputError("options_of says which options are allowed, and model.allowed does so too: leave one out")
    return {name: min(keep, count) for name, count in earlier.left.items()}


def _teacher(stage: Stage, run: Run, earlier: Checked, left: dict[str, int]) -> dict[str, int]:
    if "distillation" not in [trick.name for trick in run.tricks]:
        raise InputError("teacher_of is for the trick distillation: add recipes/tricks/distillation.yaml to the stack")
    name, trick = stage.links["teacher_of"], run.config.tricks.distillation
    check_teacher(earlier.run.module, run.module, name)
    teacher_gates(earlier.run.module, trick.get("init_args", trick).architecture, name)
    return left


def _same_choices(run: Run, earlier: Checked, key: str) -> None:
    own, other = run.module.space, earlier.run.module.space
    if [(c.name, [o.name for o in c.options]) for c in own.choices] != [
        (c.name, [o.name for o in c.options]) for c in other.choices
    ]:
        raise InputError(f"{key} names a stage on {other.name}, whose choices are not those of {own.name} here")


_CHECKS = {
    "architecture_of": _architecture,
    "weights_of": _weights,
    "policy_of": _policy,
    "options_of": _options,
    "teacher_of": _teacher,
}
