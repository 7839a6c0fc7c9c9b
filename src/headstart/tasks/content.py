"""Rows of a task as an input of a unit of work."""

from collections.abc import Sequence

from headstart.tasks.example import Example
from headstart.units import Content
from headstart.units.canonical import digest_of

__all__ = ["options_read", "rows_read"]


def rows_read(examples: Sequence[Example]) -> Content[Sequence[Example]]:
    """Examples as an input of a unit that reads their inputs and first targets, and nothing else of them."""
    return Content(examples, digest_of([[row.input, row.target, *(row.pair or ())] for row in examples]))


def options_read(examples: Sequence[Example]) -> str:
    """The digest of all right answers to examples and of their options, for a unit that reads these, too."""
    return digest_of([[list(row.outputs), list(row.options or ())] for row in examples])
