"""What commands print: tables and lines for people, strict JSON for programs."""

import json
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from headstart.reports.fitting import print_fitting
from headstart.reports.terminal import Terminal, printable

__all__ = ["console", "error_console", "print_json", "print_line", "print_rows", "rows_table"]

NUMBERS = frozenset({"rank", "parameters", "score"})
"""Columns of `rows_table` that are aligned on the right."""


def console() -> Console:
    """Standard output, for results."""
    return Terminal(emoji=False)  # names such as ":smile:" stay; and the table of emoji is not loaded


def error_console() -> Console:
    """Standard error, for progress and errors."""
    return Terminal(stderr=True, emoji=False)


def print_json(data: Any) -> None:
    """Print one strict JSON document on standard output; NaN and infinity become null.

    Characters are printed as they are, except those that control a terminal, which become JSON escapes.
    """
    text = json.dumps(_finite(data), indent=1, ensure_ascii=not _any_letter(), allow_nan=False)
    sys.stdout.write(printable(text, spell=lambda letter: json.dumps(letter)[1:-1]) + "\n")


def print_line(text: str, *, error: bool = False) -> None:
    """Print `text` as it is, never broken into lines, on standard output or standard error."""
    (error_console() if error else console()).print(Text(text), soft_wrap=True)


def rows_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], *, whole: Sequence[str] = ()) -> Table:
    """A plain table of the named columns; those in `whole` are never broken, the others wrap at words."""
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for column in columns:
        justify: Literal["left", "right"] = "right" if column in NUMBERS else "left"
        table.add_column(column, no_wrap=column in whole, overflow="fold", justify=justify, min_width=len(column))
    for row in rows:
        table.add_row(*(Text("" if row[column] is None else str(row[column])) for column in columns))
    return table


def print_rows(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], *, whole: Sequence[str] = ()) -> None:
    """Print a plain table or, if the terminal is too narrow, several that all begin with the first column."""
    print_fitting(console(), columns, lambda some: rows_table(rows, some, whole=whole))


def _finite(data: Any) -> Any:
    """`data` with null for every number that JSON cannot hold."""
    if isinstance(data, Mapping):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


def _any_letter() -> bool:
    """Whether standard output can print all of Unicode; if not, JSON is printed with escapes."""
    return (sys.stdout.encoding or "utf-8").lower().startswith("utf")
