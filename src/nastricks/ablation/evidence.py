"""What an ablation's folder holds: the design, the trials that have ended, their judgement. Reads, never writes."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from nastricks.errors import InputError

# The columns of effects.csv and interactions.csv.
JUDGED = ["arm", "metric", "n", "mean", "difference", "ci_low", "ci_high", "p", "p_holm", "p_exact"]
JUDGED += ["seconds_ratio", "seeds_needed", "verdict"]
TRIAL_COLUMNS = ["arm", "seed", "status", "seconds", "peak_memory_mb"]
# Columns of names: guessed types would make NaN of an arm called "null", and the number 12 of a child called "012".
NAMES = ("arm", "metric", "status", "verdict", "architecture", "trained", "series")


# What an arm's result is read beside, in the order in which it is told.
BASELINES = {"params": "parameters", "flops": "FLOPs", "chance": "chance", "best": "best of the table"}
NOISE_CEILING = "noise ceiling"


def scale(results: Sequence[Mapping[str, Any]], metric: str) -> dict[str, float]:
    """What a ranking without training reaches on `metric`, and the most that can be reached; means over the trials.

    The noise ceiling is the Kendall tau of a perfect ranking, so it stands beside GT-Tau alone; not beside its spread
    over mini-batches (GT-Tau-Std), which is not a tau. A count ranks by accuracy or by loss alike.
    """
    found: dict[str, list[float]] = {}
    named = metric.removesuffix("_by_loss")
    for result in results:
        for name, values in (result.get("baselines") or {}).items():
            if (values or {}).get(named) is not None:
                found.setdefault(str(name), []).append(float(values[named]))
    means = {label: float(pd.Series(found[name]).mean()) for name, label in BASELINES.items() if name in found}
    if metric.startswith("gt_tau") and "std" not in metric:
        known = [float(c) for result in results if (c := result.get("noise_ceiling")) is not None]
        means[NOISE_CEILING] = float(pd.Series(known, dtype=float).mean())
    return {label: mean for label, mean in means.items() if pd.notna(mean)}


@dataclass(frozen=True)
class Trial:
    """One arm with one seed; `ranking` and `curves` are None where the trial wrote none."""

    arm: str
    seed: int
    result: dict[str, Any]
    ranking: pd.DataFrame | None
    curves: pd.DataFrame | None

    @property
    def error(self) -> str | None:
        """What went wrong, or None for a trial that is done."""
        if self.result.get("status") != "failed" and not self.result.get("error"):
            return None
        return str(self.result.get("error") or "no message was recorded")


@dataclass(frozen=True)
class Evidence:
    """An ablation's design (`config`, as in ablation.yaml) and all that is known of it so far."""

    folder: Path
    config: dict[str, Any]
    results: pd.DataFrame
    effects: pd.DataFrame
    interactions: pd.DataFrame
    answer: list[str]
    trials: list[Trial]

    @property
    def metrics(self) -> dict[str, str]:
        """Metric -> "max" or "min", the direction that is better; the first is the primary one."""
        return {str(name): str(direction) for name, direction in self.config["metrics"].items()}

    @property
    def primary(self) -> str:
        return next(iter(self.metrics))

    @property
    def arms(self) -> dict[str, Any]:
        """Arm -> its tricks, in the order of the design."""
        return {str(arm): tricks or {} for arm, tricks in self.config["arms"].items()}

    @property
    def shown_effects(self) -> pd.DataFrame:
        """`effects`, where an arm that is not judged against base says against which."""
        against = self.config.get("against") or {}
        names = {arm: f"{arm} (against {reference})" for arm, reference in against.items()}
        return self.effects.assign(arm=self.effects["arm"].replace(names))

    @property
    def seeds(self) -> list[int]:
        return [int(seed) for seed in self.config["seeds"]]

    @property
    def done(self) -> pd.DataFrame:
        """The rows of `results` that finished."""
        return self.results[self.results["status"] == "done"]

    @property
    def shared_training(self) -> dict[str, str]:
        """Arm -> the arm whose training it reuses."""
        return {t.arm: str(t.result["shared_training"]) for t in self.trials if t.result.get("shared_training")}

    @property
    def options(self) -> pd.DataFrame | None:
        """The option that each architecture takes of each choice, by name, a row an architecture; None if unknown."""
        file = self.folder / "options.csv"
        if not file.is_file():
            return None
        return pd.read_csv(file, dtype=str, keep_default_na=False).set_index("architecture")

    def table_of(self, arm: str, seed: int, name: str) -> pd.DataFrame | None:
        """A CSV that a trial wrote, or the trial whose training it shares; None where there is none."""
        for owner in (arm, self.shared_training.get(arm, arm)):
            file = self.folder / "trials" / owner / f"seed={seed}" / name
            if file.is_file():
                return _read_table(file, [])
        return None

    def scale(self, metric: str) -> dict[str, float]:
        """`scale` of the trials' results."""
        return scale([trial.result for trial in self.trials], metric)

    def mean_ranking(self, arm: str) -> pd.DataFrame | None:
        """Mean over the seeds of accuracy, loss, params, flops and truth, a row an architecture; None without truth.

        Where children are judged by those of another arm, the truth is the mean over seeds too.
        """
        tables = [t.ranking for t in self.trials if t.arm == arm and t.ranking is not None]
        if not tables:
            return None
        mean = pd.concat(tables).groupby("architecture", sort=True).mean(numeric_only=True)
        needed = {"accuracy", "params", "truth"}
        if not needed <= set(mean.columns):
            return None
        mean = mean.dropna(subset=["accuracy", "truth"])
        return mean if len(mean) else None


