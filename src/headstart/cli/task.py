"""`headstart task`."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headstart.cli.options import (
    AsJson,
    DeviceOption,
    DtypeOption,
    RecipeOptions,
    TaskOptions,
    command,
    load_backbone,
)
from headstart.cli.output import console, print_json, print_line
from headstart.errors import TaskError

if TYPE_CHECKING:
    from headstart.tasks.columns import Column
    from headstart.tasks.inspecting import Inspection

__all__ = ["task"]

PARTS = {
    "columns": "Columns",
    "splits": "Splits",
    "classes": "Classes",
    "guesses": "What guessing scores",
    "lengths": "Lengths",
    "problems": "Look at these",
}
"""The tables that are printed, and their titles."""


@command
def task(
    options: TaskOptions,
    recipe: RecipeOptions,
    backbone: Annotated[
        str | None, typer.Option("--backbone", "-b", help="Show and count the tokens of this frozen model.")
    ] = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    write: Annotated[
        bool, typer.Option("--write", help="Save the settings beside the data, so that no command needs them again.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show what is understood of TASK: columns, splits, classes, prompts, lengths.

    Prompts are laid out, and with a backbone cut, as the recipe and the options of the layout say.
    """
    from headstart.tasks.columns import source_columns
    from headstart.tasks.inspecting import inspect_task
    from headstart.tasks.settings import write_settings
    from headstart.tasks.showing import words_of

    layout, columns = recipe.load().text_format, source_columns(options.task)
    try:
        data = options.load()
    except TaskError:
        if not as_json:
            _print_columns(columns)
        raise
    model = None if backbone is None else load_backbone(backbone, device, dtype)
    found = inspect_task(data, columns=columns, backbone=model, text_format=layout)
    written = write_settings(data.card, options.task) if write else None
    if as_json:
        print_json(found.to_dict() | {"written": None if written is None else str(written)})
        return
    _print(found, words_of(data.card, data.splits))
    if model is not None:
        cut = "Inputs are cut" if found.lengths["cut"].any() else "No input is cut: inputs are read"
        print_line(f"\n{cut} as recipe {recipe.recipe} does it{_other_recipe(recipe.recipe)}.")
    if written is not None:
        print_line(f"Saved {written}: {options.task} needs no options now.")


def _print(found: "Inspection", title: str) -> None:
    from headstart.reports.console import print_table

    print_line(title)
    for name, heading in PARTS.items():
        frame: Any = getattr(found, name)
        if len(frame):
            print_line("")
            print_table(frame.drop(columns="note", errors="ignore"), console(), title=heading)
        if name == "guesses":
            for note in frame["note"].unique():
                print_line(note)
    for row in found.prompts.to_dict("records"):
        prompt, target = _counted(row, "prompt"), _counted(row, "target")
        print_line(f"\nA row of {row['split']} as the model reads it{prompt}:\n{row['prompt']}")
        print_line(f"and what it is to answer{target}:\n{row['target']}")


def _other_recipe(shown: str) -> str:
    """What `fit` does, unless that is what is shown."""
    from headstart.fitting.defaults import DEFAULTS

    return "" if shown == DEFAULTS.recipe else f"; headstart fit tunes with {DEFAULTS.recipe}, --recipe shows that"


def _counted(row: Mapping[Any, Any], text: str) -> str:
    count = row.get(f"{text}_tokens")
    return "" if count is None else f", {count} token{'s' * (count != 1)}"


def _print_columns(columns: "tuple[Column, ...]") -> None:
    import pandas as pd

    from headstart.reports.console import print_table

    if not columns:
        return
    frame = pd.DataFrame([vars(column) for column in columns]).rename(columns={"name": "column"})
    print_table(frame[["column", "type", "rows", "distinct", "example"]], console(), title="Columns")
