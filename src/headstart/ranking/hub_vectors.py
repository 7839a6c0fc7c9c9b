"""The vectors that a search compares: kept beside the hub's catalogue, or computed. Known ones need no torch."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from headstart.embeddings.arrays import Array
from headstart.embeddings.contract import Embedding, Need
from headstart.errors import ModuleError
from headstart.events import Listener
from headstart.hub import Hub, ModuleRef
from headstart.hub.vectors import VectorFile
from headstart.records import Refused
from headstart.units import AnyStore
from headstart.units.forecast import DRY_RUN
from headstart.vectors import Vector

if TYPE_CHECKING:
    from headstart.backbones import BackboneLike
    from headstart.kinds import ModuleLike
    from headstart.ranking.embedding import TaskQuery
    from headstart.ranking.lance import LanceIndex
    from headstart.tasks import TaskLike
    from headstart.tuning.recipes import Recipe

__all__ = ["Found", "HubVectors"]


@dataclass(frozen=True)
class Found:
    """Vectors by the digests of their modules, the modules without one, with the reason, and the vector of a task."""

    vectors: Mapping[str, Vector]
    refused: Sequence[Refused] = ()
    query: Vector | None = None


@dataclass(frozen=True)
class HubVectors:
    """How the vectors of one method are found for the modules of a hub, and for what is looked for."""

    hub: Hub
    embedding: Embedding
    store: AnyStore
    engine: str
    progress: Listener | None

    @property
    def method(self) -> str:
        """The canonical spec of the embedding."""
        return str(self.embedding.spec)

    def of(self, refs: Sequence[ModuleRef], *, task: TaskQuery | None = None) -> Found:
        """The vectors of modules of the hub, and of a task."""
        kept, version = VectorFile(self.hub.path), self.embedding.version
        # What a card or a history says is no part of the digest by which vectors are kept.
        keeps = self.embedding.needs == {Need.PARAMETERS}
        known = kept.read(self.method, version=version) if keeps else {}
        missing = [ref for ref in refs if ref.digest not in known]
        if not missing and task is None:
            return Found(known)
        from headstart.ranking.embedding import embed_all  # torch, which known vectors do without

        found, refused, query = embed_all(
            missing, self.method, query=task, store=self.store, engine=self.engine, progress=self.progress
        )
        made = {digest: _as_kept(vector) for digest, vector in found.items()}
        if made and keeps and self.engine != DRY_RUN:
            whole = [ref.digest for ref in Hub(self.hub.path).refs()]
            kept.write(made.values(), version=version, keep=whole)
        return Found({**known, **made}, refused, query)

    def of_task(
        self, task: TaskLike, backbone: BackboneLike | None, view: Hub, *, recipe: Recipe | str, seed: int
    ) -> TaskQuery:
        """What gives the vector of a task: its own module, tuned as the commonest shape in `view`."""
        from headstart.tasks import as_task

        read = as_task(task)  # before the backbone, which takes long to load
        from headstart.ranking.embedding import TaskQuery  # torch

        return TaskQuery.of(read, backbone, view, recipe=recipe, seed=seed, progress=self.progress)

    def of_module(self, like: ModuleLike, known: Mapping[str, Vector]) -> tuple[Vector, str]:
        """The vector of a module of the hub, by name, or of any other, and what it is called."""
        ref = self.hub[like] if isinstance(like, str) and like in self.hub else like
        if isinstance(ref, ModuleRef):
            if ref.digest not in known:
                found = self.of([ref])
                if ref.digest not in found.vectors:
                    raise ModuleError(found.refused[0].reason)
                known = found.vectors
            return known[ref.digest], ref.name
        if isinstance(like, str) and not Path(like).expanduser().exists():
            self.hub[like]  # raises, with the names that are close
        from headstart.embeddings import embed  # torch

        vector = embed(like, self.method, store=self.store, progress=self.progress)
        return vector, str(like) if isinstance(like, str | Path) else "the module given"

    def lance(self, refs: Sequence[ModuleRef], query: Vector, matrix: Array, mean: Array | None) -> LanceIndex:
        """The index of all vectors that can be compared with such a query, one table beside the catalogue."""
        from headstart.ranking.lance import LanceIndex  # Arrow, which an exact search does without

        asked = [self.method, query.kind, query.backbone, str(query.dimension), str(mean is not None)]
        contents = [str(self.embedding.version), *(ref.digest for ref in refs)]
        folder = self.hub.path / ".vectors.lance" / _hash(asked)
        return LanceIndex(matrix, folder, mean=mean, contents=_hash(contents))


def _as_kept(vector: Vector) -> Vector:
    """In the precision of the file of vectors, so that what is found does not depend on what is kept."""
    return replace(vector, values=vector.values.astype(np.float32))


def _hash(parts: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
