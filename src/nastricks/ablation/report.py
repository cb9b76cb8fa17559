"""The page of an ablation: one HTML file with the answer first, that needs nothing but itself.

plotly.js is embedded once. The page forbids itself every request by a content security policy, so that a report from a
stranger cannot call home either.
"""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from plotly.io.json import to_json_plotly
from plotly.offline import get_plotlyjs

from nastricks.ablation.evidence import BASELINES, Evidence, read_evidence
from nastricks.ablation.plot_style import VERDICTS, mark, number, p_value, ratio, seeds_needed
from nastricks.ablation.plots import cost_bars, each_seed, forest
from nastricks.ablation.questions import Answered, Question, answered
from nastricks.ablation.training_plots import learning_curves, rank_scatter
from nastricks.files import write_text


@dataclass(frozen=True)
class Panel:
    """One plot of the page: `variants` maps what a selection box offers to the figure it shows; the first is shown."""

    key: str
    asks: str
    variants: Mapping[str, Any]


def write_report(folder: Path, found: Sequence[tuple[Question, Answered]] | None = None) -> Path:
    """Write ``report.html`` into the ablation's `folder`, finished or not, and return its path.

    The file appears whole or not at all. Parts for which there is no evidence yet say so in a line. `found` are the
    questions with their answers, where they are known already.

    Raises:
        InputError: `folder` holds no ablation.yaml, or one without metrics, arms or seeds.
    """
    folder = Path(folder)
    page = render(read_evidence(folder), found)
    target = folder / "report.html"
    write_text(target, page)
    return target


def render(evidence: Evidence, found: Sequence[tuple[Question, Answered]] | None = None) -> str:
    """The page as HTML text; every name, sentence, recipe and error in it is escaped."""
    pages = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # jinja's tojson then writes plotly figures, and keeps "<" out of the script element that holds them.
    pages.policies["json.dumps_function"] = to_json_plotly
    pages.policies["json.dumps_kwargs"] = {}
    pages.filters.update(number=number, ratio=ratio, p_value=p_value, seeds_needed=seeds_needed)
    pages.filters.update(mark=mark, breakable=_breakable, yaml=_as_yaml, cell=_cell)
    config, found = evidence.config, answered(evidence) if found is None else found
    trials_wanted = len(evidence.arms) * len(evidence.seeds)
    return pages.get_template("report.html").render(
        name=str(config.get("name") or evidence.folder.resolve().name),
        description=str(config.get("description") or ""),
        facts={key: config[key] for key in ("space", "data", "algorithm") if config.get(key)},
        evidence=evidence,
        wanted=trials_wanted,
        verdicts=VERDICTS,
        # A study answers its questions: a list of all arms at its head would bury them.
        by_verdict={} if found else arms_by_verdict(evidence.shown_effects, evidence.primary),
        questions=found,
        panels={panel.key: panel for panel in [*panels(evidence), *question_panels(found)]},
        cost=cost_table(evidence.done, list(evidence.arms)),
        failures=[trial for trial in evidence.trials if trial.error],
        command=command(config),
        plotlyjs=Markup(get_plotlyjs()),
    )


def arms_by_verdict(effects: pd.DataFrame, metric: str) -> dict[str, dict[str, float]]:
    """Verdict -> arm -> difference on `metric`: verdicts in the order of `VERDICTS`, the largest difference first."""
    rows = effects[effects["metric"] == metric].sort_values("difference", key=abs, ascending=False)
    found = {verdict: rows[rows["verdict"] == verdict] for verdict in VERDICTS}
    return {v: dict(zip(arms["arm"], arms["difference"], strict=True)) for v, arms in found.items() if len(arms)}


def cost_table(done: pd.DataFrame, arms: Sequence[str]) -> pd.DataFrame:
    """Mean seconds and peak memory (MB) an arm over its finished seeds, and their ratios to base.

    A ratio takes only seeds that both have finished: a slow seed that base lacks would look like a slow trick. Columns
    ``seconds, seconds_ratio, peak_memory_mb, peak_memory_mb_ratio``; the index are the arms that finished a trial.
    """
    present = [arm for arm in arms if arm in set(done["arm"])]
    table = pd.DataFrame(index=pd.Index(present, name="arm"))
    for column in ("seconds", "peak_memory_mb"):
        by_seed = done.pivot_table(index="seed", columns="arm", values=column, aggfunc="mean", observed=True)
        by_seed = by_seed.reindex(columns=[*dict.fromkeys(["base", *present])]).astype(float)
        paired = {arm: by_seed[["base", arm]].dropna() if arm != "base" else by_seed[["base"]] for arm in present}
        table[column] = by_seed.mean().reindex(present)
        table[f"{column}_ratio"] = pd.Series(
            {a: p[a].mean() / p["base"].mean() for a, p in paired.items()}, dtype=float
        )
    return table


