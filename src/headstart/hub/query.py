"""Which modules of a hub are wanted, and in which order, as SQL."""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self, TypedDict

from headstart.errors import SettingError, of_type
from headstart.hub.names import folded, twin_key

__all__ = ["SORTS", "Asked", "Filter", "order_by", "page_of"]

SORTS = ("name", "kind", "variant", "family", "task", "metric", "license", "rank", "parameters", "score", "added")
"""What modules can be sorted by; a "-" in front reverses the order."""

MAX_CHARACTERS = 1_000
"""Of what is looked for inside a column; SQLite takes patterns of 50,000 bytes, and a letter may fold to 18."""

MAX_WORDS = 32
"""Each is a condition of its own; SQLite nests them 1,000 deep."""

LAST = 2**63 - 1
"""The largest number that SQLite counts to."""


class Asked(TypedDict, total=False):
    """The conditions on a module, as keyword arguments; see `Filter`."""

    kind: str | None
    variant: str | None
    family: str | None
    license: str | None
    task: str | None
    metric: str | None
    text: str | None
    include: str | Sequence[str] | None
    exclude: str | Sequence[str] | None


@dataclass(frozen=True)
class Filter:
    """The conditions on a module; `None` is no condition. Upper and lower case make no difference.

    `family` is the whole path ("reviews/films") or whole parts of it; `variant` is one that a module has, or "" for
    none. Every word of `text` must occur, perhaps inside a longer one, in the name, kind, task, family, base model,
    notes or origin. `include`: groups of patterns of names ("paws", "glue-*"), of each of which one must fit the name;
    `exclude`: patterns that must not.
    """

    kind: str | None = None
    variant: str | None = None
    family: str | None = None
    license: str | None = None
    task: str | None = None
    metric: str | None = None
    text: str | None = None
    include: tuple[tuple[str, ...], ...] = ()
    exclude: tuple[str, ...] = ()

    @classmethod
    def of(cls, asked: Asked) -> Self:
        """The filter for these conditions."""
        given: dict[str, Any] = {**asked}
        for name, value in given.items():
            several = list(value) if name in ("include", "exclude") and isinstance(value, list | tuple) else [value]
            for one in several:
                if one is not None and not isinstance(one, str):
                    raise SettingError(f"{of_type(name, one)}; give a text")
        include, exclude = (_patterns(given.pop(name, None)) for name in ("include", "exclude"))
        return cls(**given, include=(include,) if include else (), exclude=exclude)

    def narrowed(self, other: Self) -> Self | None:
        """Both filters at once, or `None` if no module can match both."""
        stated = {name: value for name in TEXTS if (value := getattr(other, name)) is not None}
        words = " ".join(part for part in (self.text, stated.pop("text", None)) if part)
        for name, value in stated.items():
            own = getattr(self, name)
            if own is not None and _comparable(name, own) != _comparable(name, value):
                return None
        include, exclude = (*self.include, *other.include), (*self.exclude, *other.exclude)
        return replace(self, **stated, text=words or None, include=include, exclude=exclude)

    def condition(self) -> tuple[str, list[str]]:
        """An SQL condition over the catalogue's columns, and its values. Raises `SettingError` for too long ones."""
        terms, values = ["1"], []
        self._refuse_long()
        for column in ("kind", "license", "task", "metric"):
            wanted = getattr(self, column)
            if wanted is not None:
                terms.append(f"{column} = ?")
                values.append(folded(wanted))
        if self.family is not None:
            terms.append("replace(replace('/' || family || '/', ' /', '/'), '/ ', '/') LIKE ? ESCAPE '\\'")
            values.append(f"%/{_literally(_closed_up(folded(self.family)))}/%")
        if self.variant is not None:
            terms.append("' + ' || variant || ' + ' LIKE ? ESCAPE '\\'")
            values.append(f"% + {_literally(folded(self.variant))} + %")
        for word in self._words():
            terms.append("text LIKE ? ESCAPE '\\'")
            values.append(f"%{_literally(word)}%")
        named, patterns = self.name_condition()
        return f"{' AND '.join(terms)} AND {named}", [_searchable(value) for value in values] + patterns

    def name_condition(self) -> tuple[str, list[str]]:
        """What `condition` asks of the name alone, which is known of broken modules too."""
        terms, values = ["1"], []
        for group in (*self.include, *((pattern,) for pattern in self.exclude)):
            if any(len(pattern) > MAX_CHARACTERS for pattern in group):
                raise SettingError(f"a pattern of names has more than {MAX_CHARACTERS:,} characters; shorten it")
            # A pattern that is a name itself, such as "run[1]", fits that name too.
            values += [
                text for pattern in group for text in (_searchable(_glob(pattern)), _searchable(twin_key(pattern)))
            ]
        terms += [f"({' OR '.join(map(_fits, group))})" for group in self.include]
        terms += [f"NOT {_fits(pattern)}" for pattern in self.exclude]
        return " AND ".join(terms), values

    def _words(self) -> list[str]:
        return folded(self.text or "").split()

    def _refuse_long(self) -> None:
        for name in ("family", "variant", "text"):
            if len(getattr(self, name) or "") > MAX_CHARACTERS:
                raise SettingError(f"the {name} to look for has more than {MAX_CHARACTERS:,} characters; shorten it")
        if len(self._words()) > MAX_WORDS:
            raise SettingError(f"the text to look for has more than {MAX_WORDS} words; look for fewer")

    def __str__(self) -> str:
        """For people: "of kind 'lora' and family 'reviews'"."""
        stated = {name: getattr(self, name) for name in TEXTS}
        said = [f"{name} '{value}'" for name, value in stated.items() if value is not None]
        quoted = [[f"'{pattern}'" for pattern in group] for group in self.include]
        said += [f"name {' or '.join(group)}" for group in quoted]
        said += [f"name not '{pattern}'" for pattern in self.exclude]
        return " and ".join(said)


