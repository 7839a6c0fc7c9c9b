"""How a method is written, and whether there is one of that name; nothing that a method needs is imported."""

import re
from collections.abc import Iterable
from difflib import get_close_matches

from headstart.blending import RULES
from headstart.comparing.methods import METHODS
from headstart.errors import SettingError, of_type

__all__ = ["method_parts", "require_methods"]


def method_parts(text: str) -> tuple[str, str, str]:
    """The label, the name and the fields of a method that is written as "[LABEL=]NAME[:field=value,…]".

    NAME is that of a method or of a merge rule; without a LABEL, it is the label, too. Raises `SettingError` for an
    unknown name, and for a label that no table can hold.

    >>> method_parts("mine=softmax:temperature=0.1")
    ('mine', 'softmax', 'temperature=0.1')
    """
    if not isinstance(text, str):
        raise SettingError(f"{of_type('a method', text)}; give its text, such as 'softmax:temperature=0.1'")
    head, _, rest = text.partition(":")
    label, separator, name = (part.strip() for part in head.rpartition("="))
    if separator and not label:
        raise SettingError(f"method '{text}' has an empty label; write LABEL=NAME, or NAME alone")
    if re.search(r"[^\w.\- ]", label):
        raise SettingError(
            f"method {text!r} has the label {label!r}; write a label of letters, digits, '_', '-', '.' and spaces"
        )
    if name not in METHODS and name not in RULES:
        near = get_close_matches(name, [*METHODS, *RULES], n=1)
        hint = f"did you mean '{near[0]}'? The methods are" if near else "choose one of"
        raise SettingError(
            f"unknown method '{name}'; {hint}: {', '.join(METHODS)}; or a merge rule: {', '.join(RULES)}"
        )
    return label or name, name, rest


def require_methods(texts: Iterable[str]) -> None:
    """Raise `SettingError` for a method that there is none of, as `method_parts` does."""
    for text in texts:
        method_parts(text)
