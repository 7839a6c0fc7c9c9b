"""What the columns of a source hold, and which of them may be the input and the target."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from headstart.tasks.sources import locate

__all__ = ["MOST_CLASSES", "MOST_DISTINCT", "Column", "describe", "guess", "source_columns"]

MOST_CLASSES = 20
"""The most distinct targets that are taken for classes."""

MOST_DISTINCT = 100_000
"""Up to this many values of a column are told apart."""

INPUTS = ("input", "text", "sentence", "question", "prompt", "document", "review", "message", "body", "content")
TARGETS = ("output", "target", "label", "class", "category", "answer", "response", "completion", "summary")
OTHERS = ("split", "options")
"""Words in the names of columns of inputs and of targets, and names that mean something else to Headstart."""

EXAMPLE = 60
"""Characters of a value that are shown."""


@dataclass(frozen=True)
class Column:
    """One column: its name, its type for people, and what its values are like.

    `rows`: how many rows have a value. `distinct`: how many values differ, `None` above `MOST_DISTINCT`. `mean`: the
    mean length in characters. `example`: the first value, cut to a line.
    """

    name: str
    type: str
    rows: int
    distinct: int | None
    mean: float
    example: str


@dataclass
class _Seen:
    types: set[str] = field(default_factory=set)
    count: int = 0
    characters: int = 0
    values: set[int] = field(default_factory=set)
    example: str = ""


def source_columns(source: str | Path) -> tuple[Column, ...]:
    """The columns of a file, a folder or a `datasets` id, over all its splits. Raises `TaskError` as `Task.load`."""
    tables = locate(source).tables.values()
    return describe(fields for rows in tables for _, fields in rows)


def describe(rows: Iterable[Mapping[str, object]]) -> tuple[Column, ...]:
    """Every column that occurs in `rows`, in the order in which they come.

    >>> [(column.name, column.type, column.distinct) for column in describe([{"a": "1"}, {"a": "2", "b": "x"}])]
    [('a', 'number', 2), ('b', 'text', 1)]
    """
    seen: dict[str, _Seen] = {}
    for row in rows:
        for name, value in row.items():
            column = seen.setdefault(name, _Seen())
            if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
                continue
            text = str(value)
            column.types.add(_type(value))
            column.count += 1
            column.characters += len(text)
            if len(column.values) <= MOST_DISTINCT:
                column.values.add(hash(text))
            column.example = column.example or _line(text)
    return tuple(
        Column(
            name,
            " or ".join(sorted(column.types)) or "empty",
            column.count,
            len(column.values) if len(column.values) <= MOST_DISTINCT else None,
            column.characters / max(1, column.count),
            column.example,
        )
        for name, column in seen.items()
    )


def guess(columns: Sequence[Column]) -> tuple[str | None, str | None]:
    """The columns that look most like an input and a target; `None` where none does.

    A target is a column named like one, else one with few values that repeat, else any; the input is, of the other
    columns of text, the one named like an input, else the one with the longest texts.
    """
    usable = [column for column in columns if column.name.lower() not in OTHERS and column.rows]
    likely = [column for column in usable if _repeats(column) or (column.type == "text" and _named(column, TARGETS))]
    targets = sorted(likely, key=lambda column: (not _named(column, TARGETS), not _repeats(column)))
    texts = [column for column in usable if column.type == "text" and column not in targets[:1]]
    texts.sort(key=lambda column: (_repeats(column), not _named(column, INPUTS), -column.mean))
    targets += [column for column in usable if column not in texts[:1]]
    return next((column.name for column in texts), None), next((column.name for column in targets), None)


def _line(text: str) -> str:
    """`text` on one line, whose end is "…" if it was cut."""
    line = " ".join(text[: 4 * EXAMPLE].split())
    return line if len(line) <= EXAMPLE and len(text) <= 4 * EXAMPLE else f"{line[: EXAMPLE - 1].rstrip()}…"


def _repeats(column: Column) -> bool:
    return column.distinct is not None and 2 <= column.distinct <= MOST_CLASSES and 2 * column.distinct <= column.rows


def _named(column: Column, words: Sequence[str]) -> bool:
    """Whether a word of the column's name begins with one of `words`."""
    return any(part.startswith(tuple(words)) for part in re.findall("[a-z]+", column.name.lower()))


def _type(value: object) -> str:
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "number"
    if isinstance(value, list | tuple):
        return "list"
    if not isinstance(value, str):
        return type(value).__name__
    try:
        float(value)
    except ValueError:
        return "text"
    return "number"