def read_evidence(folder: Path) -> Evidence:
    """Everything in an ablation's `folder`, finished or not: whatever is not there yet is empty.

    Without ``results.csv`` the rows come from the trials' own ``result.json``.

    Raises:
        InputError: `folder` holds no ablation.yaml, or one without metrics, arms or seeds.
    """
    file = folder / "ablation.yaml"
    if not file.is_file():
        raise InputError(
            f"{str(folder)!r} is no ablation: expected a folder with ablation.yaml, as `nastricks ablate` writes"
        )
    config = yaml.safe_load(file.read_text(encoding="utf-8"))
    for key in ("metrics", "arms", "seeds"):
        if not isinstance(config, dict) or not config.get(key):
            raise InputError(
                f"{str(file)!r} lacks {key!r}: expected the file that `nastricks ablate` writes; run it again"
            )
    trials = _read_trials(folder / "trials", [str(arm) for arm in config["arms"]], config["seeds"])
    results = _read_table(folder / "results.csv", [*TRIAL_COLUMNS, *config["metrics"]])
    if results.empty:
        results = pd.DataFrame(
            [{**t.result, **(t.result.get("metrics") or {})} for t in trials],
        ).reindex(columns=[*TRIAL_COLUMNS, *config["metrics"]])
    answer = folder / "answer.json"
    return Evidence(
        folder=folder,
        config=config,
        results=results,
        effects=_read_table(folder / "effects.csv", JUDGED),
        interactions=_read_table(folder / "interactions.csv", JUDGED),
        answer=[str(sentence) for sentence in json.loads(answer.read_text(encoding="utf-8"))]
        if answer.is_file()
        else [],
        trials=trials,
    )


def _read_table(file: Path, columns: list[str]) -> pd.DataFrame:
    """The CSV `file` with at least `columns` (those it lacks are NaN), or no rows where there is no file."""
    if not file.is_file() or not file.stat().st_size:
        return pd.DataFrame(columns=columns)
    header = pd.read_csv(file, nrows=0).columns
    table = pd.read_csv(
        file,
        dtype={name: str for name in NAMES if name in header},
        keep_default_na=False,
        na_values={name: ["", "nan", "NaN", "inf", "-inf"] for name in header if name not in NAMES},
    )
    return table.reindex(columns=[*columns, *(c for c in table.columns if c not in columns)])


def _read_trials(folder: Path, arms: Iterable[str], seeds: Iterable[int]) -> list[Trial]:
    trials = []
    for arm in arms:
        for seed in seeds:
            run = folder / arm / f"seed={seed}"
            if not (run / "result.json").is_file():
                continue  # not finished: what it has written so far is no evidence yet
            result = json.loads((run / "result.json").read_text(encoding="utf-8"))
            ranking = _read_table(run / "ranking.csv", ["architecture"])
            curves = _read_table(run / "metrics.csv", [])
            trials.append(
                Trial(
                    arm=arm,
                    seed=int(seed),
                    # The folder says which trial it is, should the file be silent.
                    result={"arm": arm, "seed": int(seed), **result},
                    ranking=None if ranking.empty else ranking,
                    curves=None if curves.empty else curves,
                )
            )
    return trials
