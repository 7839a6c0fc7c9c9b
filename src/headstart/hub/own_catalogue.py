"""A private catalogue of the user, for a hub whose own catalogue cannot be used."""

import contextlib
import hashlib
import shutil
import sqlite3
import tempfile
import weakref
from pathlib import Path

import platformdirs

from headstart.errors import HeadstartError, HubError
from headstart.hub.catalogue import CATALOGUE_FILE, Catalogue, DamageError

__all__ = ["own_catalogue"]


def own_catalogue(hub: Path) -> Catalogue:
    """A catalogue for this user only, for a hub whose own cannot be used: in the user's cache folder, else in memory.

    It begins as a copy of the hub's catalogue if that can be read.
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
        connection.execute("DELETE FROM modules WHERE 0")  # a bare BEGIN can succeed in a read-only file


def _copy(source: Path, target: Path) -> None:
    """Copy the file as it is; if someone is writing it, the copy is damaged and is built again like any damaged one."""
    with tempfile.TemporaryDirectory(dir=target.parent) as staging, contextlib.suppress(OSError, HubError):
        copied = Path(staging) / target.name
        shutil.copyfile(source, copied)
        if Catalogue(copied).sound():
            copied.replace(target)


def _in_memory(name: str) -> Catalogue:
    """A catalogue that exists as long as the object."""
    address = f"file:headstart-{name}?mode=memory&cache=shared"
    keeper = sqlite3.connect(address, uri=True, check_same_thread=False)
    found = Catalogue(address, uri=True)
    weakref.finalize(found, keeper.close)
    return found
