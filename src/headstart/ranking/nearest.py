"""The vectors nearest to a query: one matrix, exact."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headstart.embeddings.arrays import Array, centred
from headstart.errors import SettingError

__all__ = ["Group", "Nearest", "VectorIndex", "unit_query"]

BLOCK = 32
"""How many of the nearest are at least put in order at a time, until there are as many groups as are wanted."""


@dataclass(frozen=True)
class Group:
    """A vector among the nearest, and those after it that are nearly the same.

    `position` in the index, cosine `similarity` to the query, and `like`, the positions of its near-duplicates.
    """

    position: int
    similarity: float
    like: tuple[int, ...] = ()


Nearest = list[Group]


def unit_query(query: Array, dimension: int, *, mean: Array | None) -> NDArray[np.float32]:
    """A query (D,), less the mean, at length 1. Raises `SettingError` for one of another length, or of zeros."""
    given = np.asarray(query, np.float64) if mean is None else centred(np.asarray(query)[None], mean)[0]
    if given.shape != (dimension,):
        raise SettingError(
            f"the query has {len(given)} numbers and the vectors have {dimension}; "
            "embed both by one method, from modules of one shape"
        )
    norm = float(np.linalg.norm(given))
    if not norm > 0:
        raise SettingError("the query's vector is all zeros; give a module that was tuned")
    return (given / norm).astype(np.float32)


class VectorIndex:
    """N vectors of one length as a matrix of unit rows, float32; a query is one product with it.

    Args:
        vectors: (N, D). A vector of zeros has no direction, and is never found.
        mean: what is subtracted from vectors and queries, (D,); `None` for nothing.
    """

    def __init__(self, vectors: Array, *, mean: Array | None = None) -> None:
        self.mean = mean
        rows = np.asarray(vectors, np.float32) if mean is None else centred(vectors, mean).astype(np.float32)
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        self.rows: NDArray[np.float32] = np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0)
        self.empty = norms[:, 0] == 0

    def __len__(self) -> int:
        return len(self.rows)

    def similarities(self, query: Array) -> NDArray[np.float32]:
        """The cosine of every vector with the query (D,), (N,); NaN for vectors of zeros.

        Raises `SettingError` for a query of another length, or of zeros.
        """
        found: NDArray[np.float32] = self.rows @ unit_query(query, self.rows.shape[1], mean=self.mean)
        np.clip(found, -1, 1, out=found)  # rounding
        found[self.empty] = np.nan
        return found

    def nearest(
        self, query: Array, *, limit: int = 20, near: float = 0.98, allowed: Sequence[int] | Array | None = None
    ) -> Nearest:
        """The `limit` groups nearest to the query, the most similar first; equal ones keep their order.

        A vector whose cosine with one that is listed before it is above `near` belongs to that one's group.
        `allowed`: positions to look among; `None` is all. Raises `SettingError` as `similarities` does.
        """
        found = self.similarities(query)
        if allowed is None:
            positions = np.flatnonzero(~np.isnan(found))
        else:
            positions = np.asarray(allowed, np.int64)
            positions = positions[~np.isnan(found[positions])]
        groups: dict[int, list[int]] = {}
        done = 0
        while done < len(positions) and len(groups) < limit:
            block = _best(found, positions, done, done + max(BLOCK, limit, done))
            self._group(block, groups, limit=limit, near=near)
            done += len(block)
        return [Group(position, float(found[position]), tuple(like)) for position, like in groups.items()]

    def _group(self, block: NDArray[np.int64], groups: dict[int, list[int]], *, limit: int, near: float) -> None:
        """Enter the vectors of a block, best first, until there are `limit` groups."""
        held = list(groups)
        among = np.concatenate([np.array(held, np.int64), block])
        alike = np.minimum(self.rows[among] @ self.rows[block].T, 1) > near
        place = {int(position): row for row, position in enumerate(among)}
        for column, position in enumerate(block.tolist()):
            first = next((one for one in groups if alike[place[one], column]), None)
            if first is not None:
                groups[first].append(position)
            elif len(groups) < limit:
                groups[position] = []


def _best(found: NDArray[np.float32], positions: NDArray[np.int64], start: int, stop: int) -> NDArray[np.int64]:
    """Those of `positions` that come from `start` to `stop` in order of falling similarity."""
    values = -found[positions]
    if stop < len(positions):
        chosen = np.argpartition(values, stop - 1)[:stop]
        # Whatever equals the last one counts too, so that equal ones keep the order of their positions.
        chosen = np.flatnonzero(values <= values[chosen].max())
    else:
        chosen = np.arange(len(positions))
    order = chosen[np.argsort(values[chosen], kind="stable")]
    best: NDArray[np.int64] = positions[order][start:stop]
    return best
