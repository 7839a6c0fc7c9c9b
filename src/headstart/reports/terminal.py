"""The terminal: what prints text from files of strangers, made printable."""

import unicodedata
from collections.abc import Callable, Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

__all__ = ["Terminal", "printable"]

OBEYED = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Categories of letters that a terminal would obey, or that hide the order of other letters."""
HARMLESS = frozenset("\n\t\u200c\u200d")
"""Letters of these categories that stay: line ends, tabs, and the joiners, which belong to words."""


def _escape(letter: str) -> str:
    """Python's way to write a letter."""
    return letter.encode("unicode_escape").decode("ascii")


def printable(text: str, *, spell: Callable[[str], str] = _escape) -> str:
    """`text` with every letter in it that a terminal would obey as `spell` writes it; line ends and tabs stay.

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
    """A rich console that prints texts as `printable` makes them, wherever in a table or a bar they stand."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """As rich does, of the printable text."""
        if isinstance(renderable, Text):
            shown = printable(renderable.plain)
            if shown != renderable.plain:
                renderable = Text(
                    shown, style=renderable.style, justify=renderable.justify, overflow=renderable.overflow
                )
        return super().render(renderable, options)