def command(config: Mapping[str, Any]) -> str:
    """The line that runs the ablation again, with what was stacked onto its base."""
    return shlex.join(["nastricks", "ablate", recipe_file(config), *map(str, config.get("given") or [])])


def recipe_file(config: Mapping[str, Any]) -> str:
    """The ablation's own file in its recipe stack; ``<name>.yaml`` where the stack does not hold it."""
    own = [name for name in config.get("stack") or {} if "ablations" in Path(str(name)).parts]
    return str(own[0]) if own else f"{config.get('name') or 'FILE'}.yaml"


def panels(evidence: Evidence) -> list[Panel]:
    """The plots for which there is evidence, each with the variants that a reader can choose."""
    metrics, arms, done = evidence.metrics, list(evidence.arms), evidence.done
    against = "base or the arm named" if evidence.config.get("against") else "base"
    found = [
        Panel("effects", "metric", _forests(evidence.shown_effects, metrics, against)),
        Panel("interactions", "metric", _forests(evidence.interactions, metrics, "the sum of both")),
        Panel(
            "trials",
            "metric",
            {
                metric: each_seed(done, arms, metric, direction, evidence.scale(metric))
                for metric, direction in metrics.items()
                if metric in done and done[metric].notna().any()
            },
        ),
        *_ranking_panels(evidence),
        Panel("curves", "curve", _curves(evidence)),
    ]
    cost = cost_table(done, arms)
    for column, title in (("seconds", "time a trial (seconds)"), ("peak_memory_mb", "peak memory a trial (MB)")):
        if cost[column].notna().any():
            found.append(Panel(column, "cost", {column: cost_bars(cost, column, title)}))
    return [panel for panel in found if panel.variants]


def question_panels(found: Sequence[tuple[Question, Answered]]) -> list[Panel]:
    """A plot a question, with its figures to choose from."""
    return [
        Panel(f"question-{question.name}", "picture", answer.figures) for question, answer in found if answer.figures
    ]


def _forests(judged: pd.DataFrame, metrics: Mapping[str, str], against: str) -> dict[str, Any]:
    groups = {metric: judged[judged["metric"] == metric] for metric in metrics}
    return {m: forest(rows, m, metrics[m], against) for m, rows in groups.items() if len(rows)}


def _ranking_panels(evidence: Evidence) -> list[Panel]:
    primary, done = evidence.primary, evidence.done
    rankings = {arm: ranking for arm in evidence.arms if (ranking := evidence.mean_ranking(arm)) is not None}
    if not rankings:
        return []
    alone = bool(evidence.config.get("truth_arm"))
    what = "accuracy of the child (fraction)" if alone else "accuracy in the supernet (fraction)"
    scored = {}
    for arm, ranking in rankings.items():
        values = done.loc[done["arm"] == arm, primary]
        title = f"{arm}: {primary} {number(values.mean())}, n {values.count()}"
        scored[arm] = rank_scatter(ranking, "accuracy", title, what)
    baseline = evidence.scale(primary).get(BASELINES["params"])
    counted = rank_scatter(
        next(iter(rankings.values())),
        "params",
        f"parameter count: {primary} {number(baseline)}",
        "parameters of the child (count)",
    )
    return [Panel("scatter", "arm", scored), Panel("parameters", "arm", {"parameters": counted})]


def _curves(evidence: Evidence) -> dict[str, Any]:
    logs: dict[str, list[pd.DataFrame]] = {}
    for trial in evidence.trials:
        if trial.curves is not None and {"epoch", "step"} & set(trial.curves.columns):
            logs.setdefault(trial.arm, []).append(trial.curves)
    columns = [
        column
        for column in dict.fromkeys(column for group in logs.values() for log in group for column in log.columns)
        if column not in ("epoch", "step") and any(_numbers(log, column) for group in logs.values() for log in group)
    ]
    return {column: learning_curves(logs, column) for column in columns}


def _numbers(log: pd.DataFrame, column: str) -> bool:
    return column in log and pd.api.types.is_numeric_dtype(log[column]) and bool(log[column].notna().any())


def _breakable(name: str) -> Markup:
    # A narrow column then breaks a long name at its joints, not in the middle of a word.
    return Markup("<wbr>").join(re.split(r"(?<=[+_])", str(name)))


def _cell(value: Any) -> str:
    """A cell of a question's table: numbers rounded, small ones to two significant digits, text as it is."""
    if isinstance(value, bool | str):
        return str(value)
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer() and abs(value) >= 1):
        return f"{int(value):,}".replace("-", "−")
    if value is not None and 0 < abs(value) < 0.01:
        return f"{value:.2g}".replace("-", "−")
    return number(value)


def _as_yaml(value: Any) -> str:
    if isinstance(value, str):
        return value
    text: str = yaml.safe_dump(value, sort_keys=False, allow_unicode=True, default_flow_style=None)
    return text.removesuffix("\n").removesuffix("\n...")
