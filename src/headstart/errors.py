"""Everything Headstart raises on purpose: one root class, and one class per thing that a user can fix.

Every message names the path, tensor or field it is about and ends with the remedy. The command line
prints it without a traceback and exits with code 2.
"""

import contextlib
import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self, TypeVar

__all__ = [
    "BackboneError",
    "CardError",
    "HeadstartError",
    "HubError",
    "LanesError",
    "MergeError",
    "ModuleError",
    "OutputError",
    "PluginWarning",
    "Refused",
    "SettingError",
    "StoreError",
    "TaskError",
    "TooLargeError",
    "UnitError",
    "about",
    "of_type",
    "spelled",
]


class HeadstartError(Exception):
    """Root of all errors that a user can fix; the message states what is wrong and the remedy.

    `options`: what the command line says in place of parts of the message, such as `--input text` for `input="text"`.
    """

    options: Mapping[str, str] = MappingProxyType({})

    def with_options(self, options: Mapping[str, str]) -> Self:
        """The same error, which says `options[part]` in place of each part of its message on the command line."""
        error = self.saying(str(self))
        error.options = dict(options)
        return error

    @property
    def on_command_line(self) -> str:
        """The message with options in place of Python's arguments."""
        message = str(self)
        for part, option in self.options.items():
            message = message.replace(part, option)
        return message

    def saying(self, message: str) -> Self:
        """The same error, of its class and with its attributes, with another message."""
        return _remade(type(self), (message,), self.__dict__)

    def __reduce__(self) -> tuple[Any, ...]:
        """Whatever arguments a class takes, its errors come back from a worker process."""
        return _remade, (type(self), self.args, self.__dict__)


_Kind = TypeVar("_Kind", bound=HeadstartError)


def _remade(kind: type[_Kind], args: tuple[Any, ...], attributes: Mapping[str, Any]) -> _Kind:
    """An error without a call of its `__init__`, whose arguments are not known."""
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(attributes)
    return error


class BackboneError(HeadstartError):
    """A backbone cannot be found, read or used for what was asked."""


class CardError(HeadstartError):
    """A card (JSON record) is missing, malformed or of an unknown schema version."""


class HubError(HeadstartError):
    """A hub folder or its catalogue cannot do what was asked."""


class LanesError(HeadstartError):
    """Some of several tunings failed; `failures` holds their errors, each under the position of its tuning."""

    def __init__(self, message: str, failures: Mapping[int, HeadstartError]) -> None:
        super().__init__(message)
        self.failures = dict(failures)


class MergeError(HeadstartError):
    """Modules cannot be merged as asked: none given, different shapes, or a variant without an exact merge."""


class ModuleError(HeadstartError):
    """A module is broken, unsafe, of an unsupported variant, or made for another backbone."""


class OutputError(HeadstartError):
    """A result cannot be written: the target exists, the disk is full, or a folder is not writable."""


class SettingError(HeadstartError):
    """A setting has an unknown name or a value out of range."""


class StoreError(HeadstartError):
    """The store of finished work cannot be read or written, or holds no such entry."""


class TaskError(HeadstartError):
    """A task cannot be read: empty, a field missing, labels or splits that do not fit."""


class TooLargeError(SettingError):
    """What was asked for does not fit into memory, not even with the least at once."""


class UnitError(HeadstartError):
    """A unit of work failed: every attempt ended in an error, or its process died."""


@contextlib.contextmanager
def about(subject: str | Path) -> Iterator[None]:
    """Put "<subject>: " before the message of a `HeadstartError` raised inside; inner code only raises facts.

    >>> with about("my-module"):
    ...     raise ModuleError("field 'r' is missing; add it")
    Traceback (most recent call last):
    headstart.errors.ModuleError: my-module: field 'r' is missing; add it
    """
    try:
        yield
    except HeadstartError as error:
        raise error.saying(f"{subject}: {error}") from error


def spelled(**arguments: str) -> tuple[str, str]:
    """Arguments as they are written in Python, and on the command line.

    >>> spelled(input="ticket_text", target="{label}")
    ('input="ticket_text", target="{label}"', "--input ticket_text --target '{label}'")
    """
    python = (f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in arguments.items())
    options = (f"--{name.replace('_', '-')} {shlex.quote(value)}" for name, value in arguments.items())
    return ", ".join(python), " ".join(options)


def of_type(parameter: str, given: object) -> str:
    """The beginning of an error for an argument of a type that cannot be meant.

    >>> of_type("task", {"a": 1})
    'task is a dict'
    >>> of_type("task", None)
    'task is None'
    """
    if given is None:
        return f"{parameter} is None"
    name = type(given).__name__
    return f"{parameter} is {'an' if name[0] in 'AEIOUaeiou' else 'a'} {name}"


class PluginWarning(UserWarning):
    """A plug-in cannot be used and is left out; the message names it, says why and states the remedy."""


@dataclass(frozen=True)
class Refused:
    """The name of something that takes no part, such as a module or a plug-in, and the reason."""

    name: str
    reason: str
