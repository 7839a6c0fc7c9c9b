"""How results show themselves where they are looked at: one line in a console, a table in a notebook."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["LONGEST", "capitalized", "cut", "html_table", "line", "plural"]

LONGEST = 200
"""The most characters of a `repr`."""

ROWS = 20
"""The most rows of a table in a notebook, unless its page is longer."""


def capitalized(text: str) -> str:
    """The text with a capital at its beginning, and otherwise as it is.

    >>> capitalized("the ensemble wins on SST-2")
    'The ensemble wins on SST-2'
    """
    return text[:1].upper() + text[1:]


def line(name: str, *parts: str) -> str:
    """The `repr` of an object of class `name`: what it is, in `parts`, of which empty ones are left out.

    >>> line("Ranking", "2 modules by cosine", "", "best: ada")
    'Ranking(2 modules by cosine; best: ada)'
    """
    return f"{name}({cut('; '.join(filter(None, parts)), LONGEST - len(name) - 2)})"


def cut(text: str, most: int = 60) -> str:
    """The text in one line, and no longer than that.

    >>> cut("a long name", 6)
    'a lon…'
    """
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[: most - 1]}…"


def plural(count: int, noun: str) -> str:
    """A count and what is counted.

    >>> plural(1, "module"), plural(1200, "module")
    ('1 module', '1,200 modules')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def html_table(frame: pd.DataFrame, *, title: str, rows: int = ROWS) -> str:
    """The first rows of a table for a notebook, below its title, with a note on the rest."""
    left = len(frame) - rows
    rest = f"<p>… and {plural(left, 'more row')}</p>" if left > 0 else ""
    body = frame.head(rows).to_html(index=False, na_rep="", float_format=lambda value: f"{value:.4g}", border=0)
    return f"<p>{escape(title)}</p>{body}{rest}"
