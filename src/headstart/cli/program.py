"""The `headstart` program as a whole, and what a user sees when something goes wrong."""

import os
import sys
from typing import Annotated

import typer
from rich.text import Text

from headstart.cli.commands import Program
from headstart.cli.output import error_console, print_line
from headstart.errors import HeadstartError

__all__ = ["app", "run"]

app = typer.Typer(
    name="headstart",
    cls=Program,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Find, blend and tune the parameter-efficient modules you already have, to give a new task a head start.",
)


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version  # imports the library for e-mail, which commands do not need

        print_line(f"headstart {version('headstart')}")
        raise typer.Exit


@app.callback()
def _program(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


def run() -> None:
    """Run the program; a user's mistake prints one paragraph and exits with 2."""
    # GNU's OpenMP lets idle threads spin for long, which makes two programs on one machine many times slower; without
    # any spinning, a single program is 1.6 times slower. A spin of some microseconds is as fast as the longest.
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    # pydantic, which parses options and cards, would look for its own plug-ins in every installed package.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    try:
        app(prog_name="headstart")
    except HeadstartError as error:
        error_console().print(Text.assemble(("error: ", "bold red"), error.on_command_line), soft_wrap=True)
        sys.exit(2)
