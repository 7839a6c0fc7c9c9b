"""What every embedding can do, and what it may read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from headstart.embeddings.arrays import Array, cosines
from headstart.specs import Spec, Specified

if TYPE_CHECKING:
    from headstart.kinds import Module

__all__ = ["Embedding", "Need", "Spec", "Subject"]


class Need(StrEnum):
    """What an embedding may read."""

    PARAMETERS = "parameters"
    """The tuned parameters of the task's module."""


@dataclass(frozen=True, eq=False)
class Subject:
    """What is known of one task: the module that was tuned on it."""

    module: Module


@dataclass(frozen=True)
class Embedding(Specified, ABC):
    """A way to make a vector that stands for a task. A frozen dataclass: its fields, with defaults, are its parameters.

    Class attributes: `name` as the user types it; `source`, the paper and section; `needs`, what it reads; `version`,
    raised by hand when it gives other values than before, so that stored ones are computed again.
    """

    source: ClassVar[str]
    needs: ClassVar[frozenset[Need]] = frozenset({Need.PARAMETERS})
    version: ClassVar[int] = 1

    @abstractmethod
    def of(self, subject: Subject) -> Array:
        """The vector, (D,), float64. Raises `ModuleError`, with the reason, if it is not defined."""

    def similarities(self, query: Array, vectors: Array) -> Array:
        """How similar each of `vectors` (N, D) is to `query` (D,), (N,): the cosine; NaN for a vector of zeros."""
        return np.asarray(cosines(query[None], vectors)[0])
