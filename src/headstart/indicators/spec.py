"""How an indicator is written: its name, and the values of its parameters if it has any."""

from __future__ import annotations

import re
from dataclasses import dataclass

from headstart.errors import SettingError

__all__ = ["Spec"]

WORD = r"[^\s:,=]+"
FORM = re.compile(rf"{WORD}(?::{WORD}={WORD}(?:,{WORD}={WORD})*)?")


@dataclass(frozen=True, order=True)
class Spec:
    """An indicator by name, with parameters as text: `grand:block=3,sublayer=attention`.

    `parameters` are (name, value) pairs, sorted by name. Different specs can mean the same indicator; the canonical
    form, without defaults and with values written in one way, is `make_indicator(text).spec`.

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
                raise SettingError(
                    f"'{text}' names {len(parts)} indicators where one is needed; give {' or '.join(parts)}"
                )
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
