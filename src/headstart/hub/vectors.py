"""The embeddings of a hub's modules, in a file beside its catalogue: found by method and by what a module computes.

They are in no table of the catalogue's own file, because that file is read whole whenever a hub is opened, and vectors
are many times larger than all else that a hub knows. Like the catalogue it is a cache: where it is damaged, or cannot
be written, vectors are computed again.
"""

from __future__ import annotations

import contextlib
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from headstart.hub.catalogue import migrate
from headstart.vectors import Vector

__all__ = ["VECTORS_FILE", "VectorFile"]

VECTORS_FILE = ".vectors.sqlite"
MIGRATIONS = "headstart.hub.migrations.vectors"
COLUMNS = ("digest", "kind", "backbone", "layers", "dimension", "checksum", "numbers")
STORED = np.dtype("<f4")


class VectorFile:
    """The vectors of the hub at `path`, as float32."""

    def __init__(self, path: Path) -> None:
        self.path = path / VECTORS_FILE

    def read(self, method: str, *, version: int) -> dict[str, Vector]:
        """The vectors of one method by the digests of their modules; empty if there is no file that can be read.

        A row that is not as it was written is left out.
        """
        if not self.path.exists():
            return {}
        query = f"SELECT {', '.join(COLUMNS)} FROM vectors WHERE method = ? AND version = ?"
        try:
            with self._opened() as connection:
                rows = connection.execute(query, (method, version)).fetchall()
        except sqlite3.Error:
            return {}
        found = {}
        for digest, kind, backbone, layers, dimension, checksum, numbers in rows:
            if zlib.crc32(numbers) == checksum and len(numbers) == dimension * STORED.itemsize:
                values = np.frombuffer(numbers, STORED)
                found[digest] = Vector(method, kind, backbone, layers, digest, values)
        return found

    def write(self, vectors: Iterable[Vector], *, version: int, keep: Iterable[str]) -> bool:
        """Enter vectors of one version of their method; rows of modules outside `keep` (digests) are dropped.

        Returns whether they were written; a file that is damaged is begun anew, and one that cannot be written stays.
        """
        rows = [_row(vector, version) for vector in vectors]
        for attempt in range(2):
            try:
                with self._opened() as connection:
                    self._enter(connection, rows, list(keep))
                return True
            except sqlite3.DatabaseError as error:
                if attempt or isinstance(error, sqlite3.OperationalError):
                    return False
                with contextlib.suppress(OSError):
                    self.path.unlink()
        return False

    def _enter(self, connection: sqlite3.Connection, rows: list[Mapping[str, object]], keep: list[str]) -> None:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("CREATE TEMP TABLE present (digest TEXT PRIMARY KEY)")
        connection.executemany("INSERT OR IGNORE INTO present VALUES (?)", [(digest,) for digest in keep])
        connection.execute("DELETE FROM vectors WHERE digest NOT IN (SELECT digest FROM present)")
        for row in rows:
            names = ", ".join(row)
            marks = ", ".join("?" * len(row))
            connection.execute(f"INSERT OR REPLACE INTO vectors ({names}) VALUES ({marks})", tuple(row.values()))
        connection.execute("COMMIT")

    @contextlib.contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        with contextlib.closing(sqlite3.connect(self.path, timeout=30, isolation_level=None)) as connection:
            migrate(connection, MIGRATIONS)
            yield connection


def _row(vector: Vector, version: int) -> Mapping[str, object]:
    numbers = np.asarray(vector.values, STORED).tobytes()
    return {
        "method": vector.method, "digest": vector.digest, "version": version, "kind": vector.kind,
        "backbone": vector.backbone, "layers": vector.layers, "dimension": vector.dimension,
        "checksum": zlib.crc32(numbers), "numbers": numbers,
    }  # fmt: skip
