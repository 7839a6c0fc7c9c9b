"""What the readers of all PEFT configurations share: known fields, sizes and shapes of tensors."""

from collections.abc import Mapping, Sequence, Set
from typing import NamedTuple

from headstart.errors import ModuleError
from headstart.formats.containers.safetensors_file import StoredTensor

__all__ = ["IDENTITY", "LARGEST", "PREFIX", "SAVE_AGAIN", "Fields", "Plain", "require_matrix", "require_shape", "sizes"]

PREFIX = "base_model.model."
"""The prefix that PEFT puts before a layer's path in the names of its tensors."""

SAVE_AGAIN = "save it again with PEFT's save_pretrained"

LARGEST = 3.4028234663852886e38
"""The largest number that float32 holds: larger factors would be infinite when modules are computed."""

IDENTITY = frozenset(
    {"auto_mapping", "base_model_name_or_path", "inference_mode", "peft_type", "peft_version", "revision"}
)
"""Fields of identity and provenance; the backbone is compared by fingerprint, not by these."""


class Plain(NamedTuple):
    """A module as PEFT would have saved it (or AdapterHub, if PEFT has no such kind); tensors by name."""

    config: dict[str, object]
    tensors: dict[str, StoredTensor]


class Fields(NamedTuple):
    """All fields of one method's configuration in the version that is read; see `check`.

    `handled`: fields from which the layout is computed; `harmless`: fields that do not change the function of a saved
    module; `refused`: fields that, when set, change it in a way that Headstart does not compute, each with the reason.
    """

    handled: Set[str]
    harmless: Set[str]
    refused: Mapping[str, str] = {}

    def check(self, config: Mapping[str, object]) -> None:
        """Raise `ModuleError` if a refused or unknown field is set."""
        for field, value in config.items():
            if field in self.refused and value:
                raise ModuleError(f"field '{field}' is set: {self.refused[field]}; Headstart cannot use this module")
            if field not in self.handled | self.harmless | self.refused.keys() and value:
                raise ModuleError(
                    f"unknown field '{field}' is set to {value!r} and may change what the module computes; "
                    "use a Headstart that knows it, or remove the field if it has no effect"
                )


def sizes(config: Mapping[str, object], fields: Sequence[str]) -> tuple[int, ...]:
    """The values of `fields`, each a whole number above 0; raises `ModuleError` for the first one that is not."""
    found = []
    for field in fields:
        value = config.get(field)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ModuleError(f"field '{field}' is {value!r}, not a whole number above 0; {SAVE_AGAIN}")
        found.append(value)
    return tuple(found)


def require_matrix(name: str, shape: Sequence[int], *, remedy: str = SAVE_AGAIN) -> None:
    """Raise `ModuleError` unless a tensor has two dimensions, neither of them 0."""
    if len(shape) != 2 or 0 in shape:
        raise ModuleError(f"tensor '{name}' has shape {shape}, not two dimensions; {remedy}")


def require_shape(name: str, shape: Sequence[int], wanted: Sequence[int], *, remedy: str = SAVE_AGAIN) -> None:
    """Raise `ModuleError` unless a tensor has the wanted shape."""
    if shape != wanted:
        raise ModuleError(f"tensor '{name}' has shape {shape}, not {wanted}; {remedy}")
