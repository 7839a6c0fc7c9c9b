"""`headstart predict`."""

import csv
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer

from headstart.atomic import refuse_existing, staged_file
from headstart.cli.evaluate import ModuleArgument, given_module
from headstart.cli.options import BackboneOptions, LayoutOptions, command
from headstart.cli.output import print_json, print_line
from headstart.cli.progress import listening
from headstart.errors import OutputError, TaskError
from headstart.reports.terminal import printable

__all__ = ["predict"]


@command
def predict(
    module: ModuleArgument,
    file: Annotated[Path, typer.Argument(help="JSONL, CSV, TSV or Parquet file of rows, with the task's columns.")],
    backbone: BackboneOptions,
    layout: LayoutOptions,
    labels: Annotated[
        str | None, typer.Option(help="Answers to choose from, separated by commas; default: the card's.")
    ] = None,
    input: Annotated[  # noqa: A002 - the option's name
        str | None, typer.Option(help="Column of the input, or a template with columns in braces; default: the card's.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Add the probability of every label, each as a column.")] = False,
    decoding: Annotated[str, typer.Option(help="auto, options (by likelihood) or generate (greedy).")] = "auto",
    uncalibrated: Annotated[
        bool, typer.Option("--uncalibrated", help="Compare likelihoods as they are, whatever the card says.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File to write, .csv or .jsonl; default: CSV on standard output."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, a line per row, instead of CSV.")] = False,
) -> None:
    """Answer the rows of FILE with MODULE: the same rows come out, with a label and its probability.

    Rows are read as those of the task that the module was tuned on. Open answers are in a column "answer". In a CSV, a
    text that a spreadsheet would compute (= + - @ in front) gets an apostrophe in front; JSON has it as it is.
    """
    if output is not None:
        refuse_existing(output)
        if output.suffix.lower() not in WRITERS:
            raise OutputError(f"{output} is neither .csv nor .jsonl; give it one of these endings")
    from headstart.evaluating.reading import rows_of

    rows, given = rows_of(file), given_module(module)
    model = backbone.load(given)
    from headstart.evaluating.predict import Predictor

    predictor = Predictor.of(
        given, model, labels=None if labels is None else [label.strip() for label in labels.split(",")], input=input,
        every=every, calibrated=not uncalibrated, decoding=decoding,
        text_format=layout.text_format(given.card.text_format if given else None),
    )  # fmt: skip
    with listening(f"predicting {file.name}") as listener:
        chunks = predictor.chunks(rows, progress=listener)
        if output is None:
            _write(chunks, sys.stdout, ".jsonl" if as_json else ".csv", shown=sys.stdout.isatty())
            return
        with staged_file(output) as stream:
            count = _write(chunks, stream, output.suffix.lower())
    if as_json:
        print_json({"rows": count, "file": str(output)})
        return
    print_line(f"Wrote {count:,} rows to {output}.")


def _write(chunks: Any, stream: TextIO, suffix: str, *, shown: bool = False) -> int:
    write, count = WRITERS[suffix](stream, shown), 0
    for chunk in chunks:
        for row in chunk:
            write(row)
        stream.flush()
        count += len(chunk)
    return count


def _csv(stream: TextIO, shown: bool) -> Callable[[Mapping[str, Any]], None]:
    """Writes rows as CSV; the columns are those of the first row."""
    columns: list[str] = []
    writer = csv.writer(stream, lineterminator="\n")

    def write(row: Mapping[str, Any]) -> None:
        if not columns:
            columns.extend(row)
            writer.writerow(_printed([_cell(name) for name in columns], shown))
        other = next((name for name in row if name not in columns), None)
        if other is not None:
            raise TaskError(f"a row has the column '{other}', which the first one lacks; write to a .jsonl file")
        writer.writerow(_printed([_cell(row.get(name)) for name in columns], shown))

    return write


def _jsonl(stream: TextIO, shown: bool) -> Callable[[Mapping[str, Any]], None]:
    def write(row: Mapping[str, Any]) -> None:
        stream.write(json.dumps(row, ensure_ascii=shown, default=str) + "\n")

    return write


WRITERS = {".csv": _csv, ".jsonl": _jsonl}
"""By the file's ending, what makes a function that writes one row."""


def _cell(value: object) -> object:
    if isinstance(value, list | tuple | dict):
        return json.dumps(value, ensure_ascii=False, default=str)
    return _as_text(value) if isinstance(value, str) else value


FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""With one of these in front, spreadsheets take a cell for a formula and compute it."""


def _as_text(cell: str) -> str:
    """The cell with an apostrophe in front if a spreadsheet would compute it; numbers stay."""
    if not cell.startswith(FORMULA):
        return cell
    try:
        float(cell)
    except ValueError:
        return f"'{cell}"
    return cell


def _printed(cells: Sequence[object], shown: bool) -> list[object]:
    """The cells, on a terminal without characters that would control it."""
    return [printable(cell) if shown and isinstance(cell, str) else cell for cell in cells]
