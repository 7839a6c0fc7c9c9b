"""Tables in terminals of any width, without losing a column; it only needs rich, so light commands can use it."""

from collections.abc import Callable, Sequence

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

__all__ = ["needed", "print_fitting"]


def print_fitting(console: Console, columns: Sequence[str], draw: Callable[[list[str]], Table]) -> None:
    """Print the columns as one table or, if there is too little room, as several that all begin with the first one.

    `draw` makes a table from some of the columns.
    """
    first, *rest = columns
    while True:
        shown = len(rest)
        while shown > 1 and needed(draw([first, *rest[:shown]]), console) > console.width:
            shown -= 1
        console.print(draw([first, *rest[:shown]]))
        rest = rest[shown:]
        if not rest:
            return


def needed(table: Table, console: Console) -> int:
    """The smallest number of terminal columns that a table takes up."""
    return Measurement.get(console, console.options.update(width=10_000), table).minimum
