"""Rows of a task as an input of a unit of work."""

from collections.abc import Sequence

from headstart.tasks.example import Example
from headstart.units import Content
from headstart.units.canonical import digest_of

__all__ = ["rows_read"]


def rows_read(examples: Sequence[Example]) -> Content[Sequence[Example]]:
    """Examples as an input of a unit that reads their inputs and first targets, and nothing else of them."""
    return Content(examples, digest_of([[row.input, row.target, *(row.pair or ())] for row in examples]))
