"""Write docs/cli.md from the program's own help: `python docs/write_cli.py`. A test compares the two."""

from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import typer
from typer import rich_utils
from typer.testing import CliRunner

from headstart.cli import app
from headstart.cli.commands import Deferred

__all__ = ["PAGE", "page"]

PAGE = Path(__file__).with_name("cli.md")
WIDTH = 100
"""Columns of the help on the page."""

INTRODUCTION = """\
# Command line

Every command explains itself: `headstart --help`, `headstart COMMAND --help`. A command prints a table for people, or
JSON with `--json`; progress and notes go to standard error.

| exit code | meaning |
|---:|---|
| 0 | done |
| 1 | done, and something was found wrong: a module that `hub add` refused, a problem that `hub check` saw |
| 2 | a mistake that you can correct; the message says how, and no result was written |
| 130 | stopped with Ctrl-C |
| 143 | stopped with SIGTERM, which `kill` and schedulers send |

Results appear whole or not at all, and never over something that exists. What takes long is kept in the
[store](store.md): a command that was killed continues where it was when it is given again, and what was computed
before, by whichever command, is not computed again.

![The commands, in the order in which most people meet them](images/cli.svg)
"""


def commands(group: typer.Typer) -> Iterator[str]:
    """The program itself ("") and all below it, as the user types them, in the order of the help."""
    waiting = [("", typer.main.get_command(group))]
    while waiting:
        path, command = waiting.pop(0)
        command = command.load() if isinstance(command, Deferred) else command
        children = [(f"{path} {name}".strip(), child) for name, child in getattr(command, "commands", {}).items()]
        waiting = children + waiting
        yield path


def help_of(command: str) -> str:
    """What `headstart COMMAND --help` prints."""
    # typer reads these from the environment when it is imported: CI machines and terminals must not change the page.
    with patch.multiple(rich_utils, MAX_WIDTH=WIDTH, FORCE_TERMINAL=False):
        result = CliRunner().invoke(app, [*command.split(), "--help"], prog_name="headstart")
    return "\n".join(line.rstrip() for line in result.stdout.strip().splitlines())


def page() -> str:
    """The page as it should be."""
    parts = [
        f"## headstart {command}".rstrip() + f"\n\n```text\n{help_of(command)}\n```\n" for command in commands(app)
    ]
    return "\n".join([INTRODUCTION, *parts])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
