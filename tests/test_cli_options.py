"""How groups of options become the options of a command, and how running work shows."""

import inspect
import io
import time
from dataclasses import dataclass
from typing import Annotated

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from headstart.cli import progress
from headstart.cli.options import Options, command
from headstart.cli.progress import listening
from headstart.events import Note, Progress, Saved, Stage, UnitEvent
from headstart.progress import ProgressPrinter, Status


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


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that `Status` sees; tests set the last."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[-1])
    return now


def test_a_line_says_how_far_how_fast_and_how_long_still(clock: list[float]) -> None:
    status = Status("ranking for reviews")
    clock.append(104.0)
    assert status.line() == "ranking for reviews: 4 s so far"
    status.take(Progress("scoring", 0, 1200))
    clock.append(124.0)
    status.take(Progress("scoring", 100, 1200, "el2n"))
    # 100 in 20 s: 5 a second, and 1,100 more take 220 s
    assert status.line() == "scoring: 100 of 1,200 (8%), 5 a second, about 4 min left; el2n"
    status.take(UnitEvent("evaluate", "ab", "evaluating seed 0, scratch", "started"))
    assert status.line() == "evaluating seed 0, scratch"
    status.take(UnitEvent("evaluate", "cd", "evaluating seed 1, scratch", "started"))
    clock.append(224.0)
    assert status.line() == "evaluating seed 1, scratch and 1 more: 2 min so far"


def test_a_line_says_which_stage_it_is_and_how_many_units_are_done(clock: list[float]) -> None:
    status = Status("fitting to reviews")
    status.take(Stage("ranking 3 modules", 1, 3))
    assert status.line() == "[stage 1 of 3] ranking 3 modules"
    status.take(UnitEvent("score", "zz", "cosine of cy", "reused"))  # while the run is planned: not of what is left
    status.take(UnitEvent("score", "ab", "cosine of ada", "started", left=2))
    status.take(UnitEvent("score", "ab", "cosine of ada", "computed", 1.0, left=1))
    assert status.line() == "[stage 1 of 3 (ranking 3 modules), 1 of at least 2 units done] cosine of ada"
    status.take(UnitEvent("score", "cd", "cosine of bob", "failed", left=0))
    status.take(Stage("guarding the starts on 4 folds", 2, 3))
    assert status.line() == "[stage 2 of 3] guarding the starts on 4 folds", "another stage counts anew"
    for left in (20, 19):
        status.take(UnitEvent("tune", f"k{left}", "tuning scratch on reviews, fold 1 of 4", "started", left=left))
    status.take(Progress("tuning 20 modules", 30, 320))
    place = "stage 2 of 3 (guarding the starts on 4 folds), 1 of at least 20 units done"
    assert status.line() == f"[{place}] tuning 20 modules: 30 of 320 (9%)"
    clock.append(clock[-1] + 200)
    assert status.line().startswith(f"[{place}, 3 min 20 s in all so far] tuning 20 modules: 30 of 320 (9%)")
    status.take(UnitEvent("tune", "k0", "tuning scratch", "computed", 3.0, left=0))
    status.take(UnitEvent("evaluate", "x", "evaluating scratch", "started", left=40))
    assert status.place() == "stage 2 of 3, 20 of at least 60 units done", "another run adds its units"


def test_what_a_stopped_command_says_is_what_the_events_told(clock: list[float]) -> None:
    status = Status("comparing on reviews")
    nothing = "nothing was finished yet, so the same command starts over"
    assert status.kept() == nothing
    status.take(UnitEvent("tune", "ab", "tuning scratch on reviews, seed 0", "started"))
    status.take(UnitEvent("score", "ef", "scoring ada", "reused"))
    status.take(Saved("scratch on reviews, seed 0", 0))
    assert status.kept() == nothing, "a state at step 0 saves no work"
    status.take(Saved("scratch on reviews, seed 0", 50))
    status.take(Saved("average on reviews, seed 0", 50))
    assert status.kept() == (
        "tuning scratch on reviews, seed 0 continues from step 50, and 1 more in the same way; "
        "the same command computes only the rest"
    )
    status.take(UnitEvent("tune", "ab", "tuning scratch on reviews, seed 0", "computed", 3.0))
    status.take(UnitEvent("tune", "cd", "tuning average on reviews, seed 0", "computed", 3.0))
    assert status.kept() == "2 finished units are in the store; the same command computes only the rest"


def test_off_a_terminal_lines_go_on_while_one_step_takes_long(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.05)
    with listening("ranking") as listener:
        listener(Note("dan was left out"))
        listener(Stage("ranking 3 modules", 1, 3))
        listener(Progress("scoring", 3, 40))
        time.sleep(0.3)
    said = capsys.readouterr()
    first, second, *lines = said.err.splitlines()
    assert (first, second) == ("dan was left out", "[stage 1 of 3] ranking 3 modules")
    assert len(lines) >= 2
    assert all(line.startswith("[stage 1 of 3 (ranking 3 modules)] scoring: 3 of 40 (8%)") for line in lines)
    assert said.out == ""


def test_in_python_notes_and_a_line_now_and_then_are_printed(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    listener = ProgressPrinter()
    listener(Note("dan was left out"))
    listener(Progress("scoring", 0, 40))
    assert capsys.readouterr().err == "dan was left out\nscoring: 0 of 40 (0%)\n"
    clock.append(clock[-1] + 9.9)
    listener(Progress("scoring", 3, 40))
    assert capsys.readouterr().err == "", "no line before ten seconds are over"
    clock.append(clock[-1] + 0.1)
    listener(Progress("scoring", 4, 40))
    assert capsys.readouterr().err == "scoring: 4 of 40 (10%), 0.4 a second, about 2 min left\n"
    held = io.StringIO()
    listener(Stage("ranking 3 modules", 1, 3))
    assert capsys.readouterr().err == "[stage 1 of 3] ranking 3 modules\n", "at once"
    listener = ProgressPrinter(seconds=0.0, file=held)
    listener(Progress("tuning", 0, 8))
    assert held.getvalue() == "tuning: 0 of 8 (0%)\n"
    assert capsys.readouterr().err == ""


def test_a_terminal_shows_a_bar_that_says_what_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    with open("/dev/null", "w", encoding="utf-8") as nowhere:  # noqa: PTH123 - a device
        screen = Console(file=nowhere, force_terminal=True, width=100, record=True)
        monkeypatch.setattr(progress, "error_console", lambda: screen)
        with listening("comparing on reviews") as listener:
            time.sleep(0.15)
            listener(UnitEvent("tune", "ab", "tuning scratch", "started"))
            time.sleep(0.15)
            listener(Progress("tuning [2/3]", 2, 8, "loss 0.5"))
    shown = screen.export_text()
    places = [shown.index(text) for text in ("comparing on reviews", "tuning scratch", "tuning [2/3]")]
    assert places == sorted(places)
