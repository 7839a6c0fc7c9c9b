"""The terminal: what prints text from files of strangers, made printable."""

from collections.abc import Iterable

import regex  # type: ignore[import-untyped]
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

__all__ = ["UNPRINTABLE", "Terminal", "printable"]

UNPRINTABLE = regex.compile(r"[[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]--[\n\t\u200c\u200d]]", regex.VERSION1)
"""What a terminal would obey, and what hides the order of other letters; the joiners belong to words."""


def printable(text: str) -> str:
    """`text` with everything in it that is `UNPRINTABLE` as an escape; line ends and tabs stay.

    >>> printable("\\x1b[31mred \\u202e caf\\u00e9")
    '\\\\x1b[31mred \\\\u202e café'
    """
    shown: str = UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)
    return shown


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
