"""The report page: it says what the folder says, stands alone, and draws every plot in a real browser."""

import html
import itertools
import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml

from nastricks.ablation.evidence import JUDGED, read_evidence
from nastricks.ablation.plot_style import VERDICTS, number, p_value
from nastricks.ablation.report import cost_table, write_report
from nastricks.errors import InputError
from nastricks.rng import generator

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
TRICKS: dict[str, dict[str, Any]] = {
    "sam": {"rho": 0.05},
    "ghost_batch_norm": {"size": 16},
    "drop_path": {"probability": 0.2},
    "mixup": {"alpha": 1.0},
}
CALIBRATION = {"bn_calibration": {"batches": 10}}
METRICS = {"gt_tau": "max", "best_of_top_10": "max", "loss_at_top": "min"}
GAIN = {"sam": 0.07, "ghost_batch_norm": 0.01, "drop_path": -0.01, "mixup": -0.12}
HOSTILE = "</script><script>document.title='broken'</script><b>&amp;"


def draws(*key: object, n: int) -> list[float]:
    return list(map(float, torch.randn(n, generator=generator(*key))))


def build_ablation(folder: Path, seeds: int = 5, fail: bool = True, ranking: bool = True) -> Path:
    """A finished ablation: ten arms (four tricks, each with and without calibration), made-up but plausible numbers."""
    arms: dict[str, dict[str, Any]] = {"base": {}, **{trick: {trick: s} for trick, s in TRICKS.items()}}
    arms["bn_calibration"] = CALIBRATION
    arms |= {f"{trick}+bn_calibration": {trick: s, **CALIBRATION} for trick, s in TRICKS.items()}
    folder.mkdir(parents=True)
    children = ["".join(c) for c in itertools.product("0123", repeat=3)]
    truth = [0.82 + 0.05 * x for x in draws("truth", n=64)]
    params = [900 + 40 * sum(map(int, c)) + 6 * int(c[0]) for c in children]
    rows = []
    for (arm, tricks), seed in itertools.product(arms.items(), range(seeds)):
        run = folder / "trials" / arm / f"seed={seed}"
        run.mkdir(parents=True)
        failed = fail and arm == "drop_path" and seed == 3
        calibrated = "bn_calibration" in tricks
        shared = arm.replace("+bn_calibration", "") if calibrated and arm != "bn_calibration" else None
        shared = "base" if arm == "bn_calibration" else shared
        gain = sum(GAIN.get(t, 0.0) for t in tricks) * (0.3 if calibrated else 1.0) + 0.17 * calibrated
        noise = [0.04 * x for x in draws("shared", seed, n=3)]
        own = [0.015 * x for x in draws(arm, seed, n=3)]
        tau = 0.51 + gain + noise[0] + own[0]
        seconds = 5.2 * (1.9 if "sam" in tricks else 1.1 if "ghost_batch_norm" in tricks else 1.0) + abs(own[1])
        metrics = {"gt_tau": tau, "best_of_top_10": 0.93 + own[1], "loss_at_top": 0.3 - 0.2 * gain + own[2]}
        memory = 310.0 + 40 * ("sam" in tricks)
        row = {"arm": arm, "seed": seed, "status": "failed" if failed else "done", "seconds": seconds}
        row |= {"peak_memory_mb": memory} | ({} if failed else metrics)
        rows.append(row)
        result = {key: row[key] for key in ("arm", "seed", "status", "seconds", "peak_memory_mb")}
        result |= {"metrics": {} if failed else metrics, "noise_ceiling": 0.91, "shared_training": shared}
        result["baselines"] = {
            "params": {"gt_tau": 0.552, "best_of_top_10": 0.91},
            "flops": {"gt_tau": 0.561, "best_of_top_10": 0.91},
            "chance": {"gt_tau": 0.0, "best_of_top_10": 0.89},
        }
        result["error"] = f"RuntimeError: loss is nan at step 120 {HOSTILE}" if failed else None
        (run / "result.json").write_text(json.dumps(result))
        if failed:
            continue
        if ranking:
            score = [
                0.6 + 1.2 * tau * (t - 0.82) + 0.04 * x for t, x in zip(truth, draws(arm, seed, "r", n=64), strict=True)
            ]
            table = {"architecture": children, "accuracy": score, "loss": [1 - s for s in score], "params": params}
            table |= {"flops": [p * 64 for p in params], "truth": truth}
            pd.DataFrame(table).to_csv(run / "ranking.csv", index=False)
        if not shared:
            log = [
                {
                    "epoch": e,
                    "step": 9 * e + 8,
                    "train/loss": 2.2 * 0.95**e + 0.4 - gain + 2 * own[0],
                    "train/accuracy": None,
                }
                for e in range(40)
            ] + [
                {"epoch": e, "step": 9 * e + 8, "train/accuracy": 0.9 - 0.8 * 0.93**e + own[1] + 0.3 * gain}
                for e in range(40)
            ]
            pd.DataFrame(log).to_csv(run / "metrics.csv", index=False)
    results = pd.DataFrame(rows)
    results.to_csv(folder / "results.csv", index=False)
    cells = {arm: [(1, arm), (-1, "base")] for arm in list(arms)[1:]}
    judged(results, cells).to_csv(folder / "effects.csv", index=False)
    pairs = [[f"{t} x bn_calibration", t, "bn_calibration", f"{t}+bn_calibration"] for t in TRICKS]
    cells = {name: [(1, both), (-1, first), (-1, second), (1, "base")] for name, first, second, both in pairs}
    judged(results, cells).to_csv(folder / "interactions.csv", index=False)
    answer = [
        "bn_calibration helps gt_tau by +0.170 ± 0.020 (p 0.001 after Holm); mixup hurts it by −0.120 ± 0.020.",
        "sam helps gt_tau by +0.070 without bn_calibration, but there is no evidence that it does with it.",
        "There is no evidence for ghost_batch_norm and drop_path; at the seen spread they would need 60 seeds.",
    ]
    (folder / "answer.json").write_text(json.dumps(answer))
    config = {
        "name": "quickstart",
        "description": "Which tricks help a single-path supernet on tiny64 and digits?",
        "space": "tiny64",
        "data": "digits",
        "algorithm": "spos",
        "metrics": METRICS,
        "seeds": list(range(seeds)),
        "arms": arms,
        "interactions": pairs,
        "stack": {
            "recipes/spaces/tiny64.yaml": f"# {HOSTILE}\nspace: tiny64\n",
            "recipes/data/digits.yaml": "data:\n  batch_size: 64\n",
            "recipes/ablations/quickstart.yaml": "name: quickstart\ndesign: crossed\n",
        },
        "versions": {"nastricks": "0.1.0", "torch": "2.15.0", "python": "3.11.9", "machine": "2 cores, no GPU"},
    }
    (folder / "ablation.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    return folder


def judged(results: pd.DataFrame, cells: dict[str, list[tuple[int, str]]]) -> pd.DataFrame:
    """Rows as in effects.csv, each a signed sum of arms, by a round interval: the statistics have their own tests."""
    rows = []
    done = results[results["status"] == "done"]
    for (name, terms), (metric, direction) in itertools.product(cells.items(), METRICS.items()):
        by_seed = done.pivot_table(index="seed", columns="arm", values=metric).reindex(columns=[a for _, a in terms])
        by_seed = by_seed.dropna()
        differences = sum(sign * by_seed[arm] for sign, arm in terms)
        assert isinstance(differences, pd.Series)
        d, half = differences.mean(), 1.5 * differences.std()
        good = d > 0 if direction == "max" else d < 0
        found = ("helps" if good else "hurts") if abs(d) > half else "no evidence"
        verdict = "too few seeds" if len(by_seed) < 5 else found
        p = 0.0004 if abs(d) > half else 0.4
        row = [name, metric, len(by_seed), by_seed[terms[0][1]].mean(), d, d - half, d + half, p, p, 0.0625]
        seconds = done.groupby("arm")["seconds"].mean()
        rows.append([*row, seconds[terms[0][1]] / seconds["base"], float("nan") if abs(d) < 0.005 else 12, verdict])
    return pd.DataFrame(rows, columns=JUDGED)


class Elements(HTMLParser):
    """Collects the addresses that the page names and the text that a reader sees, section by section."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.sections: dict[str, str] = {}
        self.tags: list[str] = []
        self._section = ""
        self._silent = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        found = dict(attrs)
        self.addresses += [str(found[key]) for key in ("src", "href", "srcset", "data", "action") if found.get(key)]
        if tag == "section":
            self._section = str(found["id"])
        self._silent = tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._silent = False
        self._section = "" if tag == "section" else self._section

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self.sections[self._section] = self.sections.get(self._section, "") + data


def parse(page: Path) -> Elements:
    elements = Elements()
    elements.feed(page.read_text(encoding="utf-8"))
    return elements


def figures(page: Path) -> dict[str, dict[str, Any]]:
    """The plots of the page: panel -> variant -> figure."""
    text = page.read_text(encoding="utf-8").split('<script type="application/json" id="figures">')[1]
    found: dict[str, dict[str, Any]] = json.loads(text.split("</script>")[0])
    return found


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_ablation(tmp_path_factory.mktemp("runs") / "quickstart")


@pytest.fixture(scope="module")
def report(finished: Path) -> Path:
    return write_report(finished)


def test_sections_in_order_and_answer_first(report: Path) -> None:
    sections = parse(report).sections
    order = ["answer", "effects", "interactions", "trials", "ranking", "curves", "cost", "failures", "recipe"]
    assert [s for s in sections if s] == order
    assert "bn_calibration helps gt_tau by +0.170" in sections["answer"]
    assert "nastricks ablate recipes/ablations/quickstart.yaml" in sections["recipe"]
    assert "2.15.0" in sections["recipe"]
    assert "49 of 50 trials done" in sections[""]


def test_every_verdict_is_a_word_with_a_sign_of_its_own(finished: Path, report: Path) -> None:
    text = parse(report).sections["effects"]
    effects = pd.read_csv(finished / "effects.csv")
    assert set(effects["verdict"]) == set(VERDICTS), "the fixture should show every verdict"
    for verdict, count in effects["verdict"].value_counts().items():
        assert len(re.findall(re.escape(f"{VERDICTS[str(verdict)].sign} {verdict}"), text)) == count
    assert len({look.sign for look in VERDICTS.values()}) == len({look.symbol for look in VERDICTS.values()}) == 4


def test_the_table_holds_the_numbers_of_effects_csv(finished: Path, report: Path) -> None:
    text = parse(report).sections["effects"]
    for _, row in pd.read_csv(finished / "effects.csv").iterrows():
        assert f"{number(row['ci_low'], signed=True)} to {number(row['ci_high'], signed=True)}" in text


def test_the_forest_holds_the_intervals_of_effects_csv_best_on_top(finished: Path, report: Path) -> None:
    effects = pd.read_csv(finished / "effects.csv")
    for metric, direction in METRICS.items():
        traces = figures(report)["effects"][metric]["data"]
        rows = effects[effects["metric"] == metric].sort_values("difference", ascending=direction == "min")
        assert [t["name"] for t in traces] == rows["arm"].tolist()
        assert [t["y"] for t in traces] == [[i] for i in range(len(rows))]
        for trace, (_, row) in zip(traces, rows.iterrows(), strict=True):
            assert trace["x"][0] == pytest.approx(row["difference"])
            assert trace["x"][0] + trace["error_x"]["array"][0] == pytest.approx(row["ci_high"])
            assert trace["x"][0] - trace["error_x"]["arrayminus"][0] == pytest.approx(row["ci_low"])


def test_curves_are_means_over_the_seeds(finished: Path, report: Path) -> None:
    logs = [pd.read_csv(f) for f in sorted((finished / "trials" / "sam").glob("*/metrics.csv"))]
    seeds = [log.dropna(subset=["train/loss"]).set_index("epoch")["train/loss"] for log in logs]
    (line,) = [t for t in figures(report)["curves"]["train/loss"]["data"] if t["name"] == "sam" and "hovertext" in t]
    assert line["y"] == pytest.approx(pd.concat(seeds, axis=1).mean(axis=1).tolist())


def test_nothing_is_asked_of_the_network(report: Path) -> None:
    page = report.read_text(encoding="utf-8")
    assert all(address.startswith(("data:", "#")) for address in parse(report).addresses)
    own = page.replace(page[page.index("plotly.js v") : page.index('<script type="application/json"')], "")
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|@import|url\(|fetch\(|XMLHttpRequest", own)
    assert page.count("plotly.js v") == 1, "plotly.js is embedded once"
    assert "default-src 'none'" in page


def test_hostile_text_stays_text(report: Path) -> None:
    elements = parse(report)
    assert elements.tags.count("script") == 3, "a recipe or an error opened a script of its own"
    assert HOSTILE in elements.sections["recipe"]
    assert HOSTILE in elements.sections["failures"]


def test_hostile_arm_names_are_escaped_in_plots_too(tmp_path: Path) -> None:
    folder = build_ablation(tmp_path / "a", seeds=1)
    for file in ("ablation.yaml", "effects.csv", "results.csv"):
        (folder / file).write_text((folder / file).read_text().replace("mixup", "mix</script><i>up"))
    report = write_report(folder)
    assert "mix</script>" not in report.read_text(encoding="utf-8")
    (names,) = {tuple(f["layout"]["yaxis"]["ticktext"]) for f in figures(report)["trials"].values()}
    assert "mix&lt;/script&gt;&lt;i&gt;up" in names, "plotly should read an entity, not a tag"


def test_an_unfinished_folder_gives_a_page_that_says_so(tmp_path: Path) -> None:
    folder = build_ablation(tmp_path / "a", seeds=2, ranking=False)
    for name in ("results.csv", "effects.csv", "interactions.csv", "answer.json"):
        (folder / name).unlink()
    shutil.rmtree(folder / "trials" / "mixup")
    sections = parse(write_report(folder)).sections
    assert "No answer yet: 18 of 20 trials are done." in sections["answer"]
    assert "No arm has been compared" in sections["effects"]
    assert "no scatter" in sections["ranking"]
    assert "interactions" not in sections


def test_a_folder_where_nothing_ran_yet_gives_a_page(tmp_path: Path) -> None:
    folder = build_ablation(tmp_path / "a", seeds=1)
    for path in folder.iterdir():
        if path.name != "ablation.yaml":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert "0 of 10 trials are done" in parse(write_report(folder)).sections["answer"]


@pytest.mark.parametrize("text", [None, "name: x\n", "metrics: {gt_tau: max}\narms: {base: {}}\n", "- 1\n"])
def test_a_folder_that_is_no_ablation_is_refused(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "ablation.yaml").write_text(text)
    with pytest.raises(InputError, match=re.escape(str(tmp_path))):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_a_write_that_fails_leaves_the_old_page(report: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = report.read_bytes()

    def full(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="no space"):
        write_report(report.parent)
    assert report.read_bytes() == before
    assert not list(report.parent.glob(".report-*"))


def test_children_and_arms_with_odd_names_stay_names(tmp_path: Path) -> None:
    folder = build_ablation(tmp_path / "a", seeds=1)
    for file in ("results.csv", "effects.csv"):
        (folder / file).write_text((folder / file).read_text().replace("mixup", "null"))
    evidence = read_evidence(folder)
    assert "null" in set(evidence.results["arm"])
    assert "null" in set(evidence.effects["arm"])
    ranking = evidence.mean_ranking("base")
    assert ranking is not None
    assert "000" in ranking.index


def test_cost_ratios_take_only_seeds_that_both_have() -> None:
    done = pd.DataFrame(
        {
            "arm": ["base", "base", "sam", "sam"],
            "seed": [0, 1, 1, 2],
            "seconds": [1.0, 3.0, 6.0, 100.0],
            "peak_memory_mb": [10.0, 10.0, 20.0, 20.0],
        }
    )
    cost = cost_table(done, ["base", "sam", "absent"])
    assert cost.index.tolist() == ["base", "sam"]
    assert cost.loc["sam", "seconds"] == 53.0
    assert cost.loc["sam", "seconds_ratio"] == 2.0
    assert cost["peak_memory_mb_ratio"].tolist() == [1.0, 2.0]


def test_the_ceiling_is_drawn_for_gt_tau_alone(finished: Path) -> None:
    evidence = read_evidence(finished)
    beside = {"parameters": 0.552, "FLOPs": 0.561, "chance": 0.0}
    assert evidence.scale("gt_tau") == pytest.approx({**beside, "noise ceiling": 0.91})
    assert evidence.scale("gt_tau_by_loss") == evidence.scale("gt_tau")  # a count ranks by accuracy or by loss alike
    assert list(evidence.scale("best_of_top_10")) == list(beside)
    assert evidence.scale("gt_tau_std_8") == {}


def test_numbers_are_never_rounded_to_a_lie() -> None:
    assert p_value(0.0) == "< 0.001"
    assert p_value(float("nan")) == number(float("nan")) == number(None) == "–"
    assert number(-0.1234, signed=True) == "−0.123"
    assert number(12345.6) == "12,346"


PROBE = """<script>
const faults = [];
addEventListener("error", (e) => faults.push(e.message));
addEventListener("unhandledrejection", (e) => faults.push(String(e.reason)));
addEventListener("securitypolicyviolation", (e) => faults.push("refused " + e.blockedURI));
const complain = console.error;
console.error = (...words) => { faults.push(words.join(" ")); complain(...words); };
addEventListener("load", () => setTimeout(() => {
  const plots = [...document.querySelectorAll(".plotly-graph-div")];
  const marks = ".points path, .point path, .js-line";
  const undrawn = () => plots.filter((div) => !div.querySelector(".main-svg") || !div.querySelector(marks));
  const seen = { faults, plots: plots.length, undrawn: undrawn().map((div) => div.id), variants: 0 };
  // Every variant that the boxes offer is drawn once, too.
  for (const select of document.querySelectorAll("select[data-plot]"))
    for (const option of [...select.options].reverse()) {
      select.value = option.value;
      select.dispatchEvent(new Event("change"));
      seen.variants += 1;
      seen.undrawn.push(...undrawn().map((div) => div.id + " " + option.value));
    }
  const shown = () => [...document.querySelectorAll("#effects tbody tr")].filter((row) => !row.hidden).length;
  const filter = document.querySelector("#effects select[data-column=metric]");
  seen.rows = shown();
  filter.value = "";
  filter.dispatchEvent(new Event("change"));
  seen.rows_all = shown();
  seen.sideways = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  seen.width = innerWidth;
  seen.fetched = performance.getEntriesByType("resource").map((e) => e.name).filter((n) => !/^(data|blob):/.test(n));
  parent.postMessage(JSON.stringify(seen), "*");
}, 500));
</script>"""
# Chromium lets no window be narrower than 500 pixels, but a frame may be.
FRAME = """<!doctype html><iframe src="probed.html" style="border:0;width:{width}px;height:3000px"></iframe><script>
addEventListener("message", (e) => { document.documentElement.dataset.seen = e.data; });
</script>"""


def visit(page: str, folder: Path, width: int) -> tuple[dict[str, Any], list[str]]:
    """What Chromium sees of the HTML text `page`: the probe's findings and the console's complaints."""
    assert CHROMIUM is not None
    (folder / "probed.html").write_text(page.replace("<head>", "<head>" + PROBE, 1), encoding="utf-8")
    (folder / "frame.html").write_text(FRAME.replace("{width}", str(width)), encoding="utf-8")
    command = [
        *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
        # The browser itself calls home for updates: a proxy that is not there keeps the test off the network.
        "--proxy-server=127.0.0.1:9",
        *("--enable-logging=stderr", "--v=0", f"--user-data-dir={folder / 'profile'}", "--window-size=1300,3000"),
        *("--virtual-time-budget=8000", "--dump-dom", (folder / "frame.html").resolve().as_uri()),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    seen = re.search(r'data-seen="([^"]*)"', done.stdout)
    assert seen, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(html.unescape(seen[1]))
    return found, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium found: install chromium to test the report in a browser"
)


@needs_chromium
@pytest.mark.parametrize("width", [1200, 390])
def test_chromium_draws_every_plot_without_complaint(report: Path, tmp_path: Path, width: int) -> None:
    seen, complaints = visit(report.read_text(encoding="utf-8"), tmp_path, width)
    assert seen["faults"] == []
    assert complaints == []
    assert seen["fetched"] == []
    assert seen["plots"] == len(figures(report)) == 8
    assert seen["variants"] >= 3 * len(METRICS) + 10 + 2  # metrics of three plots, arms of the scatter, two curves
    assert seen["undrawn"] == []
    assert seen["rows"] == 9
    assert seen["rows_all"] == 9 * len(METRICS)
    assert seen["width"] == width
    assert seen["sideways"] <= 0, "the page scrolls sideways"


@needs_chromium
def test_the_page_refuses_a_request_and_the_probe_sees_it(report: Path, tmp_path: Path) -> None:
    page = report.read_text(encoding="utf-8").replace("<main>", '<main><img src="http://127.0.0.1:9/x.png" alt="">', 1)
    seen, complaints = visit(page, tmp_path, 1200)
    assert any("127.0.0.1" in fault for fault in seen["faults"])
    assert complaints
