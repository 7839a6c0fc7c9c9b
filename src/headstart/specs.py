"""How a member of a registry that has parameters is written: its name, and their values: `grand:block=3`."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, TypeVar, get_args, get_origin, get_type_hints

from headstart.errors import SettingError
from headstart.registry import Registry

__all__ = ["Spec", "Specified", "make"]

WORD = r"[^\s:,=]+"
FORM = re.compile(rf"{WORD}(?::{WORD}={WORD}(?:,{WORD}={WORD})*)?")


@dataclass(frozen=True, order=True)
class Spec:
    """A member by name, with parameters as text: `grand:block=3,sublayer=attention`.

    `parameters` are (name, value) pairs, sorted by name. Different specs can mean the same; the canonical form, without
    defaults and with values written in one way, is that of the member itself, `make_indicator(text).spec`.

    >>> Spec.parse("grand:sublayer=attention,block=3")
    Spec(name='grand', parameters=(('block', '3'), ('sublayer', 'attention')))
    >>> str(Spec.parse("grand:sublayer=attention,block=3"))
    'grand:block=3,sublayer=attention'
    """

    name: str
    parameters: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, text: str) -> Spec:
        """Parse `text`. Raises `SettingError` for any other form, and for a parameter that is given twice."""
        if not FORM.fullmatch(text):
            parts = _parts(text)
            if len(parts) > 1 and all(FORM.fullmatch(part) for part in parts):
                raise SettingError(f"'{text}' names {len(parts)} where one is needed; give {' or '.join(parts)}")
            raise SettingError(f"'{text}' is not a spec; write NAME or NAME:PARAMETER=VALUE,PARAMETER=VALUE")
        name, _, rest = text.partition(":")
        pairs = [(key, value) for key, _, value in (part.partition("=") for part in rest.split(",") if part)]
        twice = next((key for key, _ in pairs if [other for other, _ in pairs].count(key) > 1), None)
        if twice is not None:
            raise SettingError(f"'{text}' gives {twice} twice; give it once")
        return cls(name, tuple(sorted(pairs)))

    @classmethod
    def parse_several(cls, text: str) -> tuple[Spec, ...]:
        """The specs in `text`, separated by commas. Raises `SettingError` as `parse` does.

        >>> [str(spec) for spec in Spec.parse_several("loss, grand:block=3,sublayer=attention, cosine")]
        ['loss', 'grand:block=3,sublayer=attention', 'cosine']
        """
        return tuple(cls.parse(part) for part in _parts(text))

    def __str__(self) -> str:
        """The text, as `parse` reads it."""
        return self.name + ":" * bool(self.parameters) + ",".join(f"{key}={value}" for key, value in self.parameters)


def _parts(text: str) -> list[str]:
    """The specs in `text`, not parsed yet: a parameter after a comma belongs to the spec before it."""
    parts: list[str] = []
    for piece in map(str.strip, text.split(",")):
        if parts and ":" in parts[-1] and "=" in piece and ":" not in piece:
            parts[-1] += f",{piece}"
        else:
            parts.append(piece)
    return parts


@dataclass(frozen=True)
class Specified:
    """Base of what a spec names: frozen dataclasses whose fields, each with a default, are the parameters."""

    name: ClassVar[str]

    @property
    def spec(self) -> Spec:
        """The canonical spec: parameters that differ from their defaults, sorted. Equal specs mean the same."""
        given = {field.name: (getattr(self, field.name), field.default) for field in fields(self)}
        changed = {name: value for name, (value, default) in given.items() if value != default}
        return Spec(self.name, tuple(sorted((name, str(value)) for name, value in changed.items())))


Made = TypeVar("Made", bound=Specified)


def make(registry: Registry[type[Made]], asked: str | Spec) -> Made:
    """The member of a registry that a spec names, with the parameters that it gives.

    Raises `SettingError` for an unknown name or parameter, or a value that the parameter cannot have.
    """
    from pydantic import TypeAdapter, ValidationError  # which reading and writing specs does without

    spec = Spec.parse(asked) if isinstance(asked, str) else asked
    family = registry[spec.name]
    types = get_type_hints(family, include_extras=True)
    known = {field.name: types[field.name] for field in fields(family)}
    values = {}
    for name, text in spec.parameters:
        if name not in known:
            have = f"it has {', '.join(known)}" if known else f"write '{spec.name}' alone: it has none"
            raise SettingError(f"'{spec.name}' has no parameter '{name}'; {have}")
        try:
            values[name] = TypeAdapter(known[name]).validate_python(text)
        except ValidationError as error:
            said = error.errors()[0]["msg"]
            raise SettingError(f"'{spec}': {name} cannot be '{text}'; {_remedy(known[name], said)}") from error
    return family(**values)


def _remedy(kind: Any, said: str) -> str:
    """The remedy for a bad value: the literal values that a parameter can have, or what pydantic found wrong."""
    members = (kind, *get_args(kind))
    literals = [value for member in members if get_origin(member) is Literal for value in get_args(member)]
    return f"choose one of: {', '.join(map(str, literals))}" if literals else said[:1].lower() + said[1:]
