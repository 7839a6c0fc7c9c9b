"""Searching a hub: the modules whose tasks are most similar to a query."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from headstart.embeddings.arrays import Array
from headstart.embeddings.contract import Embedding, Need
from headstart.errors import HubError, ModuleError, SettingError, of_type
from headstart.events import Listener
from headstart.hub import Hub, ModuleRef, as_hub
from headstart.hub.vectors import VectorFile
from headstart.ranking.nearest import Group, VectorIndex
from headstart.ranking.wording import word_vectors
from headstart.records import Refused
from headstart.showing import html_table, line, plural
from headstart.specs import Spec, make
from headstart.vectors import Vector

if TYPE_CHECKING:
    import pandas as pd

    from headstart.backbones import BackboneLike
    from headstart.kinds import ModuleLike
    from headstart.ranking.lance import LanceIndex
    from headstart.tasks import TaskLike
    from headstart.tuning.recipes import Recipe
    from headstart.units import AnyStore

__all__ = ["NEAR", "SearchResult", "search"]

NEAR = 0.98
"""Modules whose cosine is above this are near-duplicates, and listed as one."""

INDEXES = ("exact", "lancedb")

MORE = "add modules with `headstart hub add`, or ask for less by kind, family, license, include and exclude"

ANY_RANK = "canonical:rank=8"
"""An embedding in which LoRA modules of different ranks have vectors of one length."""

NOTHING = "none of the words stands on its card"


@dataclass(frozen=True)
class SearchResult:
    """The modules of a hub nearest to a query.

    `query`: what was looked for, in words. `method`: the embedding, or "words". `groups` hold positions in `modules`,
    all that were compared. `left_out`: modules that could not be compared, and why. `near`: the cosine above which
    modules are listed as one.
    """

    query: str
    method: str
    groups: tuple[Group, ...]
    modules: tuple[ModuleRef, ...]
    left_out: tuple[Refused, ...]
    near: float = NEAR

    def __repr__(self) -> str:
        best = f"nearest: {self.modules[self.groups[0].position].name}" if self.groups else "nothing found"
        left = f"{len(self.left_out)} left out" if self.left_out else ""
        return line(type(self).__name__, self.title, best, left)

    def _repr_html_(self) -> str:
        return html_table(self.frame(), title=self.title)

    @property
    def title(self) -> str:
        """What was compared with what."""
        return f"{plural(len(self.modules), 'module')} by similarity to {self.query} ({self.method})"

    def rows(self) -> list[dict[str, Any]]:
        """One mapping for each group, nearest first: module, similarity, kind, task, family, license, like.

        `like` holds the names of the near-duplicates.
        """
        found = []
        for group in self.groups:
            facts = self.modules[group.position].facts()
            known = {name: facts[name] for name in ("kind", "task", "family", "license")}
            like = [self.modules[position].name for position in group.like]
            found.append({"module": facts["name"], "similarity": group.similarity, **known, "like": like})
        return found

    def frame(self) -> pd.DataFrame:
        """`rows` as a table."""
        import pandas as pd  # which a search without a table does without

        names = ("module", "similarity", "kind", "task", "family", "license", "like")
        return pd.DataFrame(self.rows(), columns=list(names))


def search(
    task: TaskLike | None,
    hub: Hub | str | Path,
    backbone: BackboneLike | None = None,
    *,
    like: ModuleLike | None = None,
    text: str | None = None,
    embedding: str | Spec = "tupate",
    centre: bool = False,
    limit: int = 20,
    near: float = NEAR,
    index: str = "exact",
    kind: str | None = None,
    family: str | None = None,
    license: str | None = None,  # noqa: A002 - the field's own word, as on model cards
    include: str | Sequence[str] | None = None,
    exclude: str | Sequence[str] | None = None,
    recipe: Recipe | str = "few-shot",
    seed: int = 0,
    store: AnyStore = None,
    engine: str = "serial",
    progress: Listener | None = None,
) -> SearchResult:
    """The modules of a hub that are most similar to a task, to a module or to words; exact.

    Vectors of the hub's modules are computed once and kept beside its catalogue. If they are known, and the query is
    one of the hub's modules, no tensor is read.

    Args:
        task: its own module, tuned for at most 200 steps on its train split, gives the query; this needs the backbone.
            It is the reference module that `rank` compares with, and shared through the store.
        hub: a hub, or the path of one.
        backbone: the frozen model.
        like: in place of a task, the name of a module in the hub, or any module.
        text: in place of a task, words, which are compared with those of the cards: names, tasks, families, labels,
            templates and notes.
        embedding: by its spec, as `headstart list embeddings` names them.
        centre: whether the mean of the hub's vectors is subtracted first, so that what all have in common does not
            count.
        limit: how many modules at most.
        near: from which cosine on modules are near-duplicates, listed as one; 1 lists each by itself.
        index: "exact", one matrix in memory; or "lancedb", an approximate search for hubs whose matrix does not fit
            there, of the extra `headstart[lancedb]`.
        kind, family, license, include, exclude: which modules are looked at; see `Hub.find`.
        recipe: how the task's module is tuned.
        seed: of that tuning.
        store: where units are kept; `None` is the user's store, `False` keeps nothing.
        engine: where they are computed.
        progress: hears how far the work has come and what became of every unit.

    Raises:
        SettingError: not exactly one of `task`, `like` and `text`, or an unknown embedding.
        HubError: no module is left, or none can be compared.
        ModuleError: the query's module has no such embedding.

    Examples:
        >>> found = hs.search(None, hub, like="ada")
        >>> sorted(found.frame()["module"])
        ['bob', 'cyd']
    """
    _require_one(task, like, text)
    if limit < 1:
        raise SettingError(f"limit={limit} asks for no module; give limit=1 or more").with_options(
            {"limit=": "--limit "}
        )
    if index not in INDEXES:
        raise SettingError(f"unknown index '{index}'; choose one of: {', '.join(INDEXES)}")
    opened = as_hub(hub)
    view = opened.where(kind=kind, family=family, license=license, include=include, exclude=exclude)
    refs = view.refs()
    problems = tuple(view.problems())
    if text is not None:
        return _by_words(text, opened, refs, problems, limit=limit, near=near)
    from headstart.embeddings.registry import EMBEDDINGS  # NumPy alone, as the embeddings of parameters are

    method = make(EMBEDDINGS, embedding)
    _require_searchable(method)
    work = _Work(opened, str(method.spec), method.version, method.needs == {Need.PARAMETERS}, store, engine, progress)
    vectors, refused = work.of_hub(refs)
    if task is not None:
        query, said = work.of_task(task, backbone, view, recipe=recipe, seed=seed)
    else:
        assert like is not None
        query, said = work.of_module(like, opened, vectors)
    compared, unlike = _comparable(refs, vectors, query)
    left_out = (*problems, *refused, *unlike)
    if not compared:
        why = f"; the first: {left_out[0].name}: {left_out[0].reason}" if left_out else ""
        raise HubError(f"no module of the hub {opened.path} can be compared with {said}{why}; choose another embedding")
    # A module is not looked for beside itself.
    others = [position for position, ref in enumerate(compared) if ref.digest != query.digest or task is not None]
    if not others:
        raise HubError(f"there is nothing in the hub {opened.path} to compare {said} with but itself; {MORE}")
    matrix = np.stack([vectors[ref.digest].values for ref in compared])
    if method.ranks_alone:
        order = sorted(others, key=lambda position: -matrix[position, 0])
        groups = [Group(position, float(matrix[position, 0])) for position in order[:limit]]
    else:
        mean = matrix.mean(0, dtype=np.float64) if centre else None
        made = VectorIndex(matrix, mean=mean) if index == "exact" else work.lance(compared, matrix, mean)
        groups = made.nearest(query.values, limit=limit, near=near, allowed=others)
    words = f"{method.spec}, centred" if centre else str(method.spec)
    return SearchResult(said, words, tuple(groups), tuple(compared), left_out, near)


def _comparable(
    refs: Sequence[ModuleRef], vectors: Mapping[str, Vector], query: Vector
) -> tuple[list[ModuleRef], list[Refused]]:
    """The modules whose vectors are as long as the query's, and those whose are not, with the reason."""
    compared, unlike = [], []
    for ref in refs:
        if ref.digest not in vectors:
            continue
        numbers = vectors[ref.digest].dimension
        if numbers == query.dimension:
            compared.append(ref)
        else:
            why = f"its embedding has {numbers:,} numbers, the query's {query.dimension:,}"
            remedy = f"; where only the ranks differ, search by {ANY_RANK}" if ref.facts()["kind"] == "lora" else ""
            unlike.append(Refused(ref.name, why + remedy))
    return compared, unlike


