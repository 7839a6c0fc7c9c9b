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

__all__ = ["Embedding", "Need", "Spec", "Subject", "require_rows"]


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
    whether its vector is one number by which modules are ranked, whatever the query.
    """

    source: ClassVar[str]
    needs: ClassVar[frozenset[Need]] = frozenset({Need.PARAMETERS})
    version: ClassVar[int] = 1
    ranks_alone: ClassVar[bool] = False

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
