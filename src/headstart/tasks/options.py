"""Where a row's closed set of answers comes from."""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from headstart.errors import TaskError
from headstart.records import TaskCard
from headstart.registry import Registry

__all__ = ["MOST_OPTIONS", "OPTIONS", "TextRow", "inline_options", "options_of", "require_whole"]


@dataclass(frozen=True, slots=True)
class TextRow:
    """A row as text, before its options are known.

    `where`: file and line; `listed`: its own `options` field; `pair` and `group`: as in `Example`; `number`: the target
    if it is a floating-point number by itself.
    """

    where: str
    input: str
    outputs: tuple[str, ...]
    listed: object = None
    split: object = None
    pair: tuple[int, int] | None = None
    group: str | None = None
    number: float | None = None


Options = tuple[str, ...] | None

OPTIONS: Registry[Callable[[TextRow, TaskCard], Options]] = Registry("source of options")
"""By name, a function that returns a row's options, or `None` if the row has none."""

MOST_OPTIONS = 10_000
"""The most options of a row."""

OPEN = 'set options="none"'
"""How Python is told that answers are open."""

_MARKER = re.compile(r"\(([A-Z])\)")


def inline_options(text: str) -> Options:
    """The answers that `text` lists as "(A) … (B) …", in order; `None` when it lists none.

    "[SEP]" divides the text into segments. The list may be in any of them and ends with its segment; if there are
    several lists, the last one counts. A letter out of order is part of an answer's text.

    >>> inline_options("Which is red? (A) blood (B) snow [SEP] Blood (C) is red.")
    ('blood', 'snow')
    """
    found: Options = None
    for segment in text.split("[SEP]"):
        found = _last_list(segment) or found
    return found


def options_of(row: TextRow, card: TaskCard, *, source: str) -> Options:
    """The options of `row` by `source`.

    Raises `TaskError` when there are none, one is no text that can be encoded, or an output is not among them.
    """
    options = OPTIONS[source](row, card)
    if source == "none":
        return None
    if options is None:
        raise _refused(f"{row.where}: {_ABSENT[source]}; correct the row or {OPEN}")
    if len(options) > MOST_OPTIONS:
        raise _refused(f"{row.where}: {len(options):,} options, where at most {MOST_OPTIONS:,} can be; {OPEN}")
    require_whole(options, where=row.where)
    for output in row.outputs:
        if output not in options:
            shown = ", ".join(repr(option) for option in options)
            raise _refused(
                f"{row.where}: the target {output!r} is not one of its options ({shown}); correct it or {OPEN}"
            )
    return options


def require_whole(texts: Iterable[str], *, where: str) -> None:
    """Raise `TaskError` for half a surrogate pair, which JSON can hold and no tokenizer reads."""
    try:
        "".join(texts).encode()
    except UnicodeEncodeError as error:
        raise TaskError(f"{where}: the text has half a surrogate pair ({error}); correct the row") from error


def _refused(message: str) -> TaskError:
    """The command line has no such option: where options come from stands in the task's file."""
    return TaskError(message).with_options({OPEN: 'write "options": null in its task.json'})


_ABSENT = {
    "labels": "options come from the labels, but the task has none",
    "inline": "the input lists no '(A) … (B) …'",
    "field": "the row's 'options' is not a list of texts",
}


@OPTIONS.register("labels")
def _from_labels(row: TextRow, card: TaskCard) -> Options:
    del row
    return card.labels


@OPTIONS.register("field")
def _from_field(row: TextRow, card: TaskCard) -> Options:
    del card
    if not isinstance(row.listed, list | tuple) or not row.listed:
        return None
    if not all(isinstance(option, str | int | float) for option in row.listed):
        return None
    return tuple(dict.fromkeys(str(option) for option in row.listed))


@OPTIONS.register("inline")
def _from_input(row: TextRow, card: TaskCard) -> Options:
    del card
    options = inline_options(row.input)
    return options and tuple(dict.fromkeys(options))


@OPTIONS.register("none")
def _open(row: TextRow, card: TaskCard) -> Options:
    del row, card
    return None


def _last_list(segment: str) -> Options:
    """The answers of the last list of two or more in `segment`, found in one pass from its end."""
    following: dict[str, _Marker] = {}
    for match in reversed(list(_MARKER.finditer(segment))):
        marker = _Marker(match, following.get(chr(ord(match[1]) + 1)))
        if match[1] == "A" and marker.next is not None:
            return tuple(_answers(marker, segment))
        following[match[1]] = marker
    return None


@dataclass(frozen=True, slots=True)
class _Marker:
    """A marker "(B)" and the nearest "(C)" after it."""

    match: re.Match[str]
    next: "_Marker | None"


def _answers(marker: _Marker | None, segment: str) -> Iterator[str]:
    while marker is not None:
        end = marker.next.match.start() if marker.next is not None else len(segment)
        yield segment[marker.match.end() : end].strip()
        marker = marker.next
