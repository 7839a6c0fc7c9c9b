"""The catalogue: an SQLite cache of what the hub's folders hold. Losing it costs one reading of the hub.

It keeps a rollback journal and no write-ahead log: that works on network file systems, where a log's shared memory does
not, and a folder that cannot be written can still be read.
"""

import contextlib
import hashlib
import os
import shutil
import sqlite3
import tempfile
import weakref
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import platformdirs

from headstart.errors import HeadstartError, HubError

__all__ = ["CATALOGUE_FILE", "Catalogue", "DamageError", "UnusableError"]

CATALOGUE_FILE = ".catalogue.sqlite"
WAIT_SECONDS = 120.0
"""How long a writer waits for another one; a batch of modules takes well under a second."""

DAMAGE = {
    sqlite3.SQLITE_CONSTRAINT,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_ERROR,
    sqlite3.SQLITE_FORMAT,
    sqlite3.SQLITE_INTERNAL,
    sqlite3.SQLITE_MISMATCH,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_TOOBIG,
}
WAITING = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


class DamageError(HubError):
    """The file is no catalogue that can be read: cut short, overwritten, or foreign."""


class UnusableError(HubError):
    """The file cannot be used where it lies: read-only, on a full disk, without locks, or of a newer Headstart."""


class Catalogue:
    """The SQLite file of one hub. Each use opens its own connection, so threads and forks need no care."""

    def __init__(self, path: Path | str, *, uri: bool = False) -> None:
        self.path = path
        self.uri = uri

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A connection for queries. Raises `DamageError`, `UnusableError`, or `HubError` when a writer never ends."""
        with self._errors_named(), contextlib.closing(self._connect()) as connection:
            yield connection

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

    def sound(self) -> bool:
        """Whether every page of the file is."""
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
            version, scripts = _version(connection), _migrations()
            if version > len(scripts):
                raise UnusableError(f"{self.path} has schema {version} of a newer Headstart; upgrade Headstart")
            if version < len(scripts):
                _migrate(connection, scripts)
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute("PRAGMA cell_size_check = ON")
        except BaseException:
            connection.close()
            raise
        return connection

    def _writable(self) -> bool:
        """Whether the system lets the file be written, so that it is the file itself that says otherwise."""
        effective = os.access in os.supports_effective_ids
        return all(os.access(path, os.W_OK, effective_ids=effective) for path in (self.path, Path(self.path).parent))

    @contextlib.contextmanager
    def _errors_named(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, UnicodeDecodeError) as error:
            # What Python's own layer finds, such as text or a message that is none, has no code of SQLite's.
            code = (getattr(error, "sqlite_errorcode", None) or sqlite3.SQLITE_CORRUPT) & 0xFF
            kind: type[HubError]
            if code in DAMAGE or (code == sqlite3.SQLITE_READONLY and self._writable()):
                remedy, kind = "delete the file; it is built again from the hub's folders", DamageError
            elif code in WAITING:
                remedy, kind = "another process is writing to the hub; try again when it has finished", HubError
            else:
                remedy, kind = "check that the hub's folder can be written and has space", UnusableError
            raise kind(f"cannot use {self.path} ({error}): {remedy}") from error


def own_catalogue(hub: Path) -> Catalogue:
    """A catalogue for this user alone, for a hub whose own cannot be used: in the user's cache folder, else in memory.

    It begins as a copy of the hub's where that can be read.
    """
    name = hashlib.sha256(str(hub.resolve()).encode(errors="surrogateescape")).hexdigest()[:32]
    folder = platformdirs.user_cache_path("headstart") / "hubs"
    found = Catalogue(folder / f"{name}.sqlite")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / f"{name}.sqlite").exists():
            _copy(hub / CATALOGUE_FILE, folder / f"{name}.sqlite")
        try:
            _try_writing(found)
        except DamageError:
            found.discard()
            _try_writing(found)
    except (OSError, HeadstartError):
        return _in_memory(name)
    return found


def _try_writing(catalogue: Catalogue) -> None:
    with catalogue.writing() as connection:
        connection.execute("DELETE FROM modules WHERE 0")  # a transaction alone may begin in what cannot be written


def _copy(source: Path, target: Path) -> None:
    """Copy the file as it is: if a writer is at work, the copy is damaged, and is built again like any such."""
    with tempfile.TemporaryDirectory(dir=target.parent) as staging, contextlib.suppress(OSError, HubError):
        copied = Path(staging) / target.name
        shutil.copyfile(source, copied)
        if Catalogue(copied).sound():
            copied.replace(target)


def _in_memory(name: str) -> Catalogue:
    """A catalogue that lasts as long as the object."""
    address = f"file:headstart-{name}?mode=memory&cache=shared"
    keeper = sqlite3.connect(address, uri=True, check_same_thread=False)
    found = Catalogue(address, uri=True)
    weakref.finalize(found, keeper.close)
    return found


def _version(connection: sqlite3.Connection) -> int:
    """The schema's number; raises `DamageError` where the file states two."""
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if version >= 3 and (version,) != connection.execute("SELECT version FROM schema").fetchone():
        raise DamageError("the catalogue states two schemas; delete the file, it is built again from the hub's folders")
    return version


def _migrations() -> list[str]:
    folder = resources.files("headstart.hub.migrations")
    files = sorted((item for item in folder.iterdir() if item.name.endswith(".sql")), key=lambda item: item.name)
    return [item.read_text(encoding="utf-8") for item in files]


def _migrate(connection: sqlite3.Connection, scripts: list[str]) -> None:
    # Catalogues of before kept a write-ahead log.
    connection.execute("PRAGMA journal_mode = DELETE")
    connection.execute("BEGIN IMMEDIATE")
    try:
        # Another process may have migrated while this one waited for the lock.
        done = _version(connection)
        for number, script in enumerate(scripts[done:], start=done + 1):
            for statement in script.split(";\n"):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {number}")
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
