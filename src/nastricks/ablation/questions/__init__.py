"""Questions of an ablation: read from its YAML, answered from its folder."""

import dataclasses
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from nastricks.ablation.evidence import Evidence
from nastricks.ablation.questions.agreement import Agreement
from nastricks.ablation.questions.base import OUTCOMES, Answered, Question
from nastricks.ablation.questions.comparison import Compare
from nastricks.ablation.questions.favours import Favours
from nastricks.ablation.questions.fine_tuning import FineTuning
from nastricks.ablation.questions.interference import Interference
from nastricks.ablation.questions.over_time import OverTime
from nastricks.ablation.questions.stability import Stability
from nastricks.errors import InputError, unknown
from nastricks.files import write_csv
from nastricks.shapes import fits, words

KINDS: Mapping[str, type[Question]] = {
    kind.kind: kind for kind in (Agreement, Compare, Favours, FineTuning, Interference, OverTime, Stability)
}

__all__ = ["KINDS", "Answered", "Question", "answered", "check_questions", "read_questions", "write_answers"]


def read_questions(content: Mapping[str, Any], primary: str, what: str = "questions") -> list[Question]:
    """Questions from their YAML; `metric` is the ablation's `primary` one where a question names none.

    Raises:
        InputError: an unknown kind or key, a missing one, or a value that cannot be.
    """
    if not isinstance(content, Mapping):
        raise InputError(f"{what} is {content!r}: expected a question a name, each with kind and asks")
    return [_read(str(name), value, primary, what) for name, value in content.items()]


def _read(name: str, value: Any, primary: str, what: str) -> Question:
    if not isinstance(value, Mapping) or "kind" not in value or "asks" not in value:
        raise InputError(f"question {name} of {what} is {value!r}: expected a kind, what it asks, and the kind's keys")
    if str(value["kind"]) not in KINDS:
        raise unknown(f"kind of question {name} of {what}:", str(value["kind"]), KINDS)
    kind = KINDS[str(value["kind"])]
    fields = {f.name: f for f in dataclasses.fields(kind) if f.name != "name"}
    given = {str(key): item for key, item in value.items() if key != "kind"}
    for key in given:
        if key not in fields:
            raise unknown(f"key of question {name} of {what}:", key, fields)
    for key, f in fields.items():
        needed = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        if needed and key not in given and key != "metric":
            raise InputError(f"question {name} of {what} lacks {key}: a question of kind {kind.kind} needs it")
    if given.get("published") and not kind.shows_published:
        raise InputError(
            f"question {name} of {what} has published figures of arms, which a question of kind {kind.kind} does not "
            "show: leave them out, or ask with kind compare"
        )
    given |= {key: " ".join(str(given[key]).split()) for key in ("asks", "note", "source") if key in given}
    for key, item in given.items():
        if not fits(item, fields[key].type):
            raise InputError(
                f"{key} of question {name} of {what} is {item!r}: expected {words(fields[key].type)}, as in "
                "recipes/ablations/weight_sharing.yaml"
            )
    answers = given.get("answers", {})
    if answers and set(answers) != set(OUTCOMES):
        told = ", ".join(map(str, answers))
        raise InputError(f"answers of question {name} of {what} are {told}: expected {', '.join(OUTCOMES)}")
    return kind(name=name, **{"metric": primary, **given})


def check_questions(
    questions: Collection[Question], arms: Collection[str], metrics: Collection[str], file: str
) -> None:
    """Refuse questions about arms and metrics that the ablation does not have.

    Raises:
        InputError: such a question.
    """
    for question in questions:
        for arm in [*question.arms(), *question.published]:
            if arm not in arms:
                raise unknown(f"arm in question {question.name} of {file}:", str(arm), arms)
        if question.metric not in metrics:
            raise unknown(f"metric in question {question.name} of {file}:", question.metric, metrics)


def answered(evidence: Evidence) -> list[tuple[Question, Answered]]:
    """Every question of an ablation with its answer so far."""
    questions = read_questions(evidence.config.get("questions") or {}, evidence.primary)
    return [(question, question.answer(evidence)) for question in questions]


def write_answers(found: Collection[tuple[Question, Answered]], folder: Path) -> list[str]:
    """Write every table into ``questions/``; a sentence a question, the first line of its answer."""
    for question, answer in found:
        for number, table in enumerate(answer.tables.values()):
            write_csv(folder / "questions" / f"{question.name}{f'_{number + 1}' if number else ''}.csv", table)
    return [f"{question.asks} {answer.lines[0]}" for question, answer in found]
