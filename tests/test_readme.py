"""README's "Your own algorithm" is run as it stands: its files are written, its commands typed."""

import re
import shlex
import sys
from pathlib import Path

import pandas as pd
import pytest

from nastricks.cli import main

README = (Path(__file__).parent.parent / "README.md").read_text()


@pytest.fixture
def section() -> list[tuple[str, str]]:
    text = README.split("## Your own algorithm")[1].split("\n## ")[0]
    return re.findall(r"```(\w*)\n(.*?)```", text, re.DOTALL)


def test_the_readme_ablates_an_algorithm_of_ones_own(
    section: list[tuple[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    commands: list[str] = []
    for language, text in section:
        if language:
            (tmp_path / text.splitlines()[0].removeprefix("# ")).write_text(text)
        else:
            commands += text.strip().splitlines()
    assert len(list(tmp_path.iterdir())) == 3
    assert [command.split()[:2] for command in commands] == [["nastricks", "check"], ["nastricks", "ablate"]]
    policy = (tmp_path / "my_search.py").read_text()
    assert len(policy.splitlines()) <= 30
    for command in commands:
        assert main(shlex.split(command)[1:]) == 0, capsys.readouterr()
    folder = tmp_path / "runs" / "my_ablation"
    results = pd.read_csv(folder / "results.csv")
    assert set(results["arm"]) == {"base", "sam", "bn_calibration", "sam+bn_calibration"}
    assert (results["status"] == "done").all()
    assert len(results) == 20
    assert (folder / "report.html").stat().st_size > 1_000_000
    assert "gt_tau" in capsys.readouterr().out