TEXTS = tuple(field.name for field in fields(Filter) if field.name not in ("include", "exclude"))
"""The conditions that are one text each."""


def order_by(sort: str) -> str:
    """SQL for one of `SORTS`; unknown values come last, equal ones in order of name. Raises `SettingError`."""
    column = sort.removeprefix("-")
    if column not in SORTS:
        raise SettingError(
            f"modules cannot be sorted by '{sort}'; choose one of: {', '.join(SORTS)}, or -score for the best first"
        )
    falling = " DESC" if sort.startswith("-") else ""
    if column == "name":
        return f"name{falling}"
    return f"nullif({column}, '') IS NULL, {column}{falling}, name"


def page_of(limit: int | None, offset: int) -> str:
    """SQL for `limit` rows, or all of them, after the first `offset`. Raises `SettingError`."""
    if not (0 <= offset <= LAST and (limit is None or 0 <= limit <= LAST)):
        raise SettingError(
            "the limit of a page and the offset, the modules before it, "
            f"must be at least 0 and at most {LAST:,}; choose another limit or page"
        )
    return f"LIMIT {-1 if limit is None else limit} OFFSET {offset}"


def _comparable(name: str, value: str) -> str:
    return _closed_up(folded(value)) if name == "family" else folded(value)


def _closed_up(family: str) -> str:
    """The path without spaces beside its slashes and without slashes at its ends, as the condition has the column."""
    return f"/{family}/".replace(" /", "/").replace("/ ", "/").strip("/")


def _literally(text: str) -> str:
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


def _patterns(given: str | Sequence[str] | None) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given or ())


_BRACKETS = re.compile(r"(\[!?\]?[^\]]*\])")


def _of_letters(pattern: str) -> bool:
    """Whether brackets in the pattern hold letters of other alphabets than the Latin one."""
    return any(not part.isascii() for part in _BRACKETS.findall(pattern))


def _fits(pattern: str) -> str:
    return f"({'name' if _of_letters(pattern) else 'twin'} GLOB ? OR twin = ?)"


def _glob(pattern: str) -> str:
    """A pattern as SQLite's GLOB reads it: "[!a]" is written "[^a]" there, and "[" without an end must be in brackets.

    It is compared with `twin`, so capital letters do not matter. There, some letters of other alphabets are Latin ones,
    which would put a range out of order; so such a pattern is compared with the name, every letter in both cases.
    """
    outside, inside = (_both_cases, _in_both) if _of_letters(pattern) else (_bracketed, str)
    parts = _BRACKETS.split(unicodedata.normalize("NFC", pattern) if _of_letters(pattern) else twin_key(pattern))
    return "".join(
        inside(part).replace("[!", "[^", 1) if index % 2 else outside(part) for index, part in enumerate(parts)
    )


def _bracketed(text: str) -> str:
    return text.replace("[", "[[]")


def _both_cases(text: str) -> str:
    return "".join(
        f"[{letter.lower()}{letter.upper()}]" if letter.lower() != letter.upper() else _bracketed(letter)
        for letter in text
    )


def _in_both(part: str) -> str:
    """Letters in brackets in both cases.

    >>> _in_both("[!а-в]")
    '[!а-вА-В]'
    """
    letters = part[1:-1].removeprefix("!")
    return f"{part[: -1 - len(letters)]}{letters.lower()}{letters.upper()}]"


def _searchable(value: str) -> str:
    """The text as it can be searched for in the catalogue, which never holds invalid text."""
    return value.encode(errors="replace").decode()
