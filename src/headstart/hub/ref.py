"""What a hub knows about a module without reading its tensors."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

from headstart.errors import ModuleError
from headstart.hub.catalogue import DamageError
from headstart.showing import line

if TYPE_CHECKING:
    from headstart.formats import StoredModule
    from headstart.records import ModuleCard

__all__ = ["CHANGED", "Entry", "ModuleRef", "Widths", "changed", "parsed"]

Widths = Mapping[str, tuple[int | None, int | None]]
"""Each target layer's (in, out) widths; `None` is a width that no tensor shows."""

SAME = ("tensor_hash", "rank", "scaling", "targets")
"""Fields of a card that differ if the module computes something else."""

LOADER = "headstart.kinds:load_module"
"""What makes a module of what a hub holds. It needs torch, and lies above hubs, which only know files."""

CHANGED = (
    "its tensors or configuration changed since it was added; put the old files back, "
    "or rebuild the hub's catalogue to accept the new ones"
)


@dataclass(frozen=True)
class ModuleRef:
    """A module of a hub, as its catalogue knows it; the tensors stay on the disk until `read`.

    `written`: the card as JSON, parsed when `card` is read. `digest`: equal digests mean equal functions, whatever the
    modules are called. `shape`: equal for modules whose configuration and tensors' names, types and shapes are equal;
    such modules fit the same backbones.

    >>> hub["ada"].load()
    LoraModule(ada, lora of rank 2, 448 parameters)
    """

    name: str
    path: Path
    digest: str
    shape: str
    written: str = field(repr=False)

    def __repr__(self) -> str:
        return line(type(self).__name__, self.card.words, f"in {self.path}")

    def load(self) -> Any:
        """The module itself, a `headstart.kinds.Module`. Raises `ModuleError` as `read` does."""
        return resolve_name(LOADER)(self)

    @cached_property
    def card(self) -> ModuleCard:
        """The card, under the name that the hub has for the module."""
        return parsed(self.written)

    def facts(self) -> dict[str, Any]:
        """The card's fields as JSON values."""
        found: dict[str, Any] = json.loads(self.written)
        return found

    def read(self) -> StoredModule:
        """Read and validate the folder. Raises `ModuleError` if it is broken or not what was catalogued."""
        from headstart.formats import read_module  # NumPy, which looking at a hub does without

        try:
            module = read_module(self.path)
        except OSError as error:
            raise ModuleError(
                f"cannot read {self.path}: {error.strerror or error}; it may have been removed meanwhile, see "
                "headstart hub check"
            ) from error
        if changed(self.card, module.card):
            raise ModuleError(f"{self.path}: {CHANGED}")
        return dataclasses.replace(module, card=module.card.model_copy(update={"name": self.name}))


@dataclass(frozen=True)
class Entry:
    """What the catalogue keeps about a module. `digest` and `shape` are as in `ModuleRef`."""

    card: ModuleCard
    widths: Widths
    digest: str
    shape: str


def parsed(written: str) -> ModuleCard:
    """A card as the catalogue keeps it. Raises `DamageError` if another version wrote it."""
    # Importing pydantic's models takes longer than listing thousands of modules.
    from headstart.records import ModuleCard

    try:
        return ModuleCard.model_validate_json(written)
    except ValueError as error:
        raise DamageError("the catalogue is of another version; delete it, it is built again from the hub") from error


def changed(old: ModuleCard, new: ModuleCard) -> bool:
    """Whether the two cards are of modules that compute something else."""
    return any(getattr(old, field) != getattr(new, field) for field in SAME)
