"""`nastricks rank`: judge the ranking of a trained supernet, or one made anywhere."""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table as RichTable

from nastricks.commands.progress import progress
from nastricks.errors import InputError
from nastricks.files import write_csv, write_json, write_text
from nastricks.modules import SupernetModule
from nastricks.ranking.baselines import NO_CEILING, baselines, noise_ceiling
from nastricks.ranking.fine_tuning import FineTuning, batches_of, check_asked, draw_fine_tuning, fine_tune
from nastricks.ranking.metrics import ranking_metrics, s_tau
from nastricks.ranking.rank import Ranking, counted_once, counted_rows, find_table, picked
from nastricks.ranking.rank import rank as rank_module
from nastricks.ranking.tables import load_table
from nastricks.recipe import space_and_spec
from nastricks.run import calibration_of, load_run


def rank(arguments: argparse.Namespace) -> int:
    """Rank each run, write ranking.csv, print measures beside baselines and the ceiling."""
    if arguments.scores is not None:
        if arguments.fine_tune is not None:
            raise InputError("--fine-tune trains the children of a run, and --scores has none: leave one of them out")
        return _rank_scores(arguments)
    if arguments.config or arguments.overrides:
        told = next(iter([*arguments.config, *arguments.overrides]))
        raise InputError(f"{told} would describe the space of --scores: a run knows its own, so leave it out")
    if arguments.fine_tune_rate is not None and arguments.fine_tune is None:
        raise InputError("--fine-tune-rate is the rate of --fine-tune, which is not given: add --fine-tune 0,1,5,10")
    if arguments.fine_tune is not None:
        check_asked(batches_of(arguments.fine_tune), arguments.fine_tune_rate)
    if not arguments.runs:
        raise InputError("rank needs a run folder, or --scores FILE with a ranking made anywhere")
    rankings = [_rank_run(folder, arguments, len(arguments.runs)) for folder in arguments.runs]
    if len(rankings) > 1:
        _print_s_tau(rankings)
    return 0


def _rank_run(folder: str, arguments: argparse.Namespace, runs: int) -> Ranking:
    run = load_run(folder)
    if not isinstance(run.module, SupernetModule):
        raise InputError(f"{folder} trained a child: rank needs a supernet; `nastricks test` scores a child")
    space = run.module.space
    chosen = picked(space, arguments.children, seed=0)
    table = find_table(space, run.data, arguments.table)
    calibration = calibration_of(run.config)
    batches = None if arguments.fine_tune is None else batches_of(arguments.fine_tune)
    with progress("rank", len(chosen)) as (bar, number):
        ranking = rank_module(
            run.module,
            run.data,
            table,
            architectures=chosen,
            calibration=calibration,
            done=lambda count: bar.advance(number, count),
        )
    out = Path(arguments.out) if arguments.out else Path(folder)
    out = out / Path(folder).name if arguments.out and runs > 1 else out
    ranking.write(out / "ranking.csv")
    write_json(
        out / "result.json",
        {
            "metrics": ranking.metrics,
            "baselines": ranking.baselines,
            "noise_ceiling": ranking.ceiling,
            "derived": ranking.derived,
        },
    )
    how = "running statistics" if calibration is None else calibration.words
    _print(ranking, f"{folder}: {len(chosen)} children, {how}")
    print(f"ranking: {out / 'ranking.csv'}")
    if batches is not None:
        with progress("fine-tune", len(chosen)) as (bar, number):
            found = fine_tune(
                run.module,
                run.data,
                table,
                chosen,
                batches,
                rate=arguments.fine_tune_rate,
                calibration=calibration,
                done=lambda count: bar.advance(number, count),
            )
        _write_fine_tuning(found, out, Path(folder).name)
    return ranking


def _write_fine_tuning(found: FineTuning, out: Path, name: str) -> None:
    write_csv(out / "fine_tuning.csv", found.curve)
    write_csv(out / "fine_tuned_children.csv", found.children)
    write_text(out / "fine_tuning.svg", draw_fine_tuning(found, f"{name}: ranking after fine-tuning"))
    for row in found.curve.to_dict("records"):
        told = f"accuracy {row['mean_accuracy']:.3f} on average"
        if "gt_tau" in row:
            told = f"gt_tau {row['gt_tau']:.3f}, by loss {row['gt_tau_by_loss']:.3f}, {told}"
        print(f"after {int(row['batches'])} batches of a child's own: {told}")
    print(f"fine-tuning: {out / 'fine_tuning.csv'}, {out / 'fine_tuning.svg'}")


