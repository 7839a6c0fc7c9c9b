"""What the parts of the mutation corpus hand to one another; pure, without torch."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Literal, NamedTuple

__all__ = ["Case", "Dimensions", "Expectation", "Finding", "Mutation", "Result", "Source"]

Expectation = Literal["refused", "same", "oracle"]
"""What must follow: it is refused; it is the original's function; or it is what an independent reader computes."""

Result = Literal["loaded_right", "refused", "silent_wrong", "crashed"]

Mutation = Callable[[Path, Random], tuple[str, Expectation] | None]
"""Alters a copy of a module's folder and says what it did and what must follow; `None` if it does not apply."""


class Dimensions(NamedTuple):
    """A tiny random backbone that a module fits: the sizes from which it is built.

    `heads`, `key_heads`: of queries and of keys; `head`: width of one; `seed`: of the weights.
    """

    family: str
    layers: int = 2
    width: int = 32
    inner: int = 48
    heads: int = 4
    key_heads: int = 2
    head: int = 8
    seed: int = 0


@dataclass(frozen=True)
class Source:
    """A sound module's folder, and the backbone that it was made for."""

    folder: Path
    dims: Dimensions


@dataclass(frozen=True)
class Case:
    """One altered copy: where it is, what it was made from and how, and what must follow."""

    number: int
    family: str
    what: str
    expectation: Expectation
    folder: Path
    original: Path
    dims: Dimensions
    home: Dimensions


@dataclass(frozen=True)
class Finding:
    """What became of a case, and why, in words."""

    case: Case
    result: Result
    detail: str
