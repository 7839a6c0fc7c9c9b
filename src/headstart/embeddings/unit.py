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
    """The embedding e(O) of one module, or of the one that a unit makes. What the module is called does not count."""

    type: ClassVar[str] = "embed"
    together: ClassVar[int] = 64

    module: AnyModule | Unit

    @property
    def label(self) -> str:
        """What is embedded."""
        given = self.module
        return f"embedding {f'what comes of {given.label}' if isinstance(given, Unit) else given.name}"

    def batch_key(self) -> Hashable:
        """Many go to one worker, which takes longer to be handed a module than to embed it."""
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
    """The embedding of a module, (D,), float64; see `tuned_parameters`. One that is in the store reads no module.

    Args:
        module: what stands for its task; of a hub's only its digest is read where the store has the embedding.
        store: where it is kept; `None` is the user's, `False` keeps nothing.
        progress: told whether it was computed or reused.

    Raises:
        ModuleError: the layers of a stack do not hold equally many parameters.
        StoreError: the store cannot be written.
    """
    unit = EmbedUnit(module)
    with Store.opened(store) as kept:
        return unit.embedding(run([unit], store=kept, raising=False, listener=progress).or_raise().of(unit))
