"""Modules whose tensors are read when a stack needs them, so that thousands fit into memory."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import Protocol

from headstart.backbones import Head
from headstart.formats import StoredModule
from headstart.kinds.contract import Module
from headstart.kinds.history import read_history
from headstart.kinds.tensors import to_torch
from headstart.records import Fingerprint, ModuleCard
from headstart.showing import line

__all__ = ["AnyModule", "LazyModule", "StoredSource", "module_of"]


class StoredSource(Protocol):
    """Where a stored module comes from, such as `headstart.hub.ModuleRef`."""

    @property
    def card(self) -> ModuleCard:
        """What the module is."""

    @property
    def digest(self) -> str:
        """A hash: equal digests mean equal functions."""

    def read(self) -> StoredModule:
        """Read and validate it. Raises `ModuleError` if it is broken or not what the card says."""


@dataclass(frozen=True, eq=False)
class LazyModule:
    """A module that has not been read yet, with what a stack must know beforehand; `load` reads it.

    `family` is the class that `load` will return, `stack_key` its key. `fits` is the backbone that it was checked
    against. `head`: a task head that replaces its own.
    """

    source: StoredSource
    card: ModuleCard
    family: type[Module]
    stack_key: Hashable
    fits: Fingerprint
    head: Head | None = None

    def __repr__(self) -> str:
        return line(type(self).__name__, self.card.words)

    @property
    def name(self) -> str:
        """The name on the card."""
        return self.card.name

    @property
    def kind(self) -> str:
        """The name of the kind, as users type it."""
        return self.card.kind

    @property
    def only_ranked(self) -> str | None:
        """Why it can be ranked but neither merged nor tuned, or `None` if it can be; see `Module`."""
        return self.family.ranked_alone(self.card)

    def load(self) -> Module:
        """Read the module itself. Raises `ModuleError` if its folder is broken or is not what was catalogued."""
        module = module_of(self.family, self.source.read())
        return module if self.head is None else module.with_head(self.head)

    def with_head(self, head: Head) -> LazyModule:
        """The same module with another task head."""
        return replace(self, head=head, card=self.card.model_copy(update={"head": head.card}))

    def digest(self) -> str:
        """A hash, known without reading the tensors: equal digests mean equal functions. For cache keys."""
        return self.source.digest


AnyModule = Module | LazyModule
"""A module in memory, or one that has not been read yet; `load()` returns the former."""


def module_of(family: type[Module], stored: StoredModule) -> Module:
    """The module of this class that a validated folder holds, with the task head in that folder."""
    module = family.from_stored(stored)
    history = read_history(stored.folder, module.parameters())
    module = module if history is None else replace(module, history=history)
    if stored.card.head is None:
        return module
    tensors = {name: to_torch(tensor).float() for name, tensor in stored.head.items()}
    return module.with_head(Head(stored.card.head, tensors))
