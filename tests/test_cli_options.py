"""How groups of options become the options of a command, and how running work shows."""

import inspect
from dataclasses import dataclass
from typing import Annotated

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from headstart.cli import progress
from headstart.cli.options import Options, command
from headstart.cli.progress import listening
from headstart.events import Note, Progress, UnitEvent


@dataclass(frozen=True)
class Colours(Options):
    ground: Annotated[str, typer.Argument(help="What is below.")]
    ink: Annotated[str, typer.Option("--ink", "-i", help="What is above.")] = "black"


@dataclass(frozen=True)
class Shades(Colours):
    ink: Annotated[str, typer.Option(help="Another default.")] = "grey"
    dark: bool = False


def program(function: object) -> typer.Typer:
    app = typer.Typer()
    app.command()(function)  # type: ignore[arg-type]
    return app


def test_a_group_becomes_its_options_and_arrives_whole() -> None:
    @command
    def paint(colours: Colours, *, times: int = 1) -> None:
        """Paint."""
        typer.echo(f"{colours} {times}")

    assert list(inspect.signature(paint).parameters) == ["ground", "ink", "times"]
    said = CliRunner().invoke(program(paint), ["wall", "-i", "red", "--times", "2"])
    assert said.stdout.strip() == "Colours(ground='wall', ink='red') 2"
    assert CliRunner().invoke(program(paint), []).exit_code == 2


def test_a_group_can_extend_another() -> None:
    @command
    def paint(colours: Shades) -> None:
        typer.echo(str(colours))

    assert CliRunner().invoke(program(paint), ["wall"]).stdout.strip() == str(Shades("wall", "grey", False))


def test_two_groups_with_one_option_are_a_mistake_of_ours() -> None:
    def paint(colours: Colours, shades: Shades) -> None: ...

    with pytest.raises(ValueError, match="duplicate parameter name: 'ground'"):
        command(paint)


def test_off_a_terminal_progress_is_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with listening("ranking") as listener:
        listener(Progress("scoring", 1, 40))
        now = 109.9
        listener(Progress("scoring", 2, 40))
        now = 110.0
        listener(Progress("scoring", 3, 40, "el2n"))
        listener(Progress("scoring", 4, 40))
        listener(Note("dan was left out"))
        listener(UnitEvent("tune", "ab", "scratch", "started"))
        now = 120.0
        listener(Progress("tuning", 5))
    said = capsys.readouterr()
    assert said.err == "scoring: 3 of 40  el2n\ndan was left out\ntuning: 5\n"
    assert said.out == ""


def test_a_terminal_shows_a_bar_that_says_what_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    with open("/dev/null", "w", encoding="utf-8") as nowhere:  # noqa: PTH123 - a device
        screen = Console(file=nowhere, force_terminal=True, width=100, record=True)
        monkeypatch.setattr(progress, "error_console", lambda: screen)
        with listening("starting") as listener:
            listener(Progress("tuning [2/3]", 2, 8, "loss 0.5"))
    assert "tuning [2/3]" in screen.export_text()
