"""Which network of a trained run teaches another one, and whether it can."""

from nastricks.errors import InputError
from nastricks.modules.training import TrainingModule
from nastricks.spaces import Gates


def check_teacher(teacher: TrainingModule, student: TrainingModule, name: str) -> None:
    """Refuse a teacher that cannot tell the student anything; `name` says in the sentence which it is.

    Raises:
        InputError: it knows other classes, or reads images with other channels.
    """
    own, other = student.spec, teacher.spec
    if other.classes != own.classes:
        raise InputError(
            f"the teacher {name} knows {other.classes} classes and the data have {own.classes}: take one that was "
            "trained on data with the same classes"
        )
    if other.channels != own.channels:
        raise InputError(
            f"the teacher {name} reads images of {other.channels} channels and the data have {own.channels}: take one "
            "that was trained on such images"
        )


def teacher_gates(teacher: TrainingModule, architecture: str | None, name: str) -> Gates:
    """The gates under which a trained network teaches: of the architecture named, or of the largest it holds.

    Raises:
        InputError: no architecture of its space or not held, or none is named and no child is the largest.
    """
    space, allowed = teacher.space, teacher.policy.allowed
    if architecture is not None:
        found, held = space.parse(architecture), teacher.policy.derivable
        if any(index not in held[choice.name] for choice, index in zip(space.choices, found, strict=True)):
            raise InputError(f"the teacher {name} does not hold {architecture}: name one of its options")
        return space.gates(found)
    if any(choice.kind != "nested" and len(allowed[choice.name]) > 1 for choice in space.choices):
        raise InputError(
            f"the teacher {name} is a supernet of {space.name}, of which no child is the largest: say which teaches, "
            "with distillation.architecture"
        )
    return space.gates(tuple(allowed[choice.name][-1] for choice in space.choices))
