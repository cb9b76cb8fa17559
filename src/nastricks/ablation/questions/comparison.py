"""`compare`: do some arms do better than others, and does a metric rise along a row of arms?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from nastricks.ablation.evidence import Evidence
from nastricks.ablation.questions.base import Answered, Interval, Question, over_seeds, rows_of, values_of
from nastricks.ablation.questions.figures import dots, lines
from nastricks.ablation.statistics import CLAIMS, comparisons
from nastricks.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Compare(Question):
    """Pairs of arms with the same seeds, and lines of arms over growing values of one setting.

    Args:
        pairs: (one, other): one minus other is judged, with Holm's correction over the pairs of the question.
        interactions: (pair, pair): by how much the difference of the first exceeds that of the second.
        lines: Name -> {value: arm} in the order in which they are drawn.
        x: What the values are.
        decides: What the answer rests on: the mean over all `pairs`, the name of one of them ("one against other"), the
            first of the `interactions`, or the name of a line, whose slope from one value to the next it then is.
    """

    kind = "compare"
    shows_published = True
    pairs: Sequence[tuple[str, str]] = ()
    interactions: Sequence[tuple[tuple[str, str], tuple[str, str]]] = ()
    lines: Mapping[str, Mapping[Any, str]] = field(default_factory=dict)
    x: str = ""
    decides: str = "pairs"

    def __post_init__(self) -> None:
        if not self.pairs and not self.lines:
            raise InputError(f"question {self.name} compares nothing: give pairs, or lines of arms")
        known = [*(["pairs"] if self.pairs else []), *map(_named, self.pairs), *self.lines]
        known += ["interactions"] if self.interactions else []
        if self.decides not in known and self.answers:
            raise InputError(f"question {self.name} decides by {self.decides!r}: expected one of {', '.join(known)}")

    def arms(self) -> list[str]:
        drawn = [arm for line in self.lines.values() for arm in line.values()]
        paired = [arm for pair in self.pairs for arm in pair]
        crossed = [arm for pairs in self.interactions for pair in pairs for arm in pair]
        return list(dict.fromkeys([*drawn, *paired, *crossed]))

    def find(self, evidence: Evidence) -> Answered | None:
        found = {arm: over_seeds(values_of(evidence, arm, self.metric)) for arm in self.arms()}
        found = {arm: interval for arm, interval in found.items() if interval.n}
        if not found:
            return None
        table = rows_of(found)
        if self.published:
            table["published"] = [self.published.get(arm, np.nan) for arm in table["arm"]]
        tables = {f"{self.metric} of each arm, 95 % interval over seeds": table}
        said, slopes = [], {}
        pairs = [pair for pair in self.pairs if set(pair) <= set(found)]
        judged = self._judged(evidence, pairs)
        if len(judged):
            tables["differences, same seeds, Holm over these pairs"] = judged
            said.append(_verdicts(judged, self.metric))
        average = self._average(evidence, pairs)
        if len(pairs) > 1 and self.decides == "pairs":
            said.append(f"Mean over the {len(pairs)} pairs: {average.told(signed=True)}.")
        for name, arms in self.lines.items():
            present = {value: arm for value, arm in arms.items() if arm in found}
            if len(present) > 2:
                slopes[name] = self._slope(evidence, list(present.values()))
                steps = f"{next(iter(present))} to {list(present)[-1]}"
                told = slopes[name].told(signed=True)
                said.append(
                    f"{name}: {self.metric} changes by {told} from one value to the next ({self.x} {steps}); "
                    f"{self._turn(evidence, present, found)}."
                )
        crossed = {
            f"{_named(one)}, beyond {_named(other)}": self._average(evidence, [one], [other])
            for one, other in self.interactions
            if {*one, *other} <= set(found)
        }
        if crossed:
            tables["differences of differences, same seeds"] = rows_of(crossed, "what")
            said.append("; ".join(f"{name}: {interval.told(signed=True)}" for name, interval in crossed.items()) + ".")
        named = {_named(pair): self._average(evidence, [pair]) for pair in pairs}
        first = {"interactions": next(iter(crossed.values()))} if crossed else {}
        deciding = {"pairs": average, **first, **named, **slopes}.get(self.decides)
        return Answered(said, tables, self._figures(evidence, found), deciding if deciding and deciding.n else None)

    def _judged(self, evidence: Evidence, pairs: Sequence[tuple[str, str]]) -> pd.DataFrame:
        if not pairs:
            return pd.DataFrame()
        direction = evidence.metrics.get(self.metric, "max")
        table = comparisons(evidence.results, {self.metric: direction}, pairs)
        columns = ["arm", "difference", "ci_low", "ci_high", "n", "p", "p_holm", "seconds_ratio", "verdict"]
        return table[columns].rename(columns={"arm": "pair", "ci_low": "low", "ci_high": "high"})

    def _average(
        self, evidence: Evidence, pairs: Sequence[tuple[str, str]], less: Sequence[tuple[str, str]] = ()
    ) -> Interval:
        """The mean difference over pairs, `less` that of others, over the seeds that all of them have."""
        own = [values_of(evidence, a, self.metric) - values_of(evidence, b, self.metric) for a, b in (*pairs, *less)]
        if not own:
            return over_seeds([])
        grid = pd.concat(own, axis=1).dropna().to_numpy()
        mean = grid[:, : len(pairs)].mean(axis=1)
        return over_seeds(mean - grid[:, len(pairs) :].mean(axis=1) if less else mean)

    def _slope(self, evidence: Evidence, arms: Sequence[str]) -> Interval:
        """The least-squares slope a step along the arms, each seed its own."""
        grid = pd.concat([values_of(evidence, arm, self.metric) for arm in arms], axis=1).dropna().to_numpy()
        steps = np.arange(len(arms)) - (len(arms) - 1) / 2
        return over_seeds(grid @ steps / (steps @ steps) if len(grid) else [])

    def _turn(self, evidence: Evidence, line: Mapping[Any, str], found: Mapping[str, Interval]) -> str:
        """Where a line is at its best, and how far its last value lies from there: a slope alone hides a turn."""
        most = evidence.metrics.get(self.metric, "max") == "max"
        best = (max if most else min)(line, key=lambda value: found[line[value]].mean)
        word, last = "highest" if most else "lowest", next(reversed(line))
        if best == last:
            return f"it is {word} at the last, {last}: {found[line[last]].told()}"
        since = self._average(evidence, [(line[last], line[best])])
        return (
            f"it is {word} at {best}, {found[line[best]].told()}, and changes by {since.told(signed=True)} up to {last}"
        )

    def _figures(self, evidence: Evidence, found: Mapping[str, Interval]) -> dict[str, Any]:
        scale = evidence.scale(self.metric)
        drawn = {
            name: {str(value): found[arm] for value, arm in arms.items() if arm in found}
            for name, arms in self.lines.items()
        }
        figures: dict[str, Any] = {}
        if any(drawn.values()):
            told = {
                f"{name}, published": {str(v): self.published[arm] for v, arm in arms.items() if arm in self.published}
                for name, arms in self.lines.items()
            }
            figures["lines"] = lines(drawn, self.metric, self.x, scale, {n: p for n, p in told.items() if p})
        figures["arms"] = dots(rows_of(found), self.metric, scale)
        return figures


def _named(pair: Sequence[str]) -> str:
    return f"{pair[0]} against {pair[1]}"


def _verdicts(judged: pd.DataFrame, metric: str) -> str:
    """All pairs in words, those that are claimed first."""
    parts = []
    for claim in (*CLAIMS, "no evidence", "too few seeds"):
        rows = judged[judged["verdict"] == claim]
        for _, row in rows.iterrows():
            interval = Interval(row["difference"], row["low"], row["high"], int(row["n"]))
            parts.append(f"{row['pair']} {claim if claim in CLAIMS else f'({claim})'} {interval.told(signed=True)}")
    return f"{metric}: {'; '.join(parts)}."
