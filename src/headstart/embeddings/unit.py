"""Embedding as a unit of work."""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import ClassVar, Protocol

from headstart.embeddings.contract import Embedding, Subject
from headstart.embeddings.parsing import make_embedding
from headstart.embeddings.registry import EMBEDDINGS
from headstart.errors import ModuleError
from headstart.events import Listener
from headstart.kinds import ModuleLike, as_module
from headstart.kinds.contract import Module
from headstart.kinds.unit import given_module
from headstart.specs import Spec
from headstart.units import AnyStore, Context, Result, Store, Unit, run
from headstart.vectors import Vector

__all__ = ["EmbedUnit", "Embeddable", "embed", "vector_of"]


class Embeddable(Protocol):
    """A module, or what reads one: `Module`, `LazyModule`, or a module of a hub."""

    @property
    def name(self) -> str:
        """What people call it."""

    def digest(self) -> str:
        """A hash: equal digests mean equal functions."""

    def load(self) -> Module:
        """The module itself."""


@dataclass(frozen=True, eq=False)
class EmbedUnit(Unit):
    """The embedding of one module, or of the module that a unit makes. The module's name does not count.

    `embedding`: the canonical spec.
    """

    type: ClassVar[str] = "embed"
    version: ClassVar[int] = 2
    together: ClassVar[int] = 64

    module: Embeddable | Unit
    embedding: str = "tupate"

    @property
    def label(self) -> str:
        """Which module is embedded."""
        given = self.module
        return f"embedding {f'what comes of {given.label}' if isinstance(given, Unit) else given.name}"

    @property
    def versions(self) -> dict[str, int]:
        """The embedding's."""
        name = Spec.parse(self.embedding).name
        return {f"embedding {name}": EMBEDDINGS[name].version}

    def batch_key(self) -> Hashable:
        """Many modules go to one worker, because handing over a module takes longer than embedding it."""
        return ()

    def compute(self, context: Context) -> Result:
        """Embed it. Raises `ModuleError` where the embedding is not defined."""
        given = self.module
        module = given_module(given, context) if isinstance(given, Unit) else given.load()
        assert module is not None
        digest = (module if isinstance(given, Unit) else given).digest()
        found = vector_of(module, make_embedding(self.embedding), digest=digest)
        facts = {name: getattr(found, name) for name in ("method", "kind", "backbone", "layers", "digest")}
        return Result(facts, tensors={"embedding": found.values}, device="cpu")

    @staticmethod
    def vector(result: Result) -> Vector:
        """What `embed` returns."""
        return Vector(values=result.tensors["embedding"], **result.facts)


def vector_of(module: Module, embedding: Embedding, *, digest: str | None = None) -> Vector:
    """The vector of a module in memory; no store. Raises `ModuleError` where the embedding is not defined.

    `digest`: the module's, if it is known.
    """
    values = embedding.of(Subject(module))
    backbone = module.card.backbone
    return Vector(
        method=str(embedding.spec),
        kind=module.kind,
        backbone="" if backbone is None else backbone.weights,
        layers=_layers(module),
        digest=module.digest() if digest is None else digest,
        values=values,
    )


def embed(
    module: ModuleLike,
    method: str | Spec | Embedding = "tupate",
    *,
    store: AnyStore = None,
    progress: Listener | None = None,
) -> Vector:
    """The embedding of a module.

    Args:
        module: the module whose task is embedded. If the store has the embedding, the tensors of a hub's module are not
            read, only its digest.
        method: an embedding by its spec, as `headstart list embeddings` names them.
        store: where it is kept; `None` is the user's store, `False` keeps nothing.
        progress: hears whether it was computed or reused.

    Raises:
        ModuleError: the embedding is not defined for this module.
        SettingError: an unknown method.
        StoreError: the store cannot be written.
    """
    given = as_module(module, parameter="module")
    unit = EmbedUnit(given, str(make_embedding(method).spec))
    with Store.opened(store) as kept:
        return unit.vector(run([unit], store=kept, raising=False, listener=progress).or_raise().of(unit))


def _layers(module: Module) -> int:
    try:
        return sum(len(rows) for rows in module.layer_vectors())
    except ModuleError:
        return 0
