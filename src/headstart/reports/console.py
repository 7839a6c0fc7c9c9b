"""The tables of a report in the terminal."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
from rich.console import Console
from rich.text import Text

from headstart.comparing.comparison import Comparison
from headstart.comparing.decision import CONTROL, CONTROL_MEANS
from headstart.reports.cells import DASH, Footnotes, cell_text, number_text, short_family, summary_cells
from headstart.reports.fitting import Column, print_columns
from headstart.reports.tables import (
    effective_modules,
    main_metric,
    missing_table,
    ranking_table,
    starts_table,
    summary,
)
from headstart.reports.verdict import verdict

__all__ = ["frame_columns", "print_summary", "print_table"]

_TOP = 10


def frame_columns(frame: pd.DataFrame, *, numbers: Sequence[str] = ()) -> list[Column]:
    """The columns of `frame`: floats to 4 significant digits, a dash for what is missing, numbers on the right.

    The index is not shown; a family "Classification / Nli" is shown as its last part. Texts are shown as they are: `[`
    in a module's name is not markup. `numbers` names columns of texts, such as "0.5 ± 0.1", that are never broken.
    """
    columns = []
    for position in range(frame.shape[1]):
        values = frame.iloc[:, position]
        right = pd.api.types.is_numeric_dtype(values) or _all_numbers(values)
        cells = [cell_text(value) for value in values]
        if values.name == "family":
            cells = [short_family(cell) for cell in cells]
        columns.append(Column(str(values.name), cells, whole=right or values.name in numbers, right=right))
    return columns


def print_table(
    frame: pd.DataFrame, console: Console, *, title: str | None = None, numbers: Sequence[str] = ()
) -> None:
    """Print `frame` at any width of the terminal without losing a column or a digit (see `frame_columns`)."""
    if title is not None:
        console.print(Text(title, style="bold"))
    if frame.shape[1]:
        print_columns(console, frame_columns(frame, numbers=numbers))


def print_summary(comparison: Comparison, console: Console) -> None:
    """Print the verdict, the summary with its footnotes, the best modules and what was refused."""
    console.print(Text(verdict(comparison)))
    console.print()
    notes = Footnotes()
    cells = summary_cells(summary(comparison), notes)
    title = f"{comparison.task.name}: {main_metric(comparison)}"
    print_table(cells, console, title=title, numbers=list(cells.columns[1:]))
    for line in [*notes.lines(), *([CONTROL_MEANS] if CONTROL in set(comparison.scores["method"]) else [])]:
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
