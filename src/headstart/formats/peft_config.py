"""What the readers of all PEFT configurations share: known and refused fields, and which layers are targeted."""

import re
from collections.abc import Container, Mapping

import regex  # type: ignore[import-untyped]

from headstart.errors import ModuleError

__all__ = ["LARGEST", "PREFIX", "SAVE_AGAIN", "fits", "names", "refuse_fields", "targeted"]

PREFIX = "base_model.model."
"""What PEFT puts before a layer's path in the names of its tensors."""

SAVE_AGAIN = "save it again with PEFT's save_pretrained"

LARGEST = 3.4028234663852886e38
"""The largest number that float32 holds: factors beyond it would be infinite where modules are computed."""

SLOWEST = 1.0
"""Seconds for one match: real patterns take microseconds, and one from a stranger can be made to take for ever."""


def fits(pattern: str, text: str, *, whole: bool = False) -> str | None:
    """The number that the group "index" of a regular expression finds at the beginning of `text`, or "" without one.

    `None` when the text does not begin, or as a `whole` is not, as the pattern says. Raises `ValueError` when matching
    may take too long or the pattern cannot be handled, `re.error` when it is none.

    >>> fits("layers[.](?P<index>[0-9]+)", "layers.3"), fits("q|v", "q"), fits("q|v", "k")
    ('3', '', None)
    """
    try:
        re.compile(pattern)
        if _explodes(pattern):
            raise ValueError(f"the pattern {pattern[:60]!r} repeats what itself repeats, which can take for ever")
        match = regex.fullmatch if whole else regex.match
        found = match(pattern, text, timeout=SLOWEST)
    except (TimeoutError, RecursionError, OverflowError, regex.error) as error:
        if isinstance(error, re.error):
            raise
        why = "takes too long to match" if isinstance(error, TimeoutError) else f"cannot be used ({error})"
        raise ValueError(f"the pattern {pattern[:60]!r} {why}") from None
    return None if found is None else found.groupdict().get("index") or ""


TOKEN = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\{\d*,?\d*\}|\(\?P<\w+>|\(\?[:=!]|\(\?<[=!]|.", re.DOTALL)


WIDE = (r"\w", r"\W", r"\s", r"\S", r"\D", r"\b", r"\B")


def _explodes(pattern: str) -> bool:
    """Whether a repeat holds another or a choice, or follows one directly: where Python's `re`, and PEFT with it, may
    try more ways than can ever be tried.
    """
    inner, repeated, before = [False], False, ""
    for token in TOKEN.findall(pattern):
        if token.startswith("("):
            inner.append(False)
            continue
        if token == ")":
            held = inner.pop() if len(inner) > 1 else False
            inner[-1] |= held
            before = "group" if held else ""
        elif token in ("*", "+") or (token.startswith("{") and len(token) > 2):
            if before == "group" or repeated:
                return True
            inner[-1], repeated, before = True, True, ""
        elif token == "|":
            inner[-1], repeated, before = True, False, ""
        elif token != "?":
            # What matches almost anything keeps the repeats on its two sides from being told apart.
            repeated, before = (repeated and token[0] in ".^$[") or (repeated and token in WIDE), ""
    return False


def refuse_fields(config: Mapping[str, object], *, known: Container[str], refused: Mapping[str, str]) -> None:
    """Raise `ModuleError` when a field is set that is refused, for the reason given, or that is not known."""
    for field, value in config.items():
        if field in refused and value:
            raise ModuleError(f"field '{field}' is set: {refused[field]}; Headstart cannot use this module")
        if field not in known and field not in refused and value:
            raise ModuleError(
                f"unknown field '{field}' is set to {value!r} and may change what the module computes; "
                "use a Headstart that knows it, or remove the field if it has no effect"
            )


def targeted(config: Mapping[str, object], layer: str) -> bool:
    """Whether PEFT adapts `layer`: `check_target_module_exists` of PEFT 0.21, on names alone.

    With `target_modules` missing or "all-linear" PEFT asks the backbone; the tensors' own names then decide. Raises
    `TypeError`, `ValueError` or `re.error` when a field is malformed.
    """
    targets, excluded = config.get("target_modules"), config.get("exclude_modules")
    if excluded and names(excluded, layer):
        return False
    if targets is None or targets == "all-linear":
        return True
    if not names(targets, layer):
        return False
    wanted = config.get("layers_to_transform")
    if isinstance(targets, str) or layer in _strings(targets) or wanted is None or wanted == []:
        return True
    index = _layer_index(config.get("layers_pattern"), layer)
    return index is not None and index in (wanted if isinstance(wanted, list) else [wanted])


def names(patterns: object, layer: str) -> bool:
    """Whether a regular expression matches the whole path, or one of a list of names is the path or its last parts."""
    if isinstance(patterns, str):
        return fits(patterns, layer, whole=True) is not None
    return any(layer == name or layer.endswith(f".{name}") for name in _strings(patterns))


def _strings(value: object) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise TypeError(f"{value!r} is not a list of names")
    return value


def _layer_index(patterns: object, layer: str) -> int | None:
    """Index of the first numbered segment, after one of `patterns` where given."""
    if not patterns:
        patterns_of = [r".*?\.[^.]*\.(?P<index>\d+)\."]
    else:
        listed = [patterns] if isinstance(patterns, str) else _strings(patterns)
        patterns_of = [rf"(?:^|.*?\.){name}\.(?P<index>\d+)\." for name in listed]
    found = next((index for pattern in patterns_of if (index := fits(pattern, layer)) is not None), None)
    return int(found) if found else None
