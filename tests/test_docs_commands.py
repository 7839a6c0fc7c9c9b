"""Every command on a documentation page is one that the program understands, options and all."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from headstart.cli.program import app

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`headstart ([^`]+)`")
ENDS = {"|", ">", "&&", "2>/dev/null"}
"""What ends a command in a shell."""
PLACEHOLDERS = {"COMMAND --help"}
UsageError: Any = typer.BadParameter.__base__
"""Which of typer's versions imports from click, and which holds itself."""


def commands(text: str) -> list[list[str]]:
    """The arguments of each command in the blocks of a page."""
    lines = (line.strip() for block in BLOCK.findall(text) for line in block.replace("\\\n", " ").splitlines())
    found = (shlex.split(line.removeprefix("$ "), comments=True) for line in lines if is_command(line))
    return [list(until_end(words[1:])) for words in found]


def is_command(line: str) -> bool:
    return line.removeprefix("$ ").startswith("headstart ")


def mentioned(text: str) -> list[list[str]]:
    """The arguments of each command within a sentence, which may lack some."""
    found = (" ".join(words.split()) for words in INLINE.findall(BLOCK.sub("", text)))
    return [shlex.split(words) for words in found if words not in PLACEHOLDERS]


def until_end(words: list[str]) -> Iterator[str]:
    for word in words:
        if word in ENDS:
            return
        yield word


def understood(arguments: list[str], *, whole: bool) -> None:
    """Parse the arguments as the program does; raises `UsageError`. Arguments may be missing unless `whole`."""
    command: Any = typer.main.get_command(app)
    context = typer.Context(command, info_name="headstart")
    while hasattr(command, "resolve_command") and arguments and not arguments[0].startswith("-"):
        name, command, arguments = command.resolve_command(context, arguments)
        context = typer.Context(command, info_name=name, parent=context)
    if not whole:
        command.make_parser(context).parse_args(arguments)
    elif "--help" not in arguments:
        command.make_context(context.info_name, arguments, parent=context.parent)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_of_a_page_are_understood(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for arguments in commands(text):
        try:
            understood(arguments, whole=True)
        except UsageError as error:
            pytest.fail(f"headstart {shlex.join(arguments)}: {error.format_message()}")
    for arguments in mentioned(text):
        try:
            understood(arguments, whole=False)
        except UsageError as error:
            pytest.fail(f"headstart {shlex.join(arguments)}: {error.format_message()}")


def test_pages_show_commands_and_mistakes_in_them_are_found() -> None:
    assert sum(len(commands(page.read_text(encoding="utf-8"))) for page in PAGES) > 30
    for mistake in ("rank --hubb h", "hub lst my-hub", "store prune --keep"):
        with pytest.raises(UsageError):
            understood(mistake.split(), whole=False)
    with pytest.raises(UsageError):
        understood(["ensemble", "task"], whole=True)
