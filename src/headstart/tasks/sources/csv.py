"""CSV and TSV: the first line names the columns; quoted fields may hold separators and line ends.

Where a comma is the decimal sign, spreadsheets write CSV with semicolons: a first line with these and no comma says so.
"""

import csv
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path

from headstart.errors import TaskError
from headstart.tasks.sources.rows import Rows, numbered_lines

__all__ = ["read_csv", "read_tsv"]


def read_csv(path: Path) -> Rows:
    """The rows of a file with commas or semicolons (also `.gz`).

    Raises `TaskError` for a bad header, quote or row length.
    """
    lines = _lines(path)
    first = list(islice(lines, 1))
    semicolons = bool(first) and ";" in first[0] and "," not in first[0]
    yield from _read(path, chain(first, lines), separator=";" if semicolons else ",")


def read_tsv(path: Path) -> Rows:
    """The rows of a tab-separated file (also `.gz`). Raises `TaskError` for a bad header, quote or row length."""
    return _read(path, _lines(path), separator="\t")


def _lines(path: Path) -> Iterator[str]:
    return (line for _, line in numbered_lines(path))


def _read(path: Path, lines: Iterator[str], *, separator: str) -> Rows:
    # strict: otherwise a stray quote would silently swallow all lines up to the next one
    table = csv.reader(lines, delimiter=separator, strict=True)
    records = _records(path, table)
    _, header = next(records, ("", []))
    if not header or not all(name.strip() for name in header) or len(set(header)) < len(header):
        shown = ", ".join(repr(name) for name in header) or "nothing"
        raise TaskError(f"{path}, line 1: no header, found {shown}; name each column once in the first line")
    for where, values in records:
        if len(values) != len(header):
            raise TaskError(
                f"{where}: {len(values)} values for the {len(header)} columns {', '.join(header)}; "
                "check separators and quotes, and that the first line names the columns"
            )
        yield where, dict(zip(header, (value or None for value in values), strict=True))


def _records(path: Path, table: Iterator[list[str]]) -> Iterator[tuple[str, list[str]]]:
    start = 1
    while True:
        where = f"{path}, line {start}"
        try:
            values = next(table)
        except StopIteration:
            return
        except csv.Error as error:
            if "new-line character" in str(error):
                raise TaskError(
                    f"{path}: some lines end in a single carriage return (CR), as old programs for the Macintosh "
                    "write them; save the file with line ends LF or CRLF"
                ) from error
            raise TaskError(f"{where}: {error}; double each quote inside a quoted field, or use JSONL") from error
        start = table.line_num + 1  # type: ignore[attr-defined]
        if values:
            yield where, values
