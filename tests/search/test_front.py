"""The front of a search: what is on it, and that its picture and files say so."""

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pandas as pd

from nastricks.data import ImageSpec
from nastricks.search.constraints import Constraints, Costs
from nastricks.search.evaluation import Evaluation
from nastricks.search.front import draw_front, front, write_front
from nastricks.spaces import Tiny64


def made(number: int, reward: float, flops: int, *, meets: bool = True, repeat: bool = False) -> Evaluation:
    cost = {"params": flops, "flops": flops, "latency": None}
    return Evaluation(number, number, f"a{number}", None, reward, reward, None, seconds=0.0, status="done", meets=meets,
                      repeat=repeat, **cost)  # type: ignore[arg-type]  # fmt: skip


ROWS = [
    made(1, 0.5, 10),
    made(2, 0.4, 20),
    made(3, 0.9, 30),
    made(4, 0.95, 5, meets=False),
    made(5, 0.5, 10, repeat=True),
]


def test_a_front_holds_each_network_that_meets_the_bounds_once() -> None:
    assert [one.number for one in front(ROWS, "flops")] == [1, 3]
    assert front([], "params") == []


def test_files_and_picture(tmp_path: Path) -> None:
    space = Tiny64()
    bounds = Constraints({"flops": 6.0}, {"flops": 1e9}, Costs(space, ImageSpec(1, 10, 8)))
    write_front(tmp_path, ROWS, ROWS[2], "flops", bounds, "a title")
    assert list(pd.read_csv(tmp_path / "front.csv")["architecture"]) == ["a1", "a3"]
    assert [row["reward"] for row in json.loads((tmp_path / "front.json").read_text())] == [0.5, 0.9]
    told = "".join(ET.fromstring((tmp_path / "pareto.svg").read_text()).itertext())
    for words in ("a title", "at most 1G", "at least 6", "front, 2 networks", "outside the bounds", "a3"):
        assert words in told
    assert "outside" not in draw_front(ROWS[:3], ROWS[2], "flops", None, "t")
