"""What commands print: tables and lines for people, strict JSON for programs."""

import json
import math
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from headstart.reports.fitting import UNLIMITED, Column, print_columns
from headstart.reports.terminal import Terminal, printable

__all__ = ["command_line", "console", "error_console", "print_json", "print_line", "print_rows"]

NUMBERS = frozenset({"rank", "parameters", "score"})
"""Columns of `print_rows` that are aligned on the right."""


def console() -> Console:
    """Standard output, for results. Where it is no terminal, lines are as long as they need to be."""
    opened = Terminal(emoji=False)  # names such as ":smile:" stay; and the table of emoji is not loaded
    if not opened.is_terminal and not os.environ.get("COLUMNS"):
        opened.width = UNLIMITED
    return opened


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


def print_rows(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], *, whole: Sequence[str] = ()) -> None:
    """Print a plain table of the named columns at any width; those in `whole` are never broken, the others wrap."""
    shown = [
        Column(
            name,
            ["" if row[name] is None else str(row[name]) for row in rows],
            whole=name in whole or name in NUMBERS,
            right=name in NUMBERS,
        )
        for name in columns
    ]
    print_columns(console(), shown, plain=True)


def command_line() -> str:
    """The command that is running, as it would be typed again."""
    return shlex.join(["headstart", *sys.argv[1:]])


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