def _print(ranking: Ranking, title: str) -> None:
    print(title)
    if "gt_tau" not in ranking.metrics:
        print("no table of ground truth for this space and data: give one with --table, or make one with `bench`")
    if ranking.metrics:
        shown = RichTable("metric", "ranking", "params", "FLOPs", "chance")
        for name, value in ranking.metrics.items():
            trivial = [ranking.baselines[kind].get(name) for kind in ("params", "flops", "chance")]
            shown.add_row(name, f"{value:.3f}", *("" if v is None else f"{v:.3f}" for v in trivial))
        Console().print(shown)
    if "gt_tau" in ranking.metrics:
        ceiling = NO_CEILING if ranking.ceiling is None else f"{ranking.ceiling:.3f}, the tau of a perfect ranking"
        print(f"noise ceiling of the table: {ceiling}")
    if ranking.derived is not None:
        print(f"derived architecture: {ranking.derived}")


def _print_s_tau(rankings: list[Ranking]) -> None:
    common = set.intersection(*(set(r.rows["architecture"]) for r in rankings))
    if len(common) < 2:
        print("S-Tau: the runs share fewer than two children")
        return
    order = sorted(common)
    scores = [r.rows.set_index("architecture").loc[order, "accuracy"].to_numpy() for r in rankings]
    print(f"S-Tau over {len(rankings)} runs: {s_tau(scores):.3f}")
    taus = [r.metrics["gt_tau"] for r in rankings if "gt_tau" in r.metrics]
    if len(taus) > 1:
        spread = pd.Series(taus).std()
        print(f"GT-Tau over {len(taus)} runs: {sum(taus) / len(taus):.3f} ± {spread:.3f} (standard deviation)")


def _rank_scores(arguments: argparse.Namespace) -> int:
    """Judge a CSV with `architecture` and a score column against a table; a space named counts networks as it does."""
    if arguments.table is None:
        raise InputError("--scores needs --table: the ground truth that the scores are judged by")
    path = Path(arguments.scores)
    if not path.is_file():
        raise InputError(f"no file {path}: expected a CSV with the columns architecture and score")
    try:
        frame = pd.read_csv(path, dtype={"architecture": str})
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no CSV: {error}") from error
    numeric = [c for c in frame.columns if c != "architecture" and pd.api.types.is_numeric_dtype(frame[c])]
    column = "score" if "score" in numeric else numeric[0] if len(numeric) == 1 else None
    if "architecture" not in frame or column is None:
        raise InputError(
            f"{path} has the columns {', '.join(map(str, frame.columns))}: expected architecture and score"
        )
    if frame["architecture"].duplicated().any():
        raise InputError(f"{path} scores {frame['architecture'][frame['architecture'].duplicated()].iloc[0]!r} twice")
    bad = frame["architecture"][~np.isfinite(frame[column].to_numpy(dtype=float))]
    if len(bad):
        raise InputError(f"{path} gives {bad.iloc[0]!r} no {column} that is a number: score it, or remove its row")
    table = load_table(arguments.table)
    if arguments.config:
        space, _ = space_and_spec(arguments.config, arguments.overrides)
        rows = counted_rows(frame["architecture"].tolist(), space)
        frame = frame.iloc[list(rows.values())].assign(architecture=list(rows))
        table = counted_once(load_table(arguments.table, parse=space.parse), space)
    truth = table.truth(frame["architecture"].tolist())
    metrics = ranking_metrics(frame[column], truth)
    judged = frame.rename(columns={column: "accuracy"}).assign(truth=truth)
    trivial = {"params": {}, "flops": {}, "chance": baselines(truth, truth, truth, seed=0)["chance"]}
    for kind in ("params", "flops"):
        if kind in frame:
            trivial[kind] = ranking_metrics(frame[kind], truth)
    ceiling = noise_ceiling(table.replicas[[table.row[a] for a in frame["architecture"]]])
    ranking = Ranking(judged, metrics, trivial, ceiling)
    _print(ranking, f"{path}: {len(frame)} scores by {column}")
    if arguments.out:
        ranking.write(Path(arguments.out) / "ranking.csv")
    return 0
