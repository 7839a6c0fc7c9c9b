"""What a hub knows of a module without reading its tensors, and what is noted when they are read."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from headstart.errors import ModuleError
from headstart.formats import StoredModule, read_module
from headstart.records import ModuleCard

__all__ = ["CHANGED", "Entry", "ModuleRef", "changed", "entry_of"]

SAME = ("tensor_hash", "rank", "scaling", "targets")
"""Fields of a card that differ when the module computes something else."""

CHANGED = (
    "its tensors or configuration changed since it was added; put the old files back, "
    "or rebuild the hub's catalogue to accept the new ones"
)

DESCRIPTIVE = frozenset(
    {"base_model_name_or_path", "model_name", "revision", "peft_version", "inference_mode", "auto_mapping"}
)
"""Fields of a configuration that say where a module comes from, not what it computes."""


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
        module = read_module(self.path)
        if changed(self.card, module.card):
            raise ModuleError(f"{self.path}: {CHANGED}")
        return replace(module, card=module.card.model_copy(update={"name": self.name}))


@dataclass(frozen=True)
class Entry:
    """What the catalogue keeps of a module.

    `widths`: each target layer's (in, out) widths, `None` if not shown. `digest` and `shape` as in `ModuleRef`.
    """

    card: ModuleCard
    widths: Mapping[str, tuple[int | None, int | None]]
    digest: str
    shape: str


def entry_of(module: StoredModule, name: str) -> Entry:
    """The entry of `module` under the hub's name for it."""
    card = module.card.model_copy(update={"name": name})
    head = "" if card.head is None else card.head.to_json()
    config = {key: value for key, value in module.config.items() if value and key not in DESCRIPTIVE}
    computing = [card.kind, config, head]
    tensors: object = card.tensor_hash
    if not module.layout.holds_backbone:
        tensors = sorted((t.name, t.dtype, t.shape) for t in (*module.tensors.values(), *module.head.values()))
    return Entry(card, module.layout.widths, _hash([*computing, card.tensor_hash]), _hash([*computing, tensors]))


def changed(old: ModuleCard, new: ModuleCard) -> bool:
    """Whether the two cards are of modules that compute something else."""
    return any(getattr(old, field) != getattr(new, field) for field in SAME)


def _hash(parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
