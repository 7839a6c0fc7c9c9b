"""The pictures of docs pages show the numbers of the tables beside them."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

DOCS = Path(__file__).parents[1] / "docs"


def loaded() -> ModuleType:
    spec = importlib.util.spec_from_file_location("write_charts", DOCS / "write_charts.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


CHARTS = loaded()
drawing = sys.modules["drawing"]


@pytest.mark.parametrize("chart", CHARTS.CHARTS, ids=lambda chart: chart.name)
def test_a_picture_is_drawn_from_its_table(chart: object) -> None:
    drawn = chart.svg()  # type: ignore[attr-defined]
    assert chart.path.read_text(encoding="utf-8") == drawn, "run python docs/write_charts.py"  # type: ignore[attr-defined]
    page = (DOCS / chart.page).read_text(encoding="utf-8")  # type: ignore[attr-defined]
    assert f"](images/{chart.name}.svg)" in page  # type: ignore[attr-defined]
    ElementTree.fromstring(drawn)


def test_marks_lie_where_the_numbers_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "DOCS", tmp_path)
    (tmp_path / "page.md").write_text(
        "Before.\n\n| x | y |\n|---|---:|\n| **a** | 25.0 (0–50) |\n| b | −10 % |\n| c | 50 ± 5 |\n\nAfter."
    )
    chart = drawing.Chart("page.md", "drawn", "Title", "| x |", {"y": (1, 0)}, 0, 100)
    assert list(chart.lines()) == [["x", "y"], ["a", "25.0 (0–50)"], ["b", "−10 %"], ["c", "50 ± 5"]]
    root = ElementTree.fromstring(chart.svg())
    space = {"s": "http://www.w3.org/2000/svg"}
    left, wide = drawing.LEFT, drawing.WIDTH - drawing.LEFT - drawing.RIGHT
    circles = [float(each.get("cx", "nan")) for each in root.findall("s:circle", space)][1:]
    marks = [0.25, 0.0, 0.5]  # below the axis is at its end
    assert circles == [pytest.approx(left + share * wide, abs=0.1) for share in marks]
    lines = [each for each in root.findall("s:line", space) if each.get("stroke-opacity")]
    ends = [(float(each.get("x1", "nan")), float(each.get("x2", "nan"))) for each in lines]
    expected = [(left + low * wide, left + high * wide) for low, high in ((0, 0.5), (0.45, 0.55))]
    assert np.array(ends) == pytest.approx(np.array(expected), abs=0.1)


def test_cells_are_as_strong_as_their_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "DOCS", tmp_path)
    (tmp_path / "page.md").write_text(
        "\n| start | t | u | mean |\n|---|---|---|---|\n| a | +0.10 | −0.40 | −0.150 |\n| b | – | 0.20 | |\n"
    )
    root = ElementTree.fromstring(drawing.Heat("page.md", "drawn", "Title", "| start |", 0.2).svg())
    cells = root.findall("s:rect", {"s": "http://www.w3.org/2000/svg"})[1:]
    assert [(each.get("fill"), each.get("fill-opacity")) for each in cells] == [
        (drawing.HOT, "0.50"), (drawing.COLD, "1.00"), (drawing.HOT, "1.00"),
    ]  # fmt: skip


def test_squares_say_what_their_cells_begin_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "DOCS", tmp_path)
    (tmp_path / "page.md").write_text(
        "\n| kind | on | own | PEFT |\n|---|---|---|---|\n| a | X | exact | refused (3) |\n| b | X | — | exact |\n"
        "| b | Y | refused (1) | exact |\n"
    )
    root = ElementTree.fromstring(drawing.Grid("page.md", "drawn", "Title", "| kind |", "exact", "refused").svg())
    space = {"s": "http://www.w3.org/2000/svg"}
    squares = root.findall("s:rect", space)[1:]
    (legend, *own), (_, *under) = (
        [each for each in squares if (each.get("fill") == drawing.HOT) is full] for full in (True, False)
    )
    assert legend.get("y") == "40"
    assert [each.get("y") for each in own] == ["92", "92", "111"]  # a on X, b on X, b on Y
    assert [each.get("y") for each in under] == ["92", "111"]
    a, b, c = (float(each.get("x", "nan")) for each in own)
    assert (a, b, c) == (a, b, b)
    assert b > a + 32  # another kind, and its second square
    assert len(root.findall("s:circle", space)) == 2  # the legend, and b on X


@pytest.mark.parametrize(
    "chart", [each for each in CHARTS.CHARTS if isinstance(each, CHARTS.Flow)], ids=lambda c: c.name
)
def test_texts_fit_into_their_boxes(chart: Any) -> None:
    space = {"s": "http://www.w3.org/2000/svg"}
    root = ElementTree.fromstring(chart.svg())
    boxes = root.findall("s:rect", space)[1:]
    assert len(boxes) == sum(map(len, chart.columns))
    width = float(boxes[0].get("width", "nan"))
    for text in root.findall("s:text", space)[1:]:
        assert text.text is not None
        a_letter = 7.6 if text.get("font-weight") else 6.4  # pixels; a little more than the usual fonts have
        assert a_letter * len(text.text) < width, text.text
    assert len(root.findall("s:path[@class='arrow']", space)) == len(chart.arrows)
