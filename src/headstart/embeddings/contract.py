"""What every embedding can do, and what it may read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from headstart.embeddings.arrays import Array, cosines
from headstart.errors import SettingError
from headstart.records import TextFormat
from headstart.specs import Spec, Specified

if TYPE_CHECKING:
    from headstart.backbones import Backbone
    from headstart.kinds import Module
    from headstart.tasks import Example

__all__ = ["Embedding", "Need", "Spec", "Subject", "require_alone", "require_rows"]


class Need(StrEnum):
    """What an embedding may read."""

    PARAMETERS = "parameters"
    """The tuned parameters of the task's module."""
    HISTORY = "history"
    """How the module was tuned: its losses, an early state."""
    CARD = "card"
    """What the module's card says of its training."""
    OTHERS = "others"
    """Modules of other kinds that were tuned on the same task."""
    DATA = "data"
    """Rows of the task, and the backbone that reads them."""


@dataclass(frozen=True, eq=False)
class Subject:
    """What is known of one task.

    Args:
        module: was tuned on it.
        others: modules of other kinds that were tuned on it, too.
        examples: its training rows.
        backbone: the frozen model that reads them.
        text_format: how they are laid out.
    """

    module: Module
    others: Sequence[Module] = ()
    examples: Sequence[Example] = ()
    backbone: Backbone | None = None
    text_format: TextFormat = field(default_factory=TextFormat)

    def data(self, method: str, rows: int) -> tuple[Sequence[Example], Backbone]:
        """The first rows, and the backbone. Raises `SettingError` if they are not given."""
        if not self.examples or self.backbone is None:
            raise SettingError(f"'{method}' reads the task's own rows; give task= and backbone=")
        return self.examples[:rows], self.backbone


def require_rows(method: str, rows: int) -> None:
    """Raise `SettingError` unless at least one row of the task is read."""
    if rows < 1:
        raise SettingError(f"{method}: rows={rows} reads nothing; give 1 or more")


@dataclass(frozen=True)
class Embedding(Specified, ABC):
    """A way to make a vector that stands for a task. A frozen dataclass: its fields, with defaults, are its parameters.

    Class attributes: `name` as the user types it; `source`, the paper and section; `needs`, what it reads; `version`,
    raised by hand when it gives other values than before, so that stored ones are computed again; `ranks_alone`,
    whether its vector is one number by which modules are ranked, whatever the query; `alike`, in what two
    modules must agree for their vectors to be compared: "kind" and "backbone", unless the vector does not depend on it.
    """

    source: ClassVar[str]
    needs: ClassVar[frozenset[Need]] = frozenset({Need.PARAMETERS})
    version: ClassVar[int] = 1
    ranks_alone: ClassVar[bool] = False
    alike: ClassVar[frozenset[str]] = frozenset({"kind", "backbone"})

    @abstractmethod
    def of(self, subject: Subject) -> Array:
        """The vector, (D,), float64. Raises `ModuleError`, with the reason, if it is not defined."""

    def similarities(self, query: Array, vectors: Array) -> Array:
        """How similar each of `vectors` (N, D) is to `query` (D,), (N,): the cosine; NaN for a vector of zeros.

        With `ranks_alone`, the numbers themselves.
        """
        if self.ranks_alone:
            return np.asarray(vectors[:, 0])
        return np.asarray(cosines(query[None], vectors)[0])

    def unlike(self, module: tuple[str, str], query: tuple[str, str], *, whose: str) -> str:
        """Why a module's vector is not compared with a query's; "" if it is.

        Both are given by kind and backbone (`Vector.kind`, `Vector.backbone`); one that is not stated does not count.
        `whose`: what the query's is called, such as "the query's".
        """
        alike = frozenset[str]() if self.ranks_alone else self.alike
        if "kind" in alike and module[0] != query[0]:
            return f"its kind is {module[0]}, {whose} {query[0]}"
        if "backbone" in alike and all((module[1], query[1])) and module[1] != query[1]:
            return f"its backbone is another one than {whose}"
        return ""


def require_alone(embedding: Embedding, *, otherwise: str) -> None:
    """Raise `SettingError` unless it follows from single modules; `otherwise` says what to do in place of it."""
    if Need.DATA in embedding.needs:
        what, given = "rows of the modules' own tasks", "task= and backbone="
    elif Need.OTHERS in embedding.needs:
        what, given = "modules of other kinds tuned on the same task", "others="
    else:
        return
    raise SettingError(
        f"{what}, which '{embedding.name}' reads, are not there when the modules of a hub are compared; embed the "
        f"modules one by one with headstart.embeddings.embed, which takes them as {given}, or {otherwise}"
    )
