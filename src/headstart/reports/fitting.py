"""Tables in terminals of any width: names wrap, numbers never do. It only needs rich, so light commands can use it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from headstart.reports.terminal import printable

__all__ = ["LEAST", "UNLIMITED", "Column", "print_columns"]

LEAST = 12
"""Characters of a text column that are kept together in every terminal."""
READABLE = 24
"""Characters of the first column that are kept together if all columns fit beside it."""
UNLIMITED = 100_000
"""Width of an output that is no terminal: nothing is wrapped there."""

_NUMBER = re.compile(r"^\W*\d[\d.,:]*(?:e[-+−]?\d+)?\W*$")
_GAP = 3
"""Characters between two columns: a space on both sides of a line."""


@dataclass(frozen=True)
class Column:
    """A column of a table: its name, its cells, whether they may wrap, and whether they stand on the right."""

    name: str
    cells: Sequence[str]
    whole: bool = False
    right: bool = False

    @cached_property
    def texts(self) -> tuple[str, ...]:
        """The cells as they are printed."""
        return tuple(printable(cell).expandtabs(4) for cell in self.cells)

    @cached_property
    def heading(self) -> str:
        """The name as it is printed."""
        return " ".join(printable(self.name).split())

    @cached_property
    def widest(self) -> int:
        """The width of the longest cell."""
        return max((cell_len(line) for text in self.texts for line in text.split("\n")), default=0)

    @cached_property
    def natural(self) -> int:
        """The width that it takes up where there is room."""
        return max(self.widest, cell_len(self.heading), 1)

    @cached_property
    def minimum(self) -> int:
        """The smallest width in which no number is broken."""
        heading = max(map(cell_len, self.heading.split()), default=0)
        if self.whole:
            return max(self.widest, min(heading, LEAST), 1)
        words = (word for text in self.texts for word in text.split())
        numbers = [cell_len(word) for word in words if _NUMBER.search(word)]
        return min(self.natural, max(LEAST, *numbers, 0))


def print_columns(console: Console, columns: Sequence[Column], *, plain: bool = False) -> None:
    """Print the columns as one table; where that is too wide, as several tables that all begin with the first column.

    Where not even two columns fit, every row is printed as a list of names and values. `plain`: without frames.
    Without columns, nothing is printed.
    """
    if not columns:
        return
    groups = _groups(columns, console.width, plain=plain)
    if groups is None:
        _print_records(console, columns)
        return
    for group in groups:
        console.print(_table(group, console.width, plain=plain))


def _groups(columns: Sequence[Column], width: int, *, plain: bool) -> list[list[Column]] | None:
    """The columns of each table, or `None` if some column does not fit beside the first one."""
    first, *rest = columns
    if _needed([first], plain=plain) > width:
        return None
    groups = [[first]]
    for column in rest:
        if _needed([*groups[-1], column], plain=plain) <= width:
            groups[-1].append(column)
        elif _needed([first, column], plain=plain) <= width:
            groups.append([first, column])
        else:
            return None
    return groups


def _needed(columns: Sequence[Column], *, plain: bool) -> int:
    return sum(column.minimum for column in columns) + _frame(columns, plain=plain)


def _frame(columns: Sequence[Column], *, plain: bool) -> int:
    """The width of all gaps and edges."""
    return _GAP * len(columns) + (-1 if plain else 1)


def _table(columns: Sequence[Column], width: int, *, plain: bool) -> Table:
    """The columns as a rich table. Every width is given, because rich itself would cut a column that it shrank."""
    widths = _widths(columns, width - _frame(columns, plain=plain))
    table = Table(box=box.SIMPLE_HEAD if plain else box.HEAVY_HEAD, pad_edge=not plain, header_style="bold")
    for column, given in zip(columns, widths, strict=True):
        table.add_column(
            Text(column.heading),
            justify="right" if column.right else "left",
            overflow="fold",
            no_wrap=column.whole and given >= column.natural,
            width=given,
        )
    for cells in zip(*(column.texts for column in columns), strict=True):
        table.add_row(*(Text(cell, no_wrap=column.whole) for cell, column in zip(cells, columns, strict=True)))
    return table


def _widths(columns: Sequence[Column], room: int) -> list[int]:
    """The width of each column: its smallest, and what is left over goes to the narrowest that want more."""
    widths = [column.minimum for column in columns]
    left = room - sum(widths)
    if sum(column.natural for column in columns) <= room:
        return [column.natural for column in columns]
    while left > 0:
        wanting = [place for place, column in enumerate(columns) if widths[place] < column.natural]
        # The first column, which names the row, comes before the others until it can be read.
        first = wanting[0] == 0 and widths[0] < READABLE
        widths[0 if first else min(wanting, key=widths.__getitem__)] += 1
        left -= 1
    return widths


def _print_records(console: Console, columns: Sequence[Column]) -> None:
    """Every row as lines of a name and a value; a value that does not fit beside its name stands below it."""
    indent = min(max(cell_len(column.heading) for column in columns), console.width // 3)
    room = max(console.width - indent - 2, 1)
    rows = list(zip(*(column.texts for column in columns), strict=True))
    if not rows:
        console.print(Text(", ".join(column.heading for column in columns)), soft_wrap=True)
    for row in rows:
        for column, cell in zip(columns, row, strict=True):
            if column.minimum > room or cell_len(column.heading) > indent:
                console.print(Text(column.heading, style="bold"), overflow="fold")
                console.print(Text(cell), soft_wrap=True)
                continue
            for place, line in enumerate(Text(cell).wrap(console, room, overflow="fold") or [Text()]):
                name = "" if place else column.heading
                console.print(Text.assemble((name, "bold"), " " * (indent + 2 - cell_len(name)), line))
        console.print()
