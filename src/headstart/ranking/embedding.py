"""The vectors that a search needs and does not find: computed through the store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from headstart.backbones import Backbone, BackboneLike, backbone_loaders
from headstart.embeddings import Embedding, EmbedUnit, Subject, make_embedding
from headstart.embeddings.unit import DIRECT, vector_of
from headstart.errors import HeadstartError, ModuleError
from headstart.events import Listener
from headstart.hub import Hub, ModuleRef
from headstart.kinds import Module, backbone_for, load_module
from headstart.ranking.rank import load_modules, reference_unit
from headstart.records import ModuleCard, Refused
from headstart.tasks import Task
from headstart.tuning.recipes import Recipe, as_recipe
from headstart.tuning.unit import TuneUnit
from headstart.units import AnyStore, Results, Store, Unit, run
from headstart.vectors import Vector

__all__ = ["StoredModuleOf", "TaskQuery", "embed_all"]


@dataclass(frozen=True)
class StoredModuleOf:
    """A module of a hub as the input of a unit, read when the unit is computed."""

    ref: ModuleRef

    @property
    def name(self) -> str:
        """Its name in the hub."""
        return self.ref.name

    @property
    def card(self) -> ModuleCard:
        """Its card in the hub."""
        return self.ref.card

    def digest(self) -> str:
        """The hub's digest of it."""
        return self.ref.digest

    def load(self) -> Module:
        """Read it. Raises `ModuleError` if it is broken or not what was catalogued."""
        return load_module(self.ref)


@dataclass(frozen=True)
class TaskQuery:
    """A task as a query: the unit that tunes its reference module (see `reference_unit`), and where that runs."""

    name: str
    tuning: TuneUnit
    backbone: Backbone

    @classmethod
    def of(
        cls,
        task: Task,
        backbone: BackboneLike | None,
        hub: Hub,
        *,
        recipe: Recipe | str,
        seed: int,
        progress: Listener | None,
    ) -> TaskQuery:
        """That of a task; the module has the hub's commonest shape."""
        run_on = backbone_for(hub, backbone)
        modules, _ = load_modules(hub, run_on, progress=progress)
        tuning = reference_unit(task, run_on, like=modules, recipe=as_recipe(recipe), seed=seed)
        return cls(task.name, tuning, run_on)

    @property
    def kind(self) -> str:
        """The kind of the reference module."""
        start = self.tuning.start
        return start.kind if isinstance(start, Module) else ""

    def unit(self, embedding: Embedding) -> Unit:
        """The last unit that it needs."""
        return self.tuning if embedding.needs & DIRECT else EmbedUnit(self.tuning, str(embedding.spec))

    def vector(self, embedding: Embedding, found: Results) -> Vector:
        """The query. Raises the error of its units, if one failed."""
        last = self.unit(embedding)
        for unit in (self.tuning, last):
            if unit.key in found.failed:
                error = found.failed[unit.key]
                raise error.__cause__ if isinstance(error.__cause__, HeadstartError) else error
        if isinstance(last, EmbedUnit):
            return last.vector(found.of(last))
        return vector_of(Subject(self.tuning.tuned(found.of(self.tuning)).module), embedding)


def embed_all(
    refs: Sequence[ModuleRef],
    method: str,
    *,
    query: TaskQuery | None = None,
    store: AnyStore,
    engine: str,
    progress: Listener | None,
) -> tuple[dict[str, Vector], list[Refused], Vector | None]:
    """The vectors of modules by digest, the modules that have none, with the reason, and the vector of a query.

    All come of one run, so that a dry run knows of everything that is missing.
    """
    embedding = make_embedding(method)
    direct = bool(embedding.needs & DIRECT)
    units = {} if direct else {ref.digest: EmbedUnit(StoredModuleOf(ref), method) for ref in refs}
    vectors, refused = _directly(refs, embedding) if direct else ({}, [])
    asked = [] if query is None else [query.unit(embedding)]
    loaders = {} if query is None else backbone_loaders(query.backbone)
    if not asked and not units:
        return vectors, refused, None
    with Store.opened(store) as kept:
        found = run(
            [*asked, *units.values()], store=kept, engine=engine, loaders=loaders, raising=False, listener=progress
        )
        vectors |= {digest: unit.vector(found.of(unit)) for digest, unit in units.items() if unit.key in found}
        own = None if query is None else query.vector(embedding, found)
    failed = {digest: found.failed[unit.key] for digest, unit in units.items() if unit.key in found.failed}
    refused += [Refused(ref.name, str(failed[ref.digest].__cause__)) for ref in refs if ref.digest in failed]
    return vectors, refused, own


def _directly(refs: Sequence[ModuleRef], embedding: Embedding) -> tuple[dict[str, Vector], list[Refused]]:
    """The vectors that follow from cards or histories, without a store."""
    vectors: dict[str, Vector] = {}
    refused = []
    for ref in refs:
        try:
            vectors[ref.digest] = vector_of(Subject(load_module(ref)), embedding, digest=ref.digest)
        except ModuleError as error:
            refused.append(Refused(ref.name, str(error)))
    return vectors, refused
