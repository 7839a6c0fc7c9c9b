"""The vectors that a search needs and does not find: computed through the store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from headstart.backbones import BackboneLike, as_backbone, backbone_loaders
from headstart.embeddings import Embedding, EmbedUnit, Subject, make_embedding
from headstart.embeddings.unit import DIRECT, vector_of
from headstart.errors import ModuleError
from headstart.events import Listener
from headstart.hub import Hub, ModuleRef
from headstart.kinds import Module, load_module
from headstart.ranking.rank import load_modules, reference_unit
from headstart.records import ModuleCard, Refused
from headstart.tasks import TaskLike, as_task
from headstart.tuning.recipes import Recipe, as_recipe
from headstart.units import AnyStore, Store, run
from headstart.vectors import Vector

__all__ = ["StoredModuleOf", "embed_all", "embed_task"]


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


def embed_all(
    refs: Sequence[ModuleRef], method: str, *, store: AnyStore, engine: str, progress: Listener | None
) -> tuple[dict[str, Vector], list[Refused]]:
    """The vectors of modules by digest, and the modules that have none, with the reason."""
    embedding = make_embedding(method)
    if embedding.needs & DIRECT:
        return _directly(refs, embedding)
    units = {ref.digest: EmbedUnit(StoredModuleOf(ref), method) for ref in refs}
    with Store.opened(store) as kept:
        found = run(list(units.values()), store=kept, engine=engine, raising=False, listener=progress)
        vectors = {digest: unit.vector(found.of(unit)) for digest, unit in units.items() if unit.key in found}
    refused = [
        Refused(ref.name, str(found.failed[units[ref.digest].key].__cause__))
        for ref in refs
        if units[ref.digest].key in found.failed
    ]
    return vectors, refused


def _directly(refs: Sequence[ModuleRef], embedding: Embedding) -> tuple[dict[str, Vector], list[Refused]]:
    """The vectors that follow from cards or histories, without a store."""
    vectors, refused = {}, []
    for ref in refs:
        try:
            vectors[ref.digest] = vector_of(Subject(load_module(ref)), embedding, digest=ref.digest)
        except ModuleError as error:
            refused.append(Refused(ref.name, str(error)))
    return vectors, refused


def embed_task(
    task: TaskLike,
    backbone: BackboneLike,
    hub: Hub,
    method: str,
    *,
    recipe: Recipe | str,
    seed: int,
    store: AnyStore,
    engine: str,
    progress: Listener | None,
) -> tuple[Vector, str]:
    """The vector of the task's reference module (see `reference_unit`), and the task's name."""
    read, run_on = as_task(task), as_backbone(backbone)
    modules, _ = load_modules(hub, run_on, progress=progress)
    tuning = reference_unit(read, run_on, like=modules, recipe=as_recipe(recipe), seed=seed)
    embedding = make_embedding(method)
    direct = bool(embedding.needs & DIRECT)
    unit = tuning if direct else EmbedUnit(tuning, method)
    with Store.opened(store) as kept:
        found = run(
            [unit], store=kept, engine=engine, loaders=backbone_loaders(run_on), raising=False, listener=progress
        ).or_raise()  # fmt: skip
        if isinstance(unit, EmbedUnit):
            return unit.vector(found.of(unit)), read.name
        return vector_of(Subject(tuning.tuned(found.of(tuning)).module), embedding), read.name
