"""Searching a hub: the modules whose tasks are most similar to a query."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from headstart.embeddings.contract import Embedding, require_alone
from headstart.errors import HubError, SettingError, of_type
from headstart.events import Listener, Note
from headstart.hub import Hub, ModuleRef, as_hub
from headstart.ranking.hub_vectors import HubVectors
from headstart.ranking.nearest import Group, VectorIndex
from headstart.ranking.wording import word_vectors
from headstart.records import Refused
from headstart.showing import html_table, line, plural
from headstart.specs import Spec, make
from headstart.units.forecast import DRY_RUN
from headstart.vectors import Vector

if TYPE_CHECKING:
    import pandas as pd

    from headstart.backbones import BackboneLike
    from headstart.kinds import ModuleLike
    from headstart.tasks import TaskLike
    from headstart.tuning.recipes import Recipe
    from headstart.units import AnyStore

__all__ = ["NEAR", "SearchResult", "search"]

NEAR = 0.98
"""Modules whose cosine is above this are near-duplicates, and listed as one."""

INDEXES = ("exact", "lancedb")

MORE = "add modules with `headstart hub add`, or ask for less by kind, family, license, include and exclude"

ANY_RANK = "gram"
"""An embedding in which LoRA modules of different ranks have vectors of one length."""

NOTHING = "none of the words stands on its card"


@dataclass(frozen=True)
class SearchResult:
    """The modules of a hub nearest to a query.

    `query`: what was looked for, in words. `method`: the embedding, or "words". `groups` hold positions in `modules`,
    all that were compared with the query. `left_out`: modules that could not be compared, and why. `near`: the cosine
    above which modules are listed as one.
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
    embedding: str | Spec | None = None,
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

    Only vectors of one kind of module and one backbone are compared, unless the embedding does not depend on these.
    Vectors of the hub's modules are computed once and kept beside its catalogue. If they are known, and the query is
    one of the hub's modules, no tensor is read.

    Args:
        task: its own module, tuned for at most 200 steps on its train split, gives the query; this needs the backbone.
            It is the reference module that `rank` compares with, and shared through the store.
        hub: a hub, or the path of one.
        backbone: the frozen model, on which the task's module is tuned; `None` is the one that the hub's modules name.
        like: in place of a task, the name of a module in the hub, or any module.
        text: in place of a task, words, which are compared with those of the cards: names, tasks, families, labels,
            templates and notes.
        embedding: by its spec, as `headstart list embeddings` names them; `None` is "gram" for LoRA, which begins with
            random numbers that have nothing to do with the task, and "tupate" for other kinds.
        centre: whether the mean of the hub's vectors that can be compared with the query is subtracted first, so that
            what all have in common does not count; those of modules that are not looked at are part of it, too.
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
    # NumPy alone, as the embeddings of parameters are.
    from headstart.embeddings.registry import EMBEDDINGS, usual_embedding

    method = make(EMBEDDINGS, embedding or usual_embedding(_kind_of(opened, like)))
    require_alone(method, otherwise="search by tupate")
    known = HubVectors(opened, method, store, engine, progress)
    asked = None if task is None else known.of_task(task, backbone, view, recipe=recipe, seed=seed)
    if asked is not None and embedding is None:
        method = make(EMBEDDINGS, usual_embedding(asked.kind))
        known = HubVectors(opened, method, store, engine, progress)
    if asked is not None and progress:
        steps = asked.tuning.recipe.max_steps
        progress(Note(f"a module is tuned on {asked.name} first, for up to {steps} steps; a shorter recipe takes less"))
    # A mean, and a table on the disk, are those of the hub, whichever of its modules are looked at.
    whole = not method.ranks_alone and (centre or index != "exact")
    looked = Hub(opened.path).refs() if whole else refs
    found = known.of(looked, task=asked)
    if asked is not None:
        assert found.query is not None
        query, said = found.query, asked.name
    else:
        assert like is not None
        query, said = known.of_module(like, found.vectors)
    every, unlike = _comparable(looked, found.vectors, query, method)
    inside = {ref.name for ref in refs}
    places = [place for place, ref in enumerate(every) if ref.name in inside]
    left_out = (*problems, *(one for one in (*found.refused, *unlike) if one.name in inside))
    if not places:
        why = f"; the first: {left_out[0].name}: {left_out[0].reason}" if left_out else ""
        raise HubError(
            f"no module of the hub {opened.path} can be compared with {said}{why}; choose another embedding, or a "
            "query of the hub's kind and backbone"
        )
    # A module is not looked for beside itself.
    others = [place for place in places if every[place].digest != query.digest or task is not None]
    if not others:
        why = f": {left_out[0].name} is left out, because {left_out[0].reason}" if left_out else ""
        more = f"; {MORE}" if not left_out else "; choose another embedding, or add modules of its kind and shape"
        raise HubError(f"there is nothing in the hub {opened.path} to compare {said} with but itself{why}{more}")
    ranks = {place: rank for rank, place in enumerate(others)}
    nearest = _nearest(known, every, query, found.vectors, others, centre=centre, limit=limit, near=near, index=index)
    groups = tuple(Group(ranks[g.position], g.similarity, tuple(ranks[one] for one in g.like)) for g in nearest)
    words = f"{method.spec}, centred" if centre else str(method.spec)
    return SearchResult(said, words, groups, tuple(every[place] for place in others), left_out, near)


def _kind_of(hub: Hub, like: ModuleLike | None) -> str:
    """The kind of a module that is looked for, "" without one."""
    if like is None:
        return ""
    if isinstance(like, str) and like in hub:
        return str(hub[like].facts()["kind"])
    if isinstance(like, str) and not Path(like).expanduser().exists():
        hub[like]  # raises, with the names that are close
    from headstart.kinds import as_module  # torch

    return as_module(like, parameter="like").card.kind


def _nearest(
    known: HubVectors,
    refs: Sequence[ModuleRef],
    query: Vector,
    vectors: Mapping[str, Vector],
    allowed: Sequence[int],
    *,
    centre: bool,
    limit: int,
    near: float,
    index: str,
) -> Sequence[Group]:
    """The groups nearest to the query among the `allowed` of `refs`, by their positions there."""
    matrix = np.stack([vectors[ref.digest].values for ref in refs])
    if known.embedding.ranks_alone:
        order = sorted(allowed, key=lambda place: -matrix[place, 0])
        return [Group(place, float(matrix[place, 0])) for place in order[:limit]]
    mean = matrix.mean(0, dtype=np.float64) if centre else None
    exact = index == "exact" or known.engine == DRY_RUN  # which writes no table
    made = VectorIndex(matrix, mean=mean) if exact else known.lance(refs, query, matrix, mean)
    return made.nearest(query.values, limit=limit, near=near, allowed=allowed)


def _comparable(
    refs: Sequence[ModuleRef], vectors: Mapping[str, Vector], query: Vector, method: Embedding
) -> tuple[list[ModuleRef], list[Refused]]:
    """The modules whose vectors can be compared with the query's, and those whose cannot, with the reason."""
    compared, unlike = [], []
    for ref in refs:
        if ref.digest not in vectors:
            continue
        vector = vectors[ref.digest]
        why = method.unlike((vector.kind, vector.backbone), (query.kind, query.backbone), whose="the query's")
        if not why and vector.dimension != query.dimension:
            why = f"its embedding has {vector.dimension:,} numbers, the query's {query.dimension:,}"
            why += f"; --embedding {ANY_RANK} compares LoRA of any rank" if vector.kind == "lora" else ""
        if why:
            unlike.append(Refused(ref.name, why))
        else:
            compared.append(ref)
    return compared, unlike


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
