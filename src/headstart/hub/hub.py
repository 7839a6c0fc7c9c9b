"""A hub: a folder of modules for one backbone. The folders are the truth, the catalogue a cache of it."""

import copy
import difflib
import os
import shutil
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from headstart.atomic import staged_folder
from headstart.errors import HeadstartError, HubError, ModuleError, OutputError
from headstart.formats import CONFIG_FILE, StoredModule, module_name, read_module
from headstart.hub.catalogue import CATALOGUE_FILE, Catalogue
from headstart.hub.folder import check_name, copy_module, is_hub, stamp, stamps, sweep, take_out
from headstart.hub.ref import Entry, ModuleRef, changed, entry_of
from headstart.hub.reference import is_reference, parse_reference
from headstart.hub.rows import (
    Known,
    forget,
    known_row,
    known_rows,
    known_stamps,
    record,
    refuse_conflict,
    settle,
    stated_backbone,
)
from headstart.records import Fingerprint, ModuleCard

__all__ = ["Admission", "Hub", "Problem"]

Progress = Callable[[int, int], None]
"""Called with (done, total)."""

GONE = ""
"""Stamp of a folder that is not there."""


@dataclass(frozen=True)
class Admission:
    """What became of one folder or reference that was offered to a hub: its card, or the reason for refusing it."""

    path: Path | str
    name: str
    card: ModuleCard | None
    reason: str | None


@dataclass(frozen=True)
class Problem:
    """A folder of the hub that cannot be used, and why."""

    name: str
    reason: str


