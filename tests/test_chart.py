"""Charts: round ticks, and marks where the numbers are."""

import re
import xml.etree.ElementTree as ET

import pytest

from nastricks.chart import Chart, short, ticks


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.0, 1.0, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (0.93, 0.97, [0.93, 0.94, 0.95, 0.96, 0.97]),
        (1.1e6, 4.9e6, [2e6, 3e6, 4e6]),
        (3.0, 3.0, [3.0]),
    ],
)
def test_ticks_are_round(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == pytest.approx(expected)


def test_short_numbers() -> None:
    assert [short(v) for v in (0.955, 12, 1250, 1_250_000, -3e9)] == ["0.955", "12", "1.25k", "1.25M", "-3G"]


def test_marks_stand_where_their_numbers_are() -> None:
    chart = Chart("a < b", ("x", "y"), [0, 10], [0, 1])
    chart.dot((5, 0.5), "red", told="the middle")
    chart.line([(0, 0), (10, 1)], "blue", steps=True)
    chart.vertical(10, "at most 10")
    chart.legend("dots", "red")
    root = ET.fromstring(chart.svg())
    space = "{http://www.w3.org/2000/svg}"
    circle = next(c for c in root.iter(f"{space}circle") if c.get("fill") == "red" and c.get("opacity"))
    assert (float(circle.get("cx", 0)), float(circle.get("cy", 0))) == pytest.approx(
        (chart.x(5), chart.y(0.5)), abs=0.1
    )
    assert circle.findtext(f"{space}title") == "the middle"
    stepped = next(p for p in root.iter(f"{space}polyline") if p.get("stroke") == "blue")
    assert len(re.findall(",", stepped.get("points", ""))) == 3
    assert chart.x(0) < chart.x(10) < chart.width
    assert chart.y(1) < chart.y(0) < chart.height


def test_one_number_has_room_around_it() -> None:
    chart = Chart("one", ("x", "y"), [3.0], [0.0])
    assert 0 < chart.x(3.0) < chart.width
    assert "nan" not in chart.svg()
