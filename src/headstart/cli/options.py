"""Options that several commands share, and the consoles they print on."""

import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from headstart.errors import SettingError
from headstart.reports.fitting import print_fitting

if TYPE_CHECKING:
    from headstart.backbones import Backbone
    from headstart.hub import Hub
    from headstart.tasks import Task
    from headstart.tuning.recipes import Recipe

__all__ = [
    "AsJson",
    "BackboneOption",
    "DeviceOption",
    "DtypeOption",
    "HubOption",
    "KindOption",
    "MetricOption",
    "OutputOption",
    "RecipeOption",
    "SeedOption",
    "SetOption",
    "ShotsOption",
    "TaskArgument",
    "console",
    "error_console",
    "load_backbone",
    "load_recipe",
    "load_task",
    "print_json",
    "print_line",
    "print_rows",
    "progress_bar",
    "rows_table",
    "steps_bar",
]

TaskArgument = Annotated[
    str, typer.Argument(help="JSONL/CSV/TSV/Parquet file, folder with splits and task.json, or datasets id.")
]
BackboneOption = Annotated[
    str, typer.Option("--backbone", "-b", help="Folder, .gguf file or hub id of the frozen model.")
]
KindOption = Annotated[str | None, typer.Option("--kind", help="Only the hub's modules of this kind, such as lora.")]
HubOption = Annotated[Path, typer.Option("--hub", help="Hub folder made by `headstart hub add`.")]
OutputOption = Annotated[Path, typer.Option("--output", "-o", help="Folder to write; it must not exist.")]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")]
DtypeOption = Annotated[str, typer.Option(help="auto, float32, bfloat16, float16.")]
SeedOption = Annotated[int, typer.Option(help="Seed of draws, fresh modules and row order.")]
MetricOption = Annotated[str | None, typer.Option(help="Metric that replaces the task card's.")]
RecipeOption = Annotated[str, typer.Option(help="Named recipe: few-shot, full, tupate or quick.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="Change one setting of the recipe, as name=value; repeatable.")
]
ShotsOption = Annotated[
    int | None, typer.Option(help="Few-shot draw of K rows per class (4K without classes) from train and dev.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]

NUMBERS = frozenset({"rank", "parameters", "score"})
"""Columns of `rows_table` that are set flush right."""


def console() -> Console:
    """For results: standard output."""
    return Console()


def error_console() -> Console:
    """For progress and errors: standard error."""
    return Console(stderr=True)


def print_json(data: Any) -> None:
    """Print one strict JSON document on standard output; NaN and infinity become null."""
    sys.stdout.write(json.dumps(_finite(data), indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def print_line(text: str, *, error: bool = False) -> None:
    """Print `text` as it is, never broken into lines, on standard output or standard error."""
    (error_console() if error else console()).print(Text(text), soft_wrap=True)


def open_hub(path: Path, kind: str | None) -> "Hub":
    """The hub a command reads, or its modules of one kind."""
    from headstart.hub import Hub

    opened = Hub.open(path)
    return opened if kind is None else opened.of_kind(kind)


def load_task(source: str, metric: str | None, *, seed: int = 0, family: str | None = None) -> "Task":
    """The task a command is about."""
    from headstart.tasks import Task

    return Task.load(source, metric=metric, family=family, seed=seed)


def load_backbone(source: str, device: str, dtype: str) -> "Backbone":
    """The backbone a command runs; this is where torch is first imported."""
    with error_console().status(Text(f"loading the backbone {source}")):
        from headstart.backbones import Backbone

        return Backbone.load(source, device=device, dtype=dtype)


def load_recipe(name: str, settings: list[str] | None) -> "Recipe":
    """A named recipe with `name=value` changes; values are read as JSON where they can be."""
    from headstart.tuning.recipes import RECIPES

    changes: dict[str, Any] = {}
    for setting in settings or []:
        key, separator, value = setting.partition("=")
        if not separator:
            raise SettingError(f"--set {setting} is not of the form name=value; write for example --set max_steps=100")
        try:
            changes[key] = json.loads(value)
        except json.JSONDecodeError:
            changes[key] = value
    return RECIPES[name].change(**changes)


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
    """Print a plain table, as several that begin with the first column where the terminal is too narrow for one."""
    print_fitting(console(), columns, lambda some: rows_table(rows, some, whole=whole))


@contextmanager
def progress_bar(what: str) -> Iterator[Any]:
    """A bar on standard error; yields a function of (done, total, note)."""
    what_column, note = (TextColumn(text, markup=False) for text in ("{task.description}", "{task.fields[note]}"))
    columns = (what_column, BarColumn(), TaskProgressColumn(), TimeRemainingColumn(), note)
    screen = error_console()
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as bar:
        row = bar.add_task(what, total=None, note="")
        yield lambda done, total, note="": bar.update(row, completed=done, total=total, note=note)


@contextmanager
def steps_bar() -> Iterator[Any]:
    """A bar for work in several phases; yields a function of (what, done, total)."""
    with progress_bar("starting") as show:
        yield lambda what, done, total: show(done, total, what)


def _finite(data: Any) -> Any:
    """`data` with null for every number that JSON has no word for."""
    if isinstance(data, Mapping):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data
