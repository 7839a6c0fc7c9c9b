"""The vectors nearest to a query in a LanceDB table: for hubs whose matrix does not fit into memory; approximate."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from headstart.embeddings.arrays import Array
from headstart.errors import OutputError
from headstart.extras import require
from headstart.ranking.nearest import Group, Nearest, VectorIndex, unit_query

__all__ = ["LanceIndex"]

TABLE = "vectors"

INDEXED_FROM = 10_000
"""A table of fewer rows has no index, and is searched whole."""

PROBES = 20
"""Of the √N clusters of an index, how many are searched: those whose centres are nearest to the query."""


class LanceIndex:
    """N vectors of one length as unit rows of a LanceDB table, clustered; a query reads the nearest clusters alone.

    It answers as `VectorIndex` does, by the same calls; near-duplicates are grouped, and similarities computed, exactly
    among what was found.

    Args:
        vectors: (N, D). A vector of zeros has no direction, and is never found.
        folder: where the table is, or is to be written.
        mean: what is subtracted from vectors and queries, (D,); `None` for nothing.
        contents: what these vectors are known by. A table of others in that folder is replaced.

    Raises:
        SettingError: LanceDB is not installed.
        OutputError: the folder cannot be written.
    """

    def __init__(self, vectors: Array, folder: Path, *, mean: Array | None = None, contents: str = "") -> None:
        require("lancedb", for_what="the index lancedb")
        import lancedb

        self.mean = mean
        self.size, self.dimension = vectors.shape
        done = folder / "done"
        if not done.exists() or done.read_text() != contents:
            shutil.rmtree(folder, ignore_errors=True)
            try:
                folder.mkdir(parents=True)
                _write(lancedb.connect(folder), vectors, mean)
                done.write_text(contents)
            except OSError as error:
                raise OutputError(
                    f"cannot write {folder}: {error}; free some space, or take the index exact"
                ) from error
        self._table: Any = lancedb.connect(folder).open_table(TABLE)

    def __len__(self) -> int:
        return int(self.size)

    def nearest(
        self, query: Array, *, limit: int = 20, near: float = 0.98, allowed: Sequence[int] | Array | None = None
    ) -> Nearest:
        """The `limit` groups nearest to the query; see `VectorIndex.nearest`."""
        unit = unit_query(query, self.dimension, mean=self.mean)
        wanted, among = 4 * limit, None if allowed is None else set(np.asarray(allowed).tolist())
        while True:
            positions, rows = self._found(unit, wanted)
            kept = [place for place, position in enumerate(positions) if among is None or position in among]
            groups = VectorIndex(rows[kept]).nearest(unit, limit=limit, near=near) if kept else []
            if len(groups) >= limit or wanted >= self.size:
                break
            wanted = min(4 * wanted, self.size)
        named = [positions[place] for place in kept]
        return [Group(named[g.position], g.similarity, tuple(named[each] for each in g.like)) for g in groups]

    def _found(self, unit: Array, wanted: int) -> tuple[list[int], Array]:
        # More clusters are read as more is wanted: the whole table in the end.
        probes = PROBES * max(1, wanted // 100)
        asked = self._table.search(unit).distance_type("dot").nprobes(probes).limit(wanted)
        found = asked.select(["id", "vector", "_distance"]).to_arrow()
        rows = found["vector"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        return found["id"].to_pylist(), rows.reshape(-1, self.dimension)


def _write(database: Any, vectors: Array, mean: Array | None) -> None:
    exact = VectorIndex(vectors, mean=mean)
    there = np.flatnonzero(~exact.empty)
    flat = pa.array(exact.rows[there].ravel())
    columns = {"id": pa.array(there), "vector": pa.FixedSizeListArray.from_arrays(flat, exact.rows.shape[1])}
    table = database.create_table(TABLE, pa.table(columns))
    if len(there) >= INDEXED_FROM:
        from lancedb.index import IvfFlat

        # Clusters that are found from fewer vectors, in fewer rounds, than by default: minutes instead of hours.
        clusters = round(len(there) ** 0.5)
        config = IvfFlat(distance_type="dot", num_partitions=clusters, max_iterations=10, sample_rate=64)
        table.create_index("vector", config=config)
