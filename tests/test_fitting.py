"""Tables at any width of the terminal: names may wrap, but no column and no digit is ever lost."""

import io
import os
import re
import subprocess
import sys

import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from comparison_example import make_comparison
from headstart.reports.cells import DASH, Footnotes, interval_text, number_text, summary_cells
from headstart.reports.console import print_summary, print_table
from headstart.reports.fitting import Column, print_columns
from headstart.reports.tables import ranking_table, summary
from headstart.reports.terminal import Terminal

WIDTHS = st.integers(60, 200)
FRAMED = re.compile(r"[│┃┏┓┳━┡╇┩└┴┘─┬]")


def printed(frame: pd.DataFrame, width: int, **how: object) -> str:
    console = Terminal(file=io.StringIO(), width=width, emoji=False)
    print_table(frame, console, **how)  # type: ignore[arg-type]
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def words(text: str) -> str:
    """The text without its frame and its line breaks, so that a wrapped name reads as one again."""
    return "".join(FRAMED.sub("", text).split())


def letters_in_order(name: str, text: str) -> bool:
    """Whether all the letters are there in order; between two of them may be other columns of the same lines."""
    rest = iter(text)
    return all(letter in rest for letter in "".join(name.split()))


NAMES = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cs", "Cc", "Cf", "Zl", "Zp", "Zs", "Mn", "Me", "Lm"]), max_size=70
)
FLOATS = st.floats(allow_nan=True, allow_infinity=True, width=32)
INTERVALS = st.tuples(st.floats(-1e3, 1e3), st.floats(0, 1e3)).map(lambda pair: interval_text(*pair, decimals=4))


@st.composite
def frames(draw: st.DrawFn) -> tuple[pd.DataFrame, list[str]]:
    """A column of names, then up to 12 columns of numbers, of intervals and of names."""
    rows, kinds = draw(st.integers(1, 4)), draw(st.lists(st.sampled_from(["number", "interval", "name"]), max_size=12))
    data: dict[str, list[object]] = {"module": [draw(NAMES) for _ in range(rows)]}
    intervals = []
    for place, kind in enumerate(kinds):
        name = f"{kind}{place}" + draw(st.sampled_from(["", "_of_a_long_name_without_any_blank", " of some words"]))
        data[name] = [draw({"number": FLOATS, "interval": INTERVALS, "name": NAMES}[kind]) for _ in range(rows)]
        if kind == "interval":
            intervals.append(name)
    return pd.DataFrame(data), intervals


@given(frames(), WIDTHS)
@example((pd.DataFrame({"module": ["x" * 300], "a": [0.5]}), []), 60)
def test_no_column_and_no_digit_is_lost(made: tuple[pd.DataFrame, list[str]], width: int) -> None:
    frame, intervals = made
    text = printed(frame, width, numbers=intervals)
    assert all(cell_len(line) <= width for line in text.splitlines())
    for name in frame.columns:
        whole = name in intervals or pd.api.types.is_numeric_dtype(frame[name])
        for value in frame[name]:
            cell = number_text(value) if isinstance(value, float) else value
            if whole:
                assert cell in text, f"{cell} is broken at {width}"
        assert letters_in_order(name, words(text))


@given(WIDTHS)
@settings(max_examples=10)
@example(60)
@example(70)
@example(80)
@example(90)
def test_a_summary_keeps_every_method_and_every_number(width: int) -> None:
    comparison = make_comparison()
    cells = summary_cells(summary(comparison), Footnotes())
    console = Console(file=io.StringIO(), width=width)
    print_summary(comparison, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert all(cell_len(line) <= width for line in text.splitlines())
    for row in cells.itertuples(index=False):
        for cell in row:
            assert cell in text, f"{cell} is broken at {width}"
    for weight in ranking_table(comparison)["weight"].head(10):
        assert number_text(weight) in text


def test_a_row_becomes_a_list_where_two_columns_do_not_fit() -> None:
    frame = pd.DataFrame({"module": ["a", "b"], "exact": ["0.5000 ± 0.1000 over 3 seeds and 150 rows", DASH]})
    text = printed(frame, 40, numbers=["exact"])
    assert text == ("module  a\nexact\n0.5000 ± 0.1000 over 3 seeds and 150 rows\n\nmodule  b\nexact\n—\n\n"), text
    assert "exact" in printed(frame.head(0), 20, numbers=["exact"])


def test_what_controls_a_terminal_is_measured_as_it_is_printed() -> None:
    console = Terminal(file=io.StringIO(), width=60)
    print_columns(console, [Column("name", ["\x1b[31m" * 10]), Column("score", ["0.5000"], whole=True, right=True)])
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "0.5000" in text
    assert "\x1b" not in text
    assert (text.count("\\"), text.count("m")) == (10, 10 + 1), "every letter of the cell, and the m of the heading"


@pytest.mark.parametrize("plain", [False, True])
def test_wide_letters_and_lines_are_measured(plain: bool) -> None:
    console = Terminal(file=io.StringIO(), width=60)
    columns = [Column("name", ["言葉" * 30, "two\nlines"]), Column("score", ["0.5000", "1"], whole=True, right=True)]
    print_columns(console, columns, plain=plain)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert all(cell_len(line) <= 60 for line in lines)
    assert sum("0.5000" in line for line in lines) == 1


@pytest.mark.parametrize("columns", [None, "60"])
def test_redirected_output_is_as_wide_as_it_needs_to_be(columns: str | None) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "FORCE_COLOR")}
    environment |= {"COLUMNS": columns} if columns else {}
    row = {"name": "n" * 100, "note": "word " * 60}
    code = f"from headstart.cli.output import print_rows; print_rows([{row}], {tuple(row)})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    wide = [line for line in done.stdout.splitlines() if len(line) > 60]
    assert bool(wide) == (columns is None)
    assert ("n" * 100 in done.stdout) == (columns is None)
