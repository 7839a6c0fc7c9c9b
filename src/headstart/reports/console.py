"""The tables of a report in the terminal."""

from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from headstart.comparing.comparison import Comparison
from headstart.reports.cells import DASH, Footnotes, cell_text, number_text, short_family, summary_cells
from headstart.reports.fitting import needed, print_fitting
from headstart.reports.tables import (
    effective_modules,
    main_metric,
    missing_table,
    ranking_table,
    starts_table,
    summary,
)
from headstart.reports.verdict import verdict

__all__ = ["print_summary", "print_table", "table"]

_TOP = 10
LEAST = 24
"""Characters of the first column that are kept together if there is room."""
WIDE = 110
"""How many columns of the terminal the scores need with a row for each method."""


def table(frame: pd.DataFrame, *, title: str | None = None, least: int = LEAST) -> Table:
    """`frame` as a rich table: floats to 4 significant digits, a dash for what is missing, numbers on the right.

    The index is not shown; a family "Classification / Nli" is shown as its last part. Texts are shown as they are: `[`
    in a module's name is not markup. The first column is folded if necessary, but not below `least` characters.
    """
    result = Table(title=Text(title) if title else None, title_justify="left", title_style="bold", header_style="bold")
    columns = [
        column.map(short_family) if column.name == "family" else column
        for column in (frame.iloc[:, position] for position in range(frame.shape[1]))
    ]
    for position, column in enumerate(columns):
        right = pd.api.types.is_numeric_dtype(column) or _all_numbers(column)
        longest = max(map(len, map(cell_text, column)), default=0)
        result.add_column(
            Text(str(column.name)),
            justify="right" if right else "left",
            overflow="fold",
            no_wrap=right,
            min_width=None if right else min(12 if position else least, max(longest, len(str(column.name)))),
        )
    for row in zip(*columns, strict=True):
        result.add_row(*(Text(cell_text(value)) for value in row))
    return result


def print_table(frame: pd.DataFrame, console: Console, *, title: str | None = None) -> None:
    """Print `frame` as one table or, if the terminal is too narrow, as several that all begin with its first column.

    No number is ever cut off.
    """

    def draw(columns: list[str]) -> Table:
        whole = table(frame[columns])
        over = needed(whole, console) - console.width
        if len(columns) > 2 or over <= 0:
            return whole
        return table(frame[columns], least=max(1, LEAST - over))

    if title is not None:
        console.print(Text(title, style="bold"))
    print_fitting(console, [str(name) for name in frame.columns], draw)


def print_summary(comparison: Comparison, console: Console) -> None:
    """Print the verdict, the summary with its footnotes, the best modules and what was refused."""
    console.print(Text(verdict(comparison)))
    console.print()
    notes = Footnotes()
    cells = summary_cells(summary(comparison), notes)
    if console.width < WIDE:  # a column for each method needs less room than one for each number
        cells = cells.set_index("Method").T.rename_axis(None, axis="columns").reset_index(names="")
    scores = table(cells, title=f"{comparison.task.name}: {main_metric(comparison)}")
    for position, column in enumerate(scores.columns):
        column.justify = "right" if position else "left"
    console.print(scores)
    for line in notes.lines():
        console.print(Text(line, style="dim"))
    console.print()
    starts = starts_table(comparison).drop(columns=["modules", "space", "error"])
    if len(starts):
        print_table(starts.replace({"same_as": ""}, DASH), console, title="What each method begins from")
    _print_ranking(comparison, console)
    missing = missing_table(comparison)
    if len(missing):
        print_table(missing, console, title="Without a value")
    if len(comparison.refused):
        print_table(comparison.refused, console, title=f"Refused: {len(comparison.refused)}")
    for note in comparison.notes:
        console.print(Text(f"Note: {note}"))


def _print_ranking(comparison: Comparison, console: Console) -> None:
    ranking = ranking_table(comparison)
    if ranking.empty:
        return
    shown = ranking[["module", "family", "weight", *comparison.indicators]].head(_TOP)
    more = f", best {_TOP} of {len(ranking)}" if len(ranking) > _TOP else ""
    print_table(shown, console, title=f"Modules{more}, mean over seeds")
    effective = effective_modules(comparison)["effective"].mean()
    console.print(
        Text(f"Effective number of modules in {comparison.subject} (1/Σw²): {number_text(effective, digits=3)}")
    )


def _all_numbers(column: "pd.Series[Any]") -> bool:
    known = column.dropna()
    return len(known) > 0 and all(pd.api.types.is_number(value) for value in known)
