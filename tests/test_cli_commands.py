"""The program's table of commands: what `headstart --help` says without importing them is what they say themselves."""

import inspect
import re
from pkgutil import resolve_name

import pytest
import typer

from headstart.cli.commands import COMMANDS, MARK, Deferred
from headstart.cli.families import FAMILIES
from program import Run

pytest_plugins = ["cli_helper"]


@pytest.mark.parametrize("name", list(COMMANDS))
def test_the_table_says_what_the_command_says(name: str) -> None:
    reference, line = COMMANDS[name]
    command = Deferred(name, reference=reference, line=line).load()
    assert command.name == name
    assert " ".join(inspect.cleandoc(command.help).partition("\n\n")[0].split()) == line


def test_the_help_lists_every_command_with_its_line(run: Run) -> None:
    said = " ".join(re.sub("[│╭╮╰╯─]", " ", run("--help").out).split())
    places = [said.index(f" {name} {line}") for name, (_, line) in COMMANDS.items()]
    assert places == sorted(places)


def test_an_unknown_command_is_met_with_the_nearest_ones(run: Run) -> None:
    ended = run("lst")
    assert ended.code == 2
    assert "No such command 'lst'. Did you mean 'list'?" in " ".join(ended.err.split())


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in ("hub", "store")])
def test_a_mark_in_a_help_is_a_family(name: str) -> None:
    command = Deferred(name, reference=COMMANDS[name][0], line="").load()
    marks = {mark for option in command.params for mark in MARK.findall(option.help or "")}
    assert marks <= FAMILIES.keys()


@pytest.mark.parametrize("name", ["hub", "store"])
def test_only_commands_of_the_program_itself_may_have_marks(name: str) -> None:
    group = typer.main.get_group(resolve_name(COMMANDS[name][0]))
    assert not [o.name for c in group.commands.values() for o in c.params if MARK.search(getattr(o, "help", "") or "")]
