"""Templates: Python format strings that turn a row's fields into text."""

import math
import re
from collections.abc import Mapping
from string import Formatter
from typing import Self

from headstart.errors import TaskError

__all__ = ["LONGEST_TEMPLATE", "LONGEST_TEXT", "FieldTemplate"]

LONGEST_TEMPLATE = 10_000
"""The most characters in a template."""

LONGEST_TEXT = 16 * 2**20
"""The most characters in the text that a template makes from a row."""

_FORMATTER = Formatter()
_FIELD = re.compile(r"(?P<name>[^\[\]]+)(?P<keys>(?:\[[^\[\]]+\])*)")
_FORMAT = re.compile(r"[<>^=]?[-+ ]?0?[0-9]{0,2}[,_]?(?:\.[0-9]{1,2})?[a-zA-Z%]?")
_KEY = re.compile(r"\[([^\[\]]+)\]")


class FieldTemplate:
    """A format string over the fields of a row.

    Unlike `str.format`, it only reads fields and their elements ("{answers[text]}", "{choices[0]}"), never attributes,
    so that a template from somebody else's `task.json` cannot reach into Python. A format after a colon is one of
    Python's formats for numbers and texts, with width and precision below 100 ("{price:.2f}", "{rank:>3}").

    Raises `TaskError` for malformed braces, a nameless field, another format, or more than `LONGEST_TEMPLATE`
    characters.

    >>> FieldTemplate("{question} yes or no?").text({"question": "Is it?"}, where="line 1")
    'Is it? yes or no?'
    """

    def __init__(self, template: str) -> None:
        if len(template) > LONGEST_TEMPLATE:
            raise TaskError(f"template {template[:60]!r}… is longer than {LONGEST_TEMPLATE:,} characters; shorten it")
        try:
            self._parts = list(_FORMATTER.parse(template))
        except ValueError as error:
            raise TaskError(f"template {template!r}: {error}; write a brace that is text twice") from error
        for _, field, spec, _ in self._parts:
            if spec and not _FORMAT.fullmatch(spec):
                raise TaskError(
                    f"template {template!r}: the format '{spec}' of field '{field}' is not a plain one of width and "
                    "precision below 100; write {name}, or a format such as {name:.2f}"
                )
            if field is not None and not _FIELD.fullmatch(field):
                raise TaskError(f"template {template!r}: '{{{field}}}' names no field; write {{name}} or {{name[key]}}")
        self._template = template

    @classmethod
    def parse(cls, text: str) -> Self:
        """A template or, if `text` has no braces, the column of that name.

        Raises `TaskError` as the class does, and for a blank text.

        >>> FieldTemplate.parse("label (gold)").text({"label (gold)": "yes"}, where="line 1")
        'yes'
        """
        if "{" in text or "}" in text:
            return cls(text)
        if not text.strip():
            raise TaskError(
                f"the template {text!r} is blank; give the name of a column, or a template such as {{name}}"
            )
        template = cls("")
        template._parts, template._template = [("", text, "", None)], text
        return template

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that it reads; an element "answers[text]" is of the column "answers"."""
        return tuple(field.partition("[")[0] for _, field, _, _ in self._parts if field is not None)

    def text(self, row: Mapping[str, object], *, where: str) -> str:
        """The text made from `row`. Raises `TaskError` naming `where` and the field that does not fit."""
        texts, length = [], 0
        for literal, field, spec, conversion in self._parts:
            texts.append(literal)
            if field is not None:
                value = _scalar(_look_up(row, field, where=where), field, where=where)
                texts.append(self._format(value, spec or "", conversion, where=where))
                length += len(texts[-1])
            if length > LONGEST_TEXT:
                raise TaskError(f"{where}: the text is longer than {LONGEST_TEXT:,} characters; shorten the row")
        return "".join(texts)

    def texts(self, row: Mapping[str, object], *, where: str) -> tuple[str, ...]:
        """Like `text`, but a single bare field that holds a list gives one text per element."""
        listed = self.listed(row, where=where)
        return (self.text(row, where=where),) if listed is None else listed

    def listed(self, row: Mapping[str, object], *, where: str) -> tuple[str, ...] | None:
        """The elements as texts if the template is one bare field that holds a list, else `None`."""
        match self._parts:
            case [("", str() as field, "", None)]:
                value = _look_up(row, field, where=where)
                if isinstance(value, list | tuple):
                    return tuple(str(_scalar(element, field, where=where)) for element in value)
        return None

    def number(self, row: Mapping[str, object]) -> float | None:
        """The value if the template is one bare field that holds a floating-point number, else `None`."""
        match self._parts:
            case [("", str() as field, "", None)]:
                value = _look_up(row, field, where="")
                return value if isinstance(value, float) else None
        return None

    def _format(self, value: object, spec: str, conversion: str | None, *, where: str) -> str:
        try:
            return format(_FORMATTER.convert_field(value, conversion), spec)
        except (ValueError, TypeError) as error:
            raise TaskError(f"{where}: template {self._template!r}: {error}; correct the template") from error


def _look_up(row: Mapping[str, object], field: str, *, where: str) -> object:
    if field in row:  # a field whose name has brackets or dots counts as that field before it is read as a path
        return row[field]
    match = _FIELD.fullmatch(field)
    value: object = row
    for key in [match["name"], *_KEY.findall(match["keys"])] if match else [field]:
        try:
            value = value[int(key)] if isinstance(value, list | tuple) else value[key]  # type: ignore[index]
        except (KeyError, IndexError, TypeError, ValueError) as error:
            fields = ", ".join(row) or "none"
            raise TaskError(
                f"{where}: field '{field}' is missing (fields present: {fields}); fill it in, or name another field "
                "with input= or target="
            ).with_options({"input= or target=": "--input or --target"}) from error
    return value


def _scalar(value: object, field: str, *, where: str) -> object:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        raise TaskError(f"{where}: field '{field}' has no value; fill it in or remove the row")
    if isinstance(value, list | tuple | dict | bytes):
        kind = type(value).__name__
        raise TaskError(f"{where}: field '{field}' is a {kind}, not a text; name one element, as in {{{field}[0]}}")
    return value
