"""Using a hub's catalogue, whatever state the file is in: a damaged one is built again, an unusable one is replaced."""

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from headstart.events import Listener
from headstart.hub.catalogue import CATALOGUE_FILE, Catalogue, DamageError, UnusableError
from headstart.hub.syncing import sync

__all__ = ["Upkeep"]

Answer = TypeVar("Answer")

ATTEMPTS = 4
"""The attempts: as it is; read again, because another process may have rebuilt it; rebuilt; in another place."""


class Upkeep:
    """The catalogue of the hub at `path`, queried and changed through functions that may be called again.

    If the hub's own file cannot be used (a read-only folder, a full disk, a file system without locks, a file of a
    newer Headstart), it stays as it is, and a private catalogue of the user takes its place.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.catalogue = Catalogue(path / CATALOGUE_FILE)
        self._own = False

    def ask(self, query: Callable[[sqlite3.Connection], Answer]) -> Answer:
        """The result of a query. Raises `HubError` if another process never finishes writing."""

        def asked() -> Answer:
            with self.catalogue.reading() as connection:
                return query(connection)

        return self._mended(asked, then_sync=True)

    def change(self, work: Callable[[sqlite3.Connection], Answer]) -> Answer:
        """The result of a transaction; it may be run again after a rollback."""

        def changed() -> Answer:
            with self.catalogue.writing() as connection:
                return work(connection)

        return self._mended(changed, then_sync=True)

    def sync(self, *, everything: bool = False, progress: Listener | None = None) -> None:
        """Bring the catalogue up to date with the folders: those whose stamps changed, or all of them."""
        self._mended(lambda: sync(self.path, self.catalogue, everything=everything, progress=progress), then_sync=False)

    def rebuild(self) -> None:
        """Forget the catalogue."""
        self._mended(lambda: self.catalogue.discard(), then_sync=False)

    def sound(self) -> bool:
        """Whether the file can be trusted to the last page."""
        return self.catalogue.sound()

    def _mended(self, work: Callable[[], Answer], *, then_sync: bool) -> Answer:
        for attempt in range(ATTEMPTS):
            try:
                return work()
            except DamageError:
                if attempt == ATTEMPTS - 1:
                    raise
                if attempt or not self.catalogue.sound():
                    self._discard()
            except UnusableError:
                if self._own:
                    raise
                self._take_own()
            if then_sync:
                self.sync()
        raise AssertionError("the last attempt returns or raises")

    def _discard(self) -> None:
        try:
            self.catalogue.discard()
        except UnusableError:
            self._take_own()

    def _take_own(self) -> None:
        from headstart.hub.own_catalogue import own_catalogue  # this finds the user's cache folder; hardly ever needed

        self.catalogue, self._own = own_catalogue(self.path), True
