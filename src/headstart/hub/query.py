"""Which modules of a hub are wanted, and in which order, as SQL."""

from dataclasses import dataclass, fields, replace
from typing import Self, TypedDict

from headstart.errors import SettingError
from headstart.hub.names import folded

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


@dataclass(frozen=True)
class Filter:
    """The conditions on a module; `None` is no condition. Upper and lower case make no difference.

    `family` is the whole path ("reviews/films") or whole parts of it; `variant` is one that a module has, or "" for
    none. Every word of `text` must occur, perhaps inside a longer one, in the name, kind, task, family, base model,
    notes or origin.
    """

    kind: str | None = None
    variant: str | None = None
    family: str | None = None
    license: str | None = None
    task: str | None = None
    metric: str | None = None
    text: str | None = None

    def narrowed(self, other: Self) -> Self | None:
        """Both filters at once, or `None` if no module can match both."""
        stated = {f.name: getattr(other, f.name) for f in fields(other) if getattr(other, f.name) is not None}
        words = " ".join(part for part in (self.text, stated.pop("text", None)) if part)
        for name, value in stated.items():
            own = getattr(self, name)
            if own is not None and _comparable(name, own) != _comparable(name, value):
                return None
        return replace(self, **stated, text=words or None)

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
        return " AND ".join(terms), [value.encode(errors="replace").decode() for value in values]

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
        stated = {f.name: getattr(self, f.name) for f in fields(self)}
        return " and ".join(f"{name} '{value}'" for name, value in stated.items() if value is not None)


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