@dataclass(frozen=True)
class _Work:
    """How vectors of one method are found: beside the catalogue, in the store, or computed."""

    hub: Hub
    method: str
    version: int
    keeps: bool
    store: AnyStore
    engine: str
    progress: Listener | None

    def of_hub(self, refs: Sequence[ModuleRef]) -> tuple[Mapping[str, Vector], list[Refused]]:
        """The vectors by digest; modules without one are named with the reason."""
        kept = VectorFile(self.hub.path)
        known = kept.read(self.method, version=self.version) if self.keeps else {}
        missing = [ref for ref in refs if ref.digest not in known]
        if not missing:
            return known, []
        from headstart.ranking.embedding import embed_all  # torch, which known vectors do without

        found, refused = embed_all(missing, self.method, store=self.store, engine=self.engine, progress=self.progress)
        found = {digest: _as_kept(vector) for digest, vector in found.items()}
        if found and self.keeps:
            whole = [ref.digest for ref in Hub(self.hub.path).refs()]
            kept.write(found.values(), version=self.version, keep=whole)
        return {**known, **found}, refused

    def lance(self, refs: Sequence[ModuleRef], matrix: Array, mean: Array | None) -> LanceIndex:
        """The index of these modules' vectors, kept beside the catalogue."""
        from headstart.ranking.lance import LanceIndex  # Arrow, which an exact search does without

        contents = [self.method, str(self.version), *(ref.digest for ref in refs), str(mean is not None)]
        name = hashlib.sha256("\n".join(contents).encode()).hexdigest()
        return LanceIndex(matrix, self.hub.path / ".vectors.lance" / name, mean=mean)

    def of_task(
        self, task: TaskLike, backbone: BackboneLike | None, view: Hub, *, recipe: Recipe | str, seed: int
    ) -> tuple[Vector, str]:
        """The vector of a task's own module, tuned as the hub's commonest shape, and what it is called."""
        if backbone is None:
            raise SettingError(
                "a task's own module is tuned on a backbone; give backbone=, or look for modules like= one of the hub"
            ).with_options({"backbone=": "--backbone", "like=": "--like"})
        from headstart.ranking.embedding import embed_task  # torch

        return embed_task(
            task, backbone, view, self.method, recipe=recipe, seed=seed, store=self.store, engine=self.engine,
            progress=self.progress,
        )  # fmt: skip

    def of_module(self, like: ModuleLike, hub: Hub, known: Mapping[str, Vector]) -> tuple[Vector, str]:
        """The vector of a module of the hub, by name, or of any other, and what it is called."""
        ref = hub[like] if isinstance(like, str) and like in hub else like
        if isinstance(ref, ModuleRef):
            if ref.digest not in known:
                found, refused = self.of_hub([ref])
                if ref.digest not in found:
                    raise ModuleError(refused[0].reason)
                known = found
            return known[ref.digest], ref.name
        if isinstance(like, str) and not Path(like).expanduser().exists():
            hub[like]  # raises, with the names that are close
        from headstart.embeddings import embed  # torch

        vector = embed(like, self.method, store=self.store, progress=self.progress)
        return vector, str(like) if isinstance(like, str | Path) else "the module given"


