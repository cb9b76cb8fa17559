"""What a run of recipes/ablations/algorithms.yaml answers of the questions that the family's papers raise, in words."""

from collections.abc import Sequence

import pandas as pd
from scipy.stats import levene

from nastricks.ablation.design import BASE
from nastricks.ablation.evidence import Evidence

ACCURACY, LOST = "derived_accuracy", "discretisation_loss"


def questions(evidence: Evidence) -> list[str]:
    """A heading, and a paragraph a question; a question whose arms were left out is left out."""
    told = [
        _compared(
            evidence,
            "Does the architecture get worse with better gradients of alpha?",
            ACCURACY,
            ["darts_second_order", "exact_second_order", "implicit_gradient"],
        ),
        _compared(
            evidence,
            "What does each cure of the discretisation gap save? Accuracy lost on the validation split, supernet minus "
            "derived path (lower is better)",
            LOST,
            ["zero_one_loss", "fairdarts", "gdas", "goldnas", "cpnas", "perturbation_selection"],
        ),
        _compared(
            evidence,
            "And what does the cure bring, in true accuracy?",
            ACCURACY,
            ["zero_one_loss", "fairdarts", "gdas", "goldnas", "cpnas", "perturbation_selection", "darts_pt"],
        ),
        _stability(evidence, ["darts_plus", "rdarts"]),
        _compared(
            evidence,
            "Does one-level search need the harder augmentation?",
            ACCURACY,
            ["single_level", "single_level_harder_augmentation", "darts_harder_augmentation"],
        ),
        _collapse(evidence, ["hessian_penalty", "rdarts", "darts_minus", "sdarts_rs", "sdarts_adv", "weight_warmup"]),
    ]
    found = [paragraph for paragraph in told if paragraph]
    return ["## The questions", "", *(line for paragraph in found for line in (paragraph, ""))] if found else []


def _values(evidence: Evidence, arm: str, metric: str) -> pd.Series:
    rows = evidence.done[evidence.done["arm"] == arm]
    return rows[metric].dropna() if metric in rows else pd.Series(dtype=float)


def _compared(evidence: Evidence, question: str, metric: str, arms: Sequence[str]) -> str:
    """Means of the arms with their paired differences, intervals and verdicts."""
    if metric not in evidence.metrics:
        return ""
    sentences = []
    effects = evidence.effects[evidence.effects["metric"] == metric]
    against = evidence.config.get("against") or {}
    for arm in arms:
        values, effect = _values(evidence, arm, metric), effects[effects["arm"] == arm]
        if len(values) and len(effect):
            one = effect.iloc[0]
            sentences.append(
                f"`{arm}` {values.mean():.3f}, {one['difference']:+.3f} [{one['ci_low']:+.3f}, {one['ci_high']:+.3f}] "
                f"against {named(against.get(arm, BASE))}: {one['verdict']} (p {one['p_holm']:.2g} after Holm)"
            )
    base = _values(evidence, BASE, metric)
    start = f"`darts` {base.mean():.3f}. " if len(base) else ""
    return f"**{question}** {start}{'; '.join(sentences)}." if sentences else ""


def _stability(evidence: Evidence, arms: Sequence[str]) -> str:
    """The spread over seeds with an early stop beside that without one."""
    base = _values(evidence, BASE, ACCURACY)
    sentences = []
    for arm in arms:
        values = _values(evidence, arm, ACCURACY)
        if len(values) > 2 and len(base) > 2:
            p = float(levene(base, values, center="median").pvalue)
            sentences.append(f"`{arm}` {values.std():.3f} (p {p:.2g})")
    if not sentences:
        return ""
    return (
        "**Does early stopping make results more stable over seeds?** Standard deviation of the true accuracy: "
        f"`darts` {base.std():.3f}, {', '.join(sentences)}; p of the Brown-Forsythe test against `darts`, uncorrected."
    )


def _collapse(evidence: Evidence, arms: Sequence[str]) -> str:
    """How often a search ends below chance, with each cure of the collapse."""
    chance = evidence.scale(ACCURACY).get("chance")
    if chance is None:
        return ""
    counts = []
    for arm in [BASE, *arms]:
        values = _values(evidence, arm, ACCURACY)
        if len(values):
            counts.append(f"{named(arm)} {int((values < chance).sum())} of {len(values)} (lowest {values.min():.3f})")
    return (
        "**Does the Hessian penalty prevent the collapse that the Hessian stop detects?** Searches that end below "
        f"chance ({chance:.3f}): {', '.join(counts)}."
    )


def named(arm: str) -> str:
    """An arm's name in the page: that of its recipe."""
    return "`darts`" if arm == BASE else f"`{arm}`"
