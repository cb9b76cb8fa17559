"""What each gradient-based algorithm finds on tiny64: docs/algorithms.md from a finished run of the ablation."""

import argparse
from pathlib import Path

import pandas as pd

from benchmarks.measure import machine
from nastricks.ablation.design import BASE
from nastricks.ablation.evidence import Evidence, read_evidence
from nastricks.errors import InputError
from nastricks.files import write_text
from proofs.questions import ACCURACY, named, questions

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "algorithms.md"
RANK = "derived_rank"


def main(given: argparse.Namespace) -> int:
    """Write the page."""
    if given.run is None:
        raise InputError("name the finished run: python -m proofs algorithms runs/algorithms")
    evidence = read_evidence(Path(given.run))
    for metric in (ACCURACY, RANK):
        if metric not in evidence.metrics:
            raise InputError(f"{given.run} does not measure {metric}: run recipes/ablations/algorithms.yaml")
    write_text(PAGE, page(evidence))
    print(PAGE)
    return 0


def page(evidence: Evidence) -> str:
    """The page in full."""
    done, scale = evidence.done, evidence.scale(ACCURACY)
    ranks, n = evidence.scale(RANK), len(evidence.seeds)
    minutes = float(done["seconds"].sum()) / 60
    lines = [
        "# What gradient-based search finds on tiny64",
        "",
        f"Made by `make algorithms`: every algorithm's recipe for `tiny64` on digits, as it ships, {n} paired seeds;",
        f"{minutes:.0f} minutes of one core in all. {machine()}.",
        "",
        "True accuracy and rank (1 is the best of 64) of the architecture that an algorithm derives, mean ± standard",
        "deviation over seeds. Difference: paired, against the arm named, 95 % interval; the verdict is after Holm's",
        "correction over all rows. Cost: the time of a trial, as a ratio to that arm's.",
        "",
        "| algorithm | true accuracy | rank | difference | cost | what was derived |",
        "|---|---|---|---|---|---|",
        *(_row(evidence, arm, done) for arm in evidence.arms),
        *(f"| *{label}* | {scale[label]:.3f} | {ranks[label]:.1f} | | | |" for label in scale if label in ranks),
        "",
        *_failures(done, evidence),
        *questions(evidence),
        "## The ablation's answer",
        "",
    ]
    return "\n".join([*lines, *evidence.answer, ""])


def _row(evidence: Evidence, arm: str, done: pd.DataFrame) -> str:
    rows = done[done["arm"] == arm]
    accuracy, rank = rows[ACCURACY], rows[RANK]
    effects = evidence.effects
    found = effects[(effects["arm"] == arm) & (effects["metric"] == ACCURACY)]
    told, cost = "", "1.00"
    if len(found):
        effect = found.iloc[0]
        against = (evidence.config.get("against") or {}).get(arm, BASE)
        told = f"{effect['difference']:+.3f} [{effect['ci_low']:+.3f}, {effect['ci_high']:+.3f}]"
        told += f" against {named(against)}, {effect['verdict']}"
        cost = f"{effect['seconds_ratio']:.2f}"
    derived = [str(t.result.get("derived")) for t in evidence.trials if t.arm == arm and t.result.get("derived")]
    names = ", ".join(f"{name} x{derived.count(name)}" for name in dict.fromkeys(derived))
    return (
        f"| {named(arm)} | {accuracy.mean():.3f} ± {accuracy.std():.3f} | {rank.mean():.1f} ± {rank.std():.1f} "
        f"| {told} | {cost} | {names} |"
    )


def _failures(done: pd.DataFrame, evidence: Evidence) -> list[str]:
    """Collapse to skips as it is: how many of the derived architectures hold two identities or more."""
    derived = pd.DataFrame(
        [(t.arm, str(t.result["derived"])) for t in evidence.trials if t.result.get("derived")], columns=["arm", "code"]
    )
    derived["skips"] = derived["code"].str.count("4")
    collapsed = derived[derived["skips"] >= 2].groupby("arm").size()
    counts = derived.groupby("arm").size()
    if collapsed.empty:
        return ["No algorithm derived an architecture with two skips or more (`4` is the identity).", ""]
    told = ", ".join(f"{named(arm)} {n} of {counts[arm]}" for arm, n in collapsed.items())
    return [f"Collapse to skips (two or more of the three layers are the identity, `4`): {told}.", ""]
