"""How results show themselves where they are looked at: one line in a console, a table in a notebook."""

from __future__ import annotations

import inspect
import json
from html import escape
from pathlib import PurePath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import pandas as pd

__all__ = ["LONGEST", "call_text", "capitalized", "cut", "duration_text", "html_table", "line", "plural"]

LONGEST = 200
"""The most characters of a `repr`."""

ROWS = 20
"""The most rows of a table in a notebook, unless its page is longer."""


WHERE = ("store", "engine", "progress")
"""Arguments that say where work is done and kept, and not what comes out."""


def call_text(function: Callable[..., object], given: Mapping[str, object]) -> str:
    """The call of a function of `hs` with these arguments, without those at their defaults.

    Texts, paths, numbers and lists of them are as they would be typed; another object has the name of its parameter.

    >>> def fit(task, hub, *, folds=5, recipe="quick", store=None): ...
    >>> call_text(fit, {"task": "tickets.csv", "hub": object(), "folds": 3, "recipe": "quick", "store": False})
    'hs.fit("tickets.csv", hub, folds=3)'
    """
    parts = []
    for name, parameter in inspect.signature(function).parameters.items():
        plain = parameter.kind is not inspect.Parameter.KEYWORD_ONLY
        if name in WHERE or (not plain and given[name] == parameter.default):
            continue
        text = _typed(given[name]) or name
        parts.append(text if plain else f"{name}={text}")
    return f"hs.{function.__name__}({', '.join(parts)})"


def _typed(value: object) -> str:
    """The value as it would be typed, "" if it cannot be."""
    if isinstance(value, str | PurePath):
        return json.dumps(str(value), ensure_ascii=False)
    if isinstance(value, list | tuple):
        items = [_typed(item) for item in value]
        return f"[{', '.join(items)}]" if all(items) else ""
    return repr(value) if value is None or isinstance(value, bool | int | float) else ""


def duration_text(seconds: float) -> str:
    """A time for people.

    >>> duration_text(8.2), duration_text(100), duration_text(4000)
    ('8 s', '2 min', '1 h 7 min')
    """
    if 0 < seconds < 1:
        return "under 1 s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


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
