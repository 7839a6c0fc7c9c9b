"""The catalogue: an SQLite cache of what the hub's folders hold. If it is lost, the hub has to be read once more.

It uses a rollback journal instead of a write-ahead log: a journal works on network file systems, where the log's shared
memory does not, and it lets a hub in a read-only folder be read.

Every transaction ends by writing a checksum of the whole file into its header. SQLite only notices damage to its own
structure; without the checksum, a flipped bit in an index or a width would give a wrong answer that nobody doubts.
"""

import contextlib
import os
import sqlite3
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from headstart.errors import HubError

__all__ = ["CATALOGUE_FILE", "SCHEMA", "Catalogue", "DamageError", "UnusableError", "migrate"]

CATALOGUE_FILE = ".catalogue.sqlite"
SCHEMA = 6
"""The number of the newest migration."""

MIGRATIONS = "headstart.hub.migrations"

WAIT_SECONDS = 120.0
"""How many seconds a writer waits for another one; a batch of modules takes well under a second."""

DAMAGE = {
    sqlite3.SQLITE_CONSTRAINT,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_FORMAT,
    sqlite3.SQLITE_INTERNAL,
    sqlite3.SQLITE_NOTADB,
}
REFUSED = {sqlite3.SQLITE_ERROR, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_RANGE, sqlite3.SQLITE_TOOBIG}
"""What says that tables are missing or foreign; once the checksum was found right, it is the query that is wrong."""

WAITING = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


class DamageError(HubError):
    """The file is not a readable catalogue: it was cut short or overwritten, or it is something else."""


class UnusableError(HubError):
    """The file cannot be used where it is: it is read-only, on a full disk, without locks, or of a newer Headstart."""


class Catalogue:
    """The SQLite file of one hub. Each use opens its own connection, so threads and forks need no care."""

    def __init__(self, path: Path | str, *, uri: bool = False) -> None:
        self.path = path
        self.uri = uri
        self._checked: tuple[int, ...] | None = None

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A connection for queries. Raises `DamageError`, `UnusableError`, or `HubError` when a writer never ends."""
        with contextlib.ExitStack() as stack:
            with self._errors_named(checked=False):
                connection = stack.enter_context(contextlib.closing(self._connect()))
                self._check(connection)
            with self._errors_named(checked=True):
                yield connection

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction, one writer at a time: committed if the block succeeds, else rolled back."""
        with self.reading() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                checksum = _write_checksum(connection)
                connection.execute("COMMIT")
                self._checked = self._mark(checksum)
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")

    def sound(self) -> bool:
        """Whether every page of the file is sound."""
        self._checked = None
        try:
            with self.reading() as connection:
                return bool(connection.execute("PRAGMA integrity_check(1)").fetchone() == ("ok",))
        except DamageError:
            return False

    def discard(self) -> None:
        """Delete the file, to be built again from the folders."""
        try:
            for suffix in ("", "-journal", "-wal", "-shm"):
                Path(f"{self.path}{suffix}").unlink(missing_ok=True)
        except OSError as error:
            raise UnusableError(f"cannot delete {self.path}: {error.strerror}; delete it by hand") from error

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=WAIT_SECONDS, isolation_level=None, uri=self.uri)
        try:
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute("PRAGMA cell_size_check = ON")
            # Otherwise freed pages differ between memory, where the checksum is computed, and the disk.
            connection.execute("PRAGMA secure_delete = ON")
            version = _version(connection)
            if version > SCHEMA:
                raise UnusableError(f"{self.path} has schema {version} of a newer Headstart; upgrade Headstart")
            if version < SCHEMA:
                connection.execute("PRAGMA journal_mode = DELETE")  # older catalogues used a write-ahead log
                migrate(connection, MIGRATIONS, finish=lambda: _write_checksum(connection))
        except BaseException:
            connection.close()
            raise
        return connection

    def _check(self, connection: sqlite3.Connection) -> None:
        """Raise `DamageError` unless the file is as it was written; a file that was checked before is trusted."""
        if self.uri:
            return
        connection.execute("BEGIN")
        stated = _stated_checksum(connection)
        mark = self._mark(stated)
        if mark is None or mark != self._checked:
            if _checksum(connection) != stated:
                raise DamageError(f"{self.path} is not as it was written; delete it, it is built again from the hub")
            self._checked = mark
        connection.execute("COMMIT")

    def _mark(self, checksum: int) -> tuple[int, ...] | None:
        """A value that changes with every change of the file; `None` if there is no file."""
        try:
            status = Path(self.path).stat()
        except OSError:
            return None
        return (status.st_mtime_ns, status.st_size, status.st_ino, checksum)

    def _writable(self) -> bool:
        """Whether the system allows the file to be written; if so, the file's own content caused the error."""
        effective = os.access in os.supports_effective_ids
        return all(os.access(path, os.W_OK, effective_ids=effective) for path in (self.path, Path(self.path).parent))

    @contextlib.contextmanager
    def _errors_named(self, *, checked: bool) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, UnicodeDecodeError) as error:
            # Errors that Python's own layer raises, such as for text that is not UTF-8, have no SQLite code.
            code = (getattr(error, "sqlite_errorcode", None) or sqlite3.SQLITE_CORRUPT) & 0xFF
            kind: type[HubError]
            if checked and code in REFUSED:
                remedy, kind = "the hub cannot be asked this; ask for less", HubError
            elif code in DAMAGE | REFUSED or (code == sqlite3.SQLITE_READONLY and self._writable()):
                remedy, kind = "delete the file; it is built again from the hub's folders", DamageError
            elif code in WAITING:
                remedy, kind = "another process is writing to the hub; try again when it has finished", HubError
            else:
                remedy, kind = "check that the hub's folder can be written and has space", UnusableError
            raise kind(f"cannot use {self.path} ({error}): {remedy}") from error


