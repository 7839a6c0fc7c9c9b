"""What the readers of all PEFT configurations share: known and refused fields, and which layers are targeted."""

import re
from collections.abc import Container, Mapping

from headstart.errors import ModuleError

__all__ = ["PREFIX", "SAVE_AGAIN", "names", "refuse_fields", "targeted"]

PREFIX = "base_model.model."
"""What PEFT puts before a layer's path in the names of its tensors."""

SAVE_AGAIN = "save it again with PEFT's save_pretrained"


def refuse_fields(
    config: Mapping[str, object], source: str, *, known: Container[str], refused: Mapping[str, str]
) -> None:
    """Raise `ModuleError` when a field is set that is refused, for the reason given, or that is not known."""
    for field, value in config.items():
        if field in refused and value:
            raise ModuleError(f"{source}: field '{field}' is set: {refused[field]}; Headstart cannot use this module")
        if field not in known and field not in refused and value:
            raise ModuleError(
                f"{source}: unknown field '{field}' is set to {value!r} and may change what the module computes; "
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
        return re.fullmatch(patterns, layer) is not None
    return any(layer == name or layer.endswith(f".{name}") for name in _strings(patterns))


def _strings(value: object) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise TypeError(f"{value!r} is not a list of names")
    return value


def _layer_index(patterns: object, layer: str) -> int | None:
    """Index of the first numbered segment, after one of `patterns` where given."""
    if not patterns:
        regexes = [r".*?\.[^.]*\.(?P<index>\d+)\."]
    else:
        listed = [patterns] if isinstance(patterns, str) else _strings(patterns)
        regexes = [rf"(?:^|.*?\.){name}\.(?P<index>\d+)\." for name in listed]
    found = next((match for regex in regexes if (match := re.match(regex, layer))), None)
    return int(found["index"]) if found else None
