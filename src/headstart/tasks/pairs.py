"""Inputs of one text or two, made from a row's fields."""

from collections.abc import Mapping

from headstart.errors import TaskError
from headstart.tasks.template import FieldTemplate

__all__ = ["InputTemplate"]

JOINED = "\n"
"""The separator between the two texts of a list when a language model reads them."""


class InputTemplate:
    """The template of an input, which may have two texts: an encoder reads them as a pair, a language model as one.

    They are a pair if the template is one bare field that holds a list of two, or if `separator` occurs once between
    them: in the template or, if it has none, in every row's input. White space around a separator belongs to neither
    text. Raises `TaskError` for a malformed template, or one that has the separator twice.

    >>> InputTemplate("{a} [SEP] {b}", "[SEP]").text({"a": "It rains.", "b": "It is wet."}, where="line 1")
    ('It rains. [SEP] It is wet.', (9, 16))
    """

    def __init__(self, template: str, separator: str | None = None) -> None:
        if separator is not None and not separator.strip():
            raise TaskError(f"template separator {separator!r} is blank; give a text, or leave it out")
        if separator is not None and template.count(separator) > 1:
            raise TaskError(f"template {template!r} has the separator {separator!r} more than once; leave one")
        self._separator = separator
        parts = [template] if separator is None else template.split(separator)
        # Beside a separator, a text without braces is that text; alone it is the name of a column.
        self._texts = [FieldTemplate(part) for part in parts] if len(parts) > 1 else [FieldTemplate.parse(template)]

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that it reads."""
        return tuple(column for template in self._texts for column in template.columns)

    def text(self, row: Mapping[str, object], *, where: str) -> tuple[str, tuple[int, int] | None]:
        """The input, and where the first of two texts ends and the second begins; `None` for one text.

        Raises `TaskError` naming `where` and the field that does not fit.
        """
        if len(self._texts) > 1:
            first, second = (template.text(row, where=where) for template in self._texts)
            return self._pair(first, str(self._separator), second, where=where)
        (template,) = self._texts
        listed = template.listed(row, where=where)
        if listed is not None and len(listed) == 2:
            return self._pair(listed[0], JOINED, listed[1], where=where)
        text = template.text(row, where=where)
        if self._separator is None:
            return text, None
        if text.count(self._separator) != 1:
            raise TaskError(
                f"{where}: the input holds the separator {self._separator!r} {text.count(self._separator)} times, "
                "not once; correct the row or the template's separator"
            )
        first, _, second = text.partition(self._separator)
        return self._pair(first, self._separator, second, where=where)

    @staticmethod
    def _pair(first: str, between: str, second: str, *, where: str) -> tuple[str, tuple[int, int]]:
        for number, text in (("first", first), ("second", second)):
            if not text.strip():
                raise TaskError(f"{where}: the {number} text of the input is empty; fill it in or remove the row")
        start = len(first) + len(between) + len(second) - len(second.lstrip())
        return f"{first}{between}{second}", (len(first.rstrip()), start)
