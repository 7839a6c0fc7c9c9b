"""Run what docs/your-data.md shows and write what comes out into it: `python docs/write_your_data.py`.

A test compares the page with what comes out today. Commands with a backbone are run if it is there, else left alone.
"""

import contextlib
import doctest
import io
import os
import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

from headstart import cli

__all__ = ["PAGE", "filled"]

PAGE = Path(__file__).with_name("your-data.md")
BACKBONE = Path(__file__).parents[1] / ".cache" / "backbones" / "smollm2-135m"
WIDTH = 100
"""Columns of the terminal on the page."""

FENCE = re.compile(r"```(python|pycon|console|json)( title=\"(?P<title>[^\"]+)\")?\n(?P<body>.*?)```", re.DOTALL)


def filled(page: str, *, backbone: Path | None) -> str:
    """The page with its outputs as they are now, from an empty folder. `backbone`: what smollm2-135m stands for."""
    names: dict[str, Any] = {}
    kinds: dict[str, Callable[[str], str]] = {
        "python": lambda body: _python(body, names),
        "pycon": lambda body: _pycon(body, names),
        "console": lambda body: _console(body, backbone),
    }

    def renewed(match: re.Match[str]) -> str:
        kind, title, body = match[1], match["title"], match["body"]
        if kind == "json":
            if title is None:
                return match[0]
            body = Path(title).read_text(encoding="utf-8")
        else:
            body = kinds[kind](body)
        return f"```{kind}{match[2] or ''}\n{body}```"

    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder), patch.dict(os.environ, COLUMNS=str(WIDTH)):
        return FENCE.sub(renewed, page)


def _python(body: str, names: dict[str, Any]) -> str:
    exec(body, names)  # the page's own code
    return body


def _pycon(body: str, names: dict[str, Any]) -> str:
    made = []
    for example in doctest.DocTestParser().get_examples(body):
        with contextlib.redirect_stdout(io.StringIO()) as said:
            try:
                exec(compile(example.source, "<page>", "single"), names)
            except Exception as error:  # the page shows it
                print(f"Traceback (most recent call last):\n    …\n{type(error).__name__}: {error}")  # noqa: T201
        first, *rest = example.source.splitlines()
        made += [f">>> {first}", *(f"... {line}" for line in rest), *said.getvalue().splitlines()]
    return "".join(f"{line}\n" for line in made)


def _console(body: str, backbone: Path | None) -> str:
    commands = [line for line in body.splitlines() if line.startswith("$ ")]
    if any("smollm2" in command for command in commands) and backbone is None:
        return body
    return "".join(f"{line}\n" for command in commands for line in (command, *_said(command, backbone)))


def _said(command: str, backbone: Path | None) -> list[str]:
    """The lines that a command prints, on both outputs, without what only slow machines say.

    Of a command that ends in `2>/dev/null | tail -3`, the last three on standard output.
    """
    command, _, tail = command.removeprefix("$ ").partition(" 2>/dev/null | tail -")
    words = command.split()
    arguments = [str(backbone) if word == "smollm2-135m" else word for word in words]
    with (
        patch.object(sys, "argv", arguments),
        contextlib.redirect_stdout(io.StringIO()) as said,
        contextlib.redirect_stderr(io.StringIO() if tail else said),
        contextlib.suppress(SystemExit),
    ):
        cli.main()
    lines = [line.rstrip() for line in said.getvalue().splitlines() if not line.startswith("loading the backbone")]
    return lines[-int(tail or 0) :]


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), backbone=BACKBONE if BACKBONE.exists() else None), "utf-8")
