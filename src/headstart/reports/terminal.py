"""The terminal: text from other people's files, made safe to print."""

import unicodedata
from collections.abc import Callable, Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

__all__ = ["Terminal", "printable"]

OBEYED = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Unicode categories of characters that control a terminal, or that change the visible order of other characters."""
HARMLESS = frozenset("\n\t\u200c\u200d")
"""Characters of these categories that stay: line ends, tabs, and the joiners, which belong to words."""


def _escape(letter: str) -> str:
    """The character as a Python escape."""
    return letter.encode("unicode_escape").decode("ascii")


def printable(text: str, *, spell: Callable[[str], str] = _escape) -> str:
    """`text` with every character that controls a terminal as `spell` writes it; line ends and tabs stay.

    >>> printable("\\x1b[31mred \\u202e caf\\u00e9")
    '\\\\x1b[31mred \\\\u202e café'
    """
    return "\n".join(line if line.isprintable() else _spelled(line, spell) for line in text.split("\n"))


def _spelled(text: str, spell: Callable[[str], str]) -> str:
    return "".join(
        spell(letter) if unicodedata.category(letter) in OBEYED and letter not in HARMLESS else letter
        for letter in text
    )


class Terminal(Console):
    """A rich console that makes all texts printable (see `printable`), wherever they are in a table or a bar."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """What rich does, with the printable text."""
        if isinstance(renderable, Text):
            shown = printable(renderable.plain)
            if shown != renderable.plain:
                renderable = Text(
                    shown, style=renderable.style, justify=renderable.justify, overflow=renderable.overflow
                )
        return super().render(renderable, options)
