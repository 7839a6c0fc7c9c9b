"""The cosine of task embeddings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from headstart.embeddings import EMBEDDINGS, Embedding, Subject, make_embedding
from headstart.embeddings.arrays import Array
from headstart.embeddings.contract import Need, require_alone
from headstart.embeddings.unit import backbone_of
from headstart.errors import ModuleError, SettingError
from headstart.indicators.contract import WeightIndicator
from headstart.kinds import AnyModule, Module

__all__ = ["Similarity"]


@dataclass(frozen=True)
class Similarity(WeightIndicator):
    """cos(e(O), e(Õ)), where `embedding` names e and Õ is the reference module.

    With the default, `tupate`, this is Zhou et al., 2022, §3.2. With `centre`, the mean of the embeddings of all
    modules that are scored together is subtracted from both, so that what all have in common does not count. Modules of
    another kind than the reference module's have no value, unless the embedding is the same for all kinds.

    Only embeddings of the parameters alone are compared: `SettingError` for any other.
    """

    name = "similarity"
    source = "Zhou et al., 2022, §3.2"
    distribution = False
    version = 3

    embedding: str = "tupate"
    centre: bool = False

    def __post_init__(self) -> None:
        embedding = make_embedding(self.embedding)
        try:
            require_alone(embedding, otherwise="compare by tupate")
        except SettingError as error:
            raise error.saying(f"similarity: {error}") from None
        if embedding.needs - {Need.PARAMETERS}:  # what a card says is no part of a module's digest, by which it is kept
            raise SettingError(
                f"similarity: '{embedding.name}' reads how a module was tuned, and only embeddings of its parameters "
                "are compared; search the hub by it (headstart search --embedding), or compare by tupate"
            )

    @property
    def versions(self) -> dict[str, int]:
        """The embedding's."""
        name = make_embedding(self.embedding).name
        return {f"embedding {name}": EMBEDDINGS[name].version}

    @property
    def relative(self) -> bool:
        """Whether the mean of the others counts."""
        return self.centre

    def among(self, modules: Sequence[AnyModule]) -> WeightIndicator:
        """With `centre`, the indicator that knows the mean of these modules.

        A module without such an embedding has no part in it. Raises `ModuleError` for one that cannot be read: the
        mean of the others would be that of other modules than were asked for.
        """
        if not self.centre:
            return self
        sums: dict[tuple[str, int], tuple[Array, int]] = {}
        embedding = make_embedding(self.embedding)
        for module in modules:
            read = module.load()
            try:
                found = embedding.of(Subject(read))
            except ModuleError:
                continue  # the reason stands where it has no value
            like = _like(embedding, read, found)
            total, count = sums.get(like, (np.zeros(len(found)), 0))
            sums[like] = (total + found, count + 1)
        return _Centred({like: total / count for like, (total, count) in sums.items()}, embedding)

    def from_modules(self, modules: Sequence[Module], reference: Module) -> list[float | str]:
        """One cosine per module; a module of which there is no such embedding, or one of another length, has none."""
        if self.centre:
            return self.among(modules).from_modules(modules, reference)
        return _cosines(make_embedding(self.embedding), {}, modules, reference)


@dataclass(frozen=True, eq=False)
class _Centred(WeightIndicator):
    """`similarity:centre=true` with the mean embeddings, by kind and length."""

    name = "similarity"
    source = Similarity.source
    distribution = False

    means: Mapping[tuple[str, int], Array]
    embedding: Embedding

    def from_modules(self, modules: Sequence[Module], reference: Module) -> list[float | str]:
        return _cosines(self.embedding, self.means, modules, reference)


def _like(embedding: Embedding, module: Module, found: Array) -> tuple[str, int]:
    """What modules have in common whose embeddings can be compared."""
    return module.kind if "kind" in embedding.alike else "", len(found)


def _cosines(
    embedding: Embedding, means: Mapping[tuple[str, int], Array], modules: Sequence[Module], reference: Module
) -> list[float | str]:
    wanted = embedding.of(Subject(reference))
    mean = means.get(_like(embedding, reference, wanted), np.zeros(len(wanted)))
    query = (reference.kind, backbone_of(reference.card))
    nothing = (
        "it, or the reference module, is the mean of those that are compared"
        if means
        else "its parameters are all zero"
    )
    if not means and not np.any(wanted):
        nothing = "the reference module changes nothing, because its best state on dev rows is the one it began with"
    values: list[float | str] = []
    for module in modules:
        unlike = embedding.unlike((module.kind, backbone_of(module.card)), query, whose="the reference module's")
        if unlike:
            values.append(unlike)
            continue
        try:
            found = embedding.of(Subject(module))
        except ModuleError as error:
            values.append(str(error))
            continue
        if found.shape != wanted.shape:
            values.append(f"its embedding has {len(found)} numbers, the reference module's {len(wanted)}")
            continue
        (value,) = embedding.similarities(wanted - mean, found[None] - mean)
        values.append(nothing if np.isnan(value) else float(value))
    return values