class Hub:
    """Modules by name, in alphabetical order. Use `Hub.open` or `Hub.create`; the constructor only stores.

    `names`, `cards` and iteration answer from the catalogue and open no module. Folders that cannot be used are in
    `problems` instead.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._catalogue = Catalogue(self.path / CATALOGUE_FILE)
        self._kind: str | None = None

    @classmethod
    def open(cls, path: Path | str, *, progress: Progress | None = None) -> Self:
        """The hub at `path`, its catalogue brought in step with the folders (only what changed is read).

        A catalogue that is missing or damaged is built again. Raises `HubError` when `path` is no hub.
        """
        hub = cls(path)
        if not hub.path.is_dir():
            raise HubError(f"there is no hub at {path}; make one with `headstart hub add`")
        if (hub.path / CONFIG_FILE).exists():
            raise HubError(f"{path} is a module, not a hub; name the folder that holds it")
        if not (hub.path / CATALOGUE_FILE).exists() and not is_hub(hub.path):
            raise HubError(f"{path} is not a hub: no folder in it is a module; make one with `headstart hub add`")
        if hub._catalogue.damaged():
            hub._catalogue.discard()
        hub._sync(progress=progress)
        return hub

    @classmethod
    def create(cls, path: Path | str) -> Self:
        """The hub at `path`, made when nothing is there yet. Raises `HubError` when it cannot be made."""
        try:
            Path(path).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise HubError(f"cannot make a hub at {path}: {error.strerror}; choose another place") from error
        return cls.open(path)

    def __len__(self) -> int:
        return len(self.names())

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def of_kind(self, kind: str) -> "Hub":
        """The same hub seen without the modules of other kinds ("lora").

        Raises `HubError` when it has none, with the kinds that it has.
        """
        view = copy.copy(self)
        view._kind = kind
        if not view.names():
            kinds = Counter(card.kind for card in self.cards())
            there = ", ".join(f"{count} {name}" for name, count in kinds.most_common()) or "none"
            raise HubError(f"the hub {self.path} has no module of kind '{kind}' (it has: {there}); choose one of these")
        return view

    def names(self) -> list[str]:
        """Names of the usable modules."""
        if self._kind is not None:
            return [card.name for card in self.cards()]
        with self._catalogue.reading() as connection:
            rows = connection.execute("SELECT name FROM modules WHERE reason IS NULL ORDER BY name").fetchall()
        return [name for (name,) in rows]

    def cards(self) -> list[ModuleCard]:
        """Cards of the usable modules."""
        cards = [known.card for known in self._known().values() if known.card is not None and known.reason is None]
        return [card for card in cards if self._kind in (None, card.kind)]

    def problems(self) -> list[Problem]:
        """Folders that could not be used when they were last read."""
        return [Problem(name, known.reason) for name, known in self._known().items() if known.reason is not None]

    def card(self, name: str) -> ModuleCard:
        """The card of module `name`. Raises `HubError` when the hub has none or cannot use it."""
        with self._catalogue.reading() as connection:
            known = known_row(connection, name)
            names = [] if known else list(known_stamps(connection))
        if known is None:
            close = difflib.get_close_matches(name, names, n=3)
            hint = f"did you mean: {', '.join(close)}?" if close else "see `headstart hub list`"
            raise HubError(f"the hub {self.path} has no module '{name}'; {hint}")
        if known.reason is not None or known.card is None:
            raise HubError(f"module '{name}' of the hub {self.path} cannot be used: {known.reason}")
        return known.card

    def ref(self, name: str) -> ModuleRef:
        """Module `name` without its tensors. Raises `HubError` when the hub has none or cannot use it."""
        self.card(name)
        with self._catalogue.reading() as connection:
            known = known_row(connection, name)
        assert known is not None
        return self._ref(known)

    def refs(self) -> list[ModuleRef]:
        """The usable modules without their tensors, which are read when they are needed."""
        return [
            self._ref(known)
            for known in self._known().values()
            if known.card is not None and known.reason is None and self._kind in (None, known.card.kind)
        ]

    def _ref(self, known: Known) -> ModuleRef:
        assert known.card is not None
        return ModuleRef(known.card, self.path / known.card.name, known.digest or "", known.shape or "")

    def folder(self, name: str) -> Path:
        """The folder of module `name`. Raises `HubError` when the hub has none or cannot use it."""
        return self.path / self.card(name).name

    def read(self, name: str) -> StoredModule:
        """Read and validate module `name`.

        Raises `HubError` when the hub has none, `ModuleError` when it is broken or not what was catalogued.
        """
        return self.ref(name).read()

    def backbone(self) -> Fingerprint | None:
        """The one backbone that the modules state, or `None` when none states any."""
        with self._catalogue.reading() as connection:
            stated = stated_backbone(connection)
        return None if stated is None else stated[1]

    def add(
        self, source: Path | str, *, name: str | None = None, check: Callable[[StoredModule], None] | None = None
    ) -> ModuleCard:
        """Validate a module and copy it into the hub; the very module that is there under this name stays as it is.

        Args:
            source: a PEFT folder, which stays as it is, or a remote module, "hf://owner/name[@revision]", whose commit
                will stand on the card as its `origin`.
            name: what the hub calls it; by default the folder's name, or the last part of the remote one.
            check: raises `ModuleError` when the module does not fit, for instance a backbone at hand.

        Raises:
            HubError: the name is taken or impossible, or the remote module cannot be fetched.
            ModuleError: the module is broken, unsupported, in the hub already or made for another backbone.
            OutputError: the hub cannot be written.
        """
        name = _name_of(source) if name is None else name
        check_name(name)
        if not is_reference(source):
            return self._add(Path(source), name=name, check=check)
        with self._catalogue.reading() as connection:
            self._refuse_taken(connection, name)  # rather than after the download
        return self._add_remote(source, name=name, check=check)

    def _add_remote(self, reference: str, *, name: str, check: Callable[[StoredModule], None] | None) -> ModuleCard:
        # Brings the network library, which a hub of local folders does without.
        from headstart.hub.remote import fetch

        try:
            with tempfile.TemporaryDirectory(prefix=".fetched.", suffix=".staging", dir=self.path) as staging:
                folder = Path(staging) / name
                try:
                    fetch(reference, folder)
                    return self._add(folder, name=name, check=check)
                except ModuleError as error:
                    # The folder will be gone when the message is read.
                    raise ModuleError(str(error).replace(str(folder), reference)) from error
        except OSError as error:
            raise OutputError(f"cannot write {self.path}: {error.strerror or error}; free some space") from error

    def _add(self, folder: Path, *, name: str, check: Callable[[StoredModule], None] | None) -> ModuleCard:
        module = read_module(folder)
        if check is not None:
            check(module)
        entry, target = entry_of(module, name), self.path / name
        with self._catalogue.writing() as connection:
            known = known_row(connection, name)
            if known and known.card and not known.reason and not changed(known.card, entry.card):
                return known.card
            self._refuse_taken(connection, name)
            refuse_conflict(connection, entry)
            with staged_folder(target) as staging:
                copy_module(folder, staging)
                copied = read_module(staging, check_values=False)
                if copied.config != module.config or copied.card.tensor_hash != module.card.tensor_hash:
                    raise ModuleError(f"{folder} changed while it was copied; add it again when it is complete")
            record(connection, entry, stamp(target))
        return entry.card

    def add_all(
        self,
        sources: Iterable[Path | str],
        *,
        check: Callable[[StoredModule], None] | None = None,
        progress: Progress | None = None,
    ) -> list[Admission]:
        """Add every folder or remote module, as `add` does; one that is refused does not stop the rest.

        One `Admission` each, in the given order.
        """
        sources = [source if is_reference(source) else Path(source) for source in sources]
        admissions = []
        for done, source in enumerate(sources, start=1):
            name, card, reason = str(source), None, None
            try:
                name = _name_of(source)
                card = self.add(source, name=name, check=check)
            except HeadstartError as error:
                reason = str(error)
            admissions.append(Admission(source, name, card, reason))
            if progress is not None:
                progress(done, len(sources))
        return admissions

    def remove(self, name: str) -> None:
        """Delete module `name`, usable or not. Raises `HubError` when the hub has none or it cannot be deleted."""
        hidden = None
        with self._catalogue.writing() as connection:
            if known_row(connection, name) is None:
                self.card(name)  # raises, with the names that are close
            forget(connection, name)
            path = self.path / name
            try:
                if path.is_symlink():
                    path.unlink()
                elif path.exists():
                    hidden = take_out(self.path, name)
            except OSError as error:
                raise HubError(f"cannot delete {path}: {error.strerror}; check its permissions") from error
        if hidden is not None:
            shutil.rmtree(hidden, ignore_errors=True)

    def check(self, progress: Progress | None = None) -> list[Problem]:
        """Read every module again and compare it with the catalogue; return what cannot be used, and why.

        Found are broken files, tensors or configurations that changed since they were added, missing folders, and
        folders that are no modules. A folder that became sound again, or was put into the hub by hand, is taken in.
        """
        self._sync(everything=True, progress=progress)
        return self.problems()

    def rebuild(self, progress: Progress | None = None) -> list[Problem]:
        """Forget the catalogue and take the folders as they are now; return those that cannot be used, and why."""
        with self._catalogue.writing() as connection:
            connection.execute("DELETE FROM modules")
            connection.execute("DELETE FROM layers")
        return self.check(progress)

    def _refuse_taken(self, connection: sqlite3.Connection, name: str) -> None:
        target = self.path / name
        if known_row(connection, name) or target.exists() or target.is_symlink():
            raise HubError(f"the hub {self.path} already has a module '{name}'; choose another name or remove it")

    def _known(self) -> dict[str, Known]:
        with self._catalogue.reading() as connection:
            return known_rows(connection)

    def _sync(self, *, everything: bool = False, progress: Progress | None = None) -> None:
        """Bring the catalogue in step with the folders whose stamps changed, or with all of them."""
        before = stamps(self.path)
        with self._catalogue.reading() as connection:
            stale = _stale(before, known_stamps(connection), everything=everything)
        if not stale:
            return
        readings = self._read_all([name for name in stale if name in before], progress)
        with self._catalogue.writing() as connection:
            if everything:
                sweep(self.path)
            # Another process may have written meanwhile: only what is stale now counts.
            now = stamps(self.path)
            for name in _stale(now, known_stamps(connection), everything=everything):
                mark = now.get(name, GONE)
                reading = readings.get(name) if mark == before.get(name) else None
                if reading is None and mark != GONE:
                    reading = self._reading(name)
                settle(connection, name, stamp=mark, reading=reading)

    def _read_all(self, names: list[str], progress: Progress | None) -> dict[str, Entry | str]:
        """Each module's entry, or why it has none. Hashing and file access run beside one another in threads."""
        readings: dict[str, Entry | str] = {}
        with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
            for name, reading in zip(names, pool.map(self._reading, names), strict=True):
                readings[name] = reading
                if progress is not None:
                    progress(len(readings), len(names))
        return readings

    def _reading(self, name: str) -> Entry | str:
        try:
            return entry_of(read_module(self.path / name), name)
        except HeadstartError as error:
            return str(error)


def _name_of(source: Path | str) -> str:
    return parse_reference(source).name if is_reference(source) else module_name(Path(source))


def _stale(now: dict[str, str], known: dict[str, str], *, everything: bool) -> list[str]:
    return [name for name in sorted(now.keys() | known.keys()) if everything or known.get(name) != now.get(name, GONE)]