def _version(connection: sqlite3.Connection) -> int:
    """The schema's number; raises `DamageError` if the file states two."""
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if version >= 3 and (version,) != connection.execute("SELECT version FROM schema").fetchone():
        raise DamageError("the catalogue states two schemas; delete the file, it is built again from the hub's folders")
    return version


def migrate(connection: sqlite3.Connection, folder: str, *, finish: Callable[[], object] = lambda: None) -> None:
    """Bring a file's tables up to date with the numbered scripts of a package; `finish` is called before the end.

    The file states the number of the newest one that it has been through as its user version.
    """
    from importlib import resources  # imports much that an up-to-date catalogue does not need

    items = resources.files(folder).iterdir()
    scripts = sorted((item for item in items if item.name.endswith(".sql")), key=lambda item: item.name)
    if _version(connection) >= len(scripts):
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        # Another process may have migrated while this one waited for the lock.
        done = _version(connection)
        for number, script in enumerate(scripts[done:], start=done + 1):
            for statement in script.read_text(encoding="utf-8").split(";\n"):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {number}")
        finish()
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _stated_checksum(connection: sqlite3.Connection) -> int:
    # The header has a number that the application may choose, written within a transaction like the rest.
    return int(connection.execute("PRAGMA application_id").fetchone()[0]) & 0xFFFFFFFF


def _checksum(connection: sqlite3.Connection) -> int:
    """The checksum of the file as the transaction sees it, without its own bytes and SQLite's change counters."""
    content = memoryview(connection.serialize())
    kept = (content[:24], content[28:68], content[72:92], content[100:])
    found = 0
    for part in kept:
        found = zlib.crc32(part, found)
    return found


def _write_checksum(connection: sqlite3.Connection) -> int:
    found = _checksum(connection)
    if found != _stated_checksum(connection):
        connection.execute(f"PRAGMA application_id = {found - (found >> 31 << 32)}")
    return found
