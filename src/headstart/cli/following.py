"""The command that a user would type next, on the same inputs as the one that is running."""

import shlex
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import typer

from headstart.cli.commands import COMMANDS, Deferred

__all__ = ["following"]


def following(context: typer.Context, command: str, *more: str, without: Collection[str] = ()) -> str:
    """`command` with the arguments of the running command and those of its options that `command` has too, and `more`.

    `context`: of the running command. `without`: names of options to leave out, such as "--shots".
    """
    reference, line = COMMANDS[command]
    known = {name for parameter in Deferred(command, reference=reference, line=line).load().params
             for name in parameter.opts}  # fmt: skip
    arguments: list[str] = []
    options: list[str] = []
    for parameter in context.command.params:
        value, source = context.params.get(str(parameter.name)), context.get_parameter_source(str(parameter.name))
        if parameter.param_type_name == "argument":
            arguments += _texts(value)
        elif source is not None and source.name == "COMMANDLINE" and parameter.opts[0] in known - {*without}:
            options += _option(parameter.opts[0], value)
    return shlex.join(["headstart", command, *arguments, *options, *more])


def _option(name: str, value: Any) -> Iterator[str]:
    for text in _texts(value):
        yield name
        yield text
    if value is True:
        yield name


def _texts(value: Any) -> Sequence[str]:
    if value is None or isinstance(value, bool):
        return []
    return [str(one) for one in value] if isinstance(value, list | tuple) else [str(value)]
