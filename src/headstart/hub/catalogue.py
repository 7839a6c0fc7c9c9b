"""The catalogue: an SQLite cache of what the hub's folders hold. Losing it costs one reading of the hub."""

import contextlib
import sqlite3
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

from headstart.errors import HubError

__all__ = ["CATALOGUE_FILE", "Catalogue"]

CATALOGUE_FILE = ".catalogue.sqlite"
WAIT_SECONDS = 120.0
"""How long a writer waits for another one; adding one module takes well under a second."""

DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR}


class Catalogue:
    """The SQLite file of one hub. Each use opens its own connection, so threads and forks need no care."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A connection for queries; readers never wait for a writer. Raises `HubError`."""
        with self._errors_named():
            connection = self._connect()
            try:
                yield connection
            finally:
                connection.close()

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction of the one writer at a time: committed when the block ends well, else rolled back."""
        with self.reading() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")

    def damaged(self) -> bool:
        """Whether the file exists but is no catalogue that can be read: cut short, overwritten, or foreign."""
        if not self.path.exists():
            return False
        try:
            with contextlib.closing(self._connect()) as connection:
                connection.execute("SELECT name, stamp, reason FROM modules").fetchall()
                connection.execute("SELECT layer FROM layers").fetchall()
        except sqlite3.DatabaseError as error:
            return error.sqlite_errorcode & 0xFF in DAMAGE
        return False

    def discard(self) -> None:
        """Delete the file, to be built again from the folders."""
        try:
            for suffix in ("", "-wal", "-shm"):
                self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
        except OSError as error:
            raise HubError(f"cannot delete {self.path}: {error.strerror}; delete it by hand") from error

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=WAIT_SECONDS, isolation_level=None)
        try:
            version = _version(connection)
            migrations = _migrations()
            if version > len(migrations):
                raise HubError(
                    f"{self.path} has schema {version} of a newer Headstart, this one knows {len(migrations)}; "
                    "upgrade Headstart, or delete the file to have it built again"
                )
            if version < len(migrations):
                _migrate(connection, migrations)
            connection.execute("PRAGMA synchronous = NORMAL")
        except BaseException:
            connection.close()
            raise
        return connection

    @contextlib.contextmanager
    def _errors_named(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
            if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                remedy = "another process is writing to the hub; try again when it has finished"
            elif code in DAMAGE:
                remedy = "delete the file; it is built again from the hub's folders"
            else:
                remedy = "check that the hub's folder can be written and has space"
            raise HubError(f"cannot use {self.path} ({error}): {remedy}") from error


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _migrations() -> list[str]:
    folder = resources.files("headstart.hub.migrations")
    files = sorted((item for item in folder.iterdir() if item.name.endswith(".sql")), key=lambda item: item.name)
    return [item.read_text(encoding="utf-8") for item in files]


def _migrate(connection: sqlite3.Connection, migrations: list[str]) -> None:
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("BEGIN IMMEDIATE")
    try:
        # Another process may have migrated while this one waited for the lock.
        for number, script in enumerate(migrations[_version(connection) :], start=_version(connection) + 1):
            for statement in script.split(";\n"):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {number}")
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