def _require_searchable(method: Embedding) -> None:
    if method.needs & {Need.DATA, Need.OTHERS}:
        raise SettingError(
            f"a hub holds no rows of its modules' tasks, and no other modules of them, which '{method.name}' reads; "
            "embed the modules one by one with headstart.embeddings.embed, or search by tupate"
        )


def _as_kept(vector: Vector) -> Vector:
    """In the precision of the file of vectors, so that what is found does not depend on what is kept."""
    return replace(vector, values=vector.values.astype(np.float32))


def _require_one(task: object, like: object, text: object) -> None:
    if text is not None and not isinstance(text, str):
        raise SettingError(f"{of_type('text', text)}; give words")
    given = [name for name, value in (("task", task), ("like", like), ("text", text)) if value is not None]
    if len(given) != 1:
        said = "nothing to look for was given" if not given else f"{' and '.join(given)} were given"
        raise SettingError(f"{said}; give one of task, like= and text=").with_options(
            {"task, like= and text=": "TASK, --like and --text"}
        )


def _by_words(
    text: str, hub: Hub, refs: Sequence[ModuleRef], problems: Sequence[Refused], *, limit: int, near: float
) -> SearchResult:
    """Modules whose cards have words of the text."""
    vectors, query = word_vectors([_card_text(ref.facts()) for ref in refs], text)
    if not len(query):
        raise SettingError(f"'{text}' holds no word; give words")
    there = (vectors > 0).sum(1) > 0
    compared = [ref for ref, has in zip(refs, there.tolist(), strict=True) if has]
    if not compared:
        raise HubError(
            f"no card in the hub {hub.path} has a word of '{text}'; give other words, or look for modules like= one of "
            "the hub"
        ).with_options({"like=": "--like"})
    left_out = [Refused(ref.name, NOTHING) for ref, has in zip(refs, there.tolist(), strict=True) if not has]
    scores = (vectors[there] @ query) / (query @ query)  # the share of the query's weight, above 1 for repeated words
    order = np.argsort(-scores, kind="stable")[:limit]
    groups = tuple(Group(int(position), float(scores[position])) for position in order)
    return SearchResult(f"'{text}'", "words", groups, tuple(compared), (*problems, *left_out), near)


def _card_text(facts: Mapping[str, Any]) -> str:
    template = facts.get("template") or {}
    parts = [facts[name] for name in ("name", "task", "family", "notes")]
    return " ".join([*parts, *(facts.get("labels") or ()), template.get("input", "")]).replace("/", " ")
