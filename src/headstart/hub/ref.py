"""What a hub knows of a module without reading its tensors."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from headstart.errors import ModuleError
from headstart.records import ModuleCard

if TYPE_CHECKING:
    from headstart.formats import StoredModule

__all__ = ["CHANGED", "Entry", "ModuleRef", "Widths", "changed"]

Widths = Mapping[str, tuple[int | None, int | None]]
"""Each target layer's (in, out) widths; `None` is one that no tensor shows."""

SAME = ("tensor_hash", "rank", "scaling", "targets")
"""Fields of a card that differ when the module computes something else."""

CHANGED = (
    "its tensors or configuration changed since it was added; put the old files back, "
    "or rebuild the hub's catalogue to accept the new ones"
)


@dataclass(frozen=True)
class ModuleRef:
    """A module of a hub, as its catalogue knows it; the tensors stay on the disk until `read`.

    `digest`: equal digest, equal function, whatever the module is called. `shape`: equal for modules whose
    configuration and tensors' names, types and shapes are equal; such modules fit the same backbones.
    """

    card: ModuleCard
    path: Path
    digest: str
    shape: str

    @property
    def name(self) -> str:
        """The name that the hub has for it."""
        return self.card.name

    def read(self) -> StoredModule:
        """Read and validate the folder. Raises `ModuleError` when it is broken or not what was catalogued."""
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
    """What the catalogue keeps of a module. `digest` and `shape` as in `ModuleRef`."""

    card: ModuleCard
    widths: Widths
    digest: str
    shape: str


def changed(old: ModuleCard, new: ModuleCard) -> bool:
    """Whether the two cards are of modules that compute something else."""
    return any(getattr(old, field) != getattr(new, field) for field in SAME)
