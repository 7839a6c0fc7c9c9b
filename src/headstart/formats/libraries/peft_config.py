"""What the readers of all PEFT configurations share: known and refused fields."""

from collections.abc import Container, Mapping

from headstart.errors import ModuleError

__all__ = ["LARGEST", "PREFIX", "SAVE_AGAIN", "refuse_fields"]

PREFIX = "base_model.model."
"""What PEFT puts before a layer's path in the names of its tensors."""

SAVE_AGAIN = "save it again with PEFT's save_pretrained"

LARGEST = 3.4028234663852886e38
"""The largest number that float32 holds: factors beyond it would be infinite where modules are computed."""


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
