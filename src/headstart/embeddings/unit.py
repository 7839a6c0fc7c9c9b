"""Embedding as a unit of work."""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from headstart.embeddings.tuned import tuned_parameters
from headstart.events import Listener
from headstart.kinds import AnyModule
from headstart.kinds.unit import given_module
from headstart.units import AnyStore, Context, Result, Store, Unit, run

__all__ = ["EmbedUnit", "embed"]


@dataclass(frozen=True, eq=False)
class EmbedUnit(Unit):
    """The embedding e(O) of one module, or of the module that a unit makes. The module's name does not count."""

    type: ClassVar[str] = "embed"
    together: ClassVar[int] = 64

    module: AnyModule | Unit

    @property
    def label(self) -> str:
        """Which module is embedded."""
        given = self.module
        return f"embedding {f'what comes of {given.label}' if isinstance(given, Unit) else given.name}"

    def batch_key(self) -> Hashable:
        """Many modules go to one worker, because handing over a module takes longer than embedding it."""
        return ()

    def compute(self, context: Context) -> Result:
        """Embed it. Raises `ModuleError` where the embedding is not defined."""
        module = given_module(self.module, context)
        assert module is not None
        return Result(tensors={"embedding": tuned_parameters(module).numpy()}, device="cpu")

    @staticmethod
    def embedding(result: Result) -> Tensor:
        """What `tuned_parameters` would have returned."""
        return torch.from_numpy(result.tensors["embedding"])


def embed(module: AnyModule, *, store: AnyStore = None, progress: Listener | None = None) -> Tensor:
    """The embedding of a module, (D,), float64; see `tuned_parameters`.

    Args:
        module: the module whose task is embedded. If the store has the embedding, the tensors of a hub's module are not
            read, only its digest.
        store: where it is kept; `None` is the user's store, `False` keeps nothing.
        progress: hears whether it was computed or reused.

    Raises:
        ModuleError: the layers of a stack do not have equal numbers of parameters.
        StoreError: the store cannot be written.
    """
    unit = EmbedUnit(module)
    with Store.opened(store) as kept:
        return unit.embedding(run([unit], store=kept, raising=False, listener=progress).or_raise().of(unit))
