"""The store of finished units: STORE/TYPE/K[:2]/KEY/, shared by all runs of a user, in the cache folder by default."""

import contextlib
import hashlib
import itertools
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from headstart.atomic import staged_folder, sync_tree
from headstart.errors import StoreError
from headstart.events import Listener, Note
from headstart.units.entry import RECORD, DamagedError, Entry, read_entry, read_result, write_entry
from headstart.units.lease import FORGOTTEN, HEARTBEAT, Leases, gone, who
from headstart.units.unit import Result, Unit

__all__ = ["VARIABLE", "AnyStore", "Pruned", "Store"]

VARIABLE = "HEADSTART_STORE"
"""The environment variable that names the store's folder."""

DEAR = 1.0
"""Results that took at least this many seconds are flushed to the disk; a shorter one can be computed again."""

KEY = re.compile("[0-9a-f]{64}")
"""What the folder of an entry is called; a store may lie in a folder with other things."""

_numbers = itertools.count()


@dataclass(frozen=True)
class Pruned:
    """The entries that `Store.prune` removed, least recently used first, and the bytes that are left.

    `damaged`: how many more it removed because their records cannot be read; `freed`: the bytes of both.
    """

    removed: tuple[Entry, ...]
    left: int
    damaged: int
    freed: int


@dataclass(frozen=True)
class Store:
    """Finished work by its key, from thousands of small results to saved modules.

    Args:
        folder: where the store is; it is created when something is stored.
        heartbeat: seconds between two signs of life of a run that uses it.
    """

    folder: Path
    heartbeat: float = field(default=HEARTBEAT, compare=False)

    @classmethod
    def default(cls) -> "Store":
        """The user's store: the folder that `HEADSTART_STORE` names, or one in the system's cache folder."""
        if named := os.environ.get(VARIABLE):
            return cls(Path(named).expanduser())
        from platformdirs import user_cache_path

        return cls(user_cache_path("headstart") / "store")

    @classmethod
    @contextlib.contextmanager
    def opened(cls, store: "AnyStore") -> Iterator["Store"]:
        """The store that an argument `store` means: `None` is the user's own, `False` one that is not kept."""
        if store is False:
            with cls.temporary() as kept:
                yield kept
        elif store is None:
            yield cls.default()
        else:
            yield store if isinstance(store, Store) else cls(Path(store))

    @classmethod
    @contextlib.contextmanager
    def temporary(cls) -> Iterator["Store"]:
        """A store that is removed at the end of the `with` block."""
        with tempfile.TemporaryDirectory(prefix="headstart-") as folder:
            yield cls(Path(folder))

    def get(self, unit: Unit, *, listener: Listener | None = None) -> Result | None:
        """The result of `unit`, or `None` if there is none or it is damaged."""
        folder = self._home(unit.type, unit.key)
        try:
            entry = read_entry(folder)
            result = read_result(folder, entry)
        except FileNotFoundError:
            if folder.exists() and listener:
                listener(Note(f"the stored result of {unit.label} is damaged; it is computed again"))
            return None
        except DamagedError as error:
            if listener:
                listener(Note(f"the stored result of {unit.label} is damaged ({error}); it is computed again"))
            return None
        except OSError as error:
            raise _unusable(self.folder, "read", error) from error
        with contextlib.suppress(OSError):  # another user's store may be read-only
            os.utime(folder / RECORD)
        return result

    def put(self, unit: Unit, result: Result, *, seconds: float) -> None:
        """Store the result of `unit`. An existing, undamaged entry stays as it is.

        Raises:
            StoreError: the store cannot be written.
        """
        home = self._home(unit.type, unit.key)
        seconds = seconds if result.seconds is None else result.seconds
        try:
            staging = self._staging()
            try:
                write_entry(staging, unit, result, seconds=seconds)
                if seconds >= DEAR:
                    sync_tree(staging)
                self._move_in(staging, home)
            finally:
                shutil.rmtree(staging, ignore_errors=True)
            shutil.rmtree(self._work(unit), ignore_errors=True)
        except OSError as error:
            raise _unusable(self.folder, "write", error) from error

    def leases(self) -> Leases:
        """The leases of a run, for a `with` block."""
        return Leases(self.folder / "leases", heartbeat=self.heartbeat)

    def work(self, unit: Unit) -> Path:
        """The folder in which `unit` keeps checkpoints until its result is stored."""
        folder = self._work(unit)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unusable(self.folder, "write", error) from error
        return folder

    def entries(self, *, type: str | None = None) -> Iterator[Entry]:  # noqa: A002 - the record's own word
        """Every entry whose record can be read."""
        for record in sorted(self.folder.glob(f"{type or '*'}/??/*/{RECORD}")):
            with contextlib.suppress(OSError, DamagedError):
                yield read_entry(record.parent)

    def find(self, beginning: str) -> Entry:
        """The entry whose key begins with `beginning`. Raises `StoreError` if there is none, or more than one."""
        sound = beginning if beginning.isalnum() else "-"
        pattern = f"*/{sound[:2]}/{sound}*" if len(sound) > 1 else f"*/{sound}?/*"
        found = []
        for folder in sorted(self.folder.glob(f"{pattern}/{RECORD}")):
            with contextlib.suppress(OSError, DamagedError):
                found.append(read_entry(folder.parent))
        if not found:
            raise StoreError(
                f"the store {self.folder} has no entry '{beginning}'; see `headstart store list` for what there is"
            )
        if len(found) > 1:
            raise StoreError(
                f"{len(found)} entries of the store {self.folder} begin with '{beginning}'; give more of the key"
            )
        return found[0]

    def result(self, entry: Entry) -> Result:
        """The result of an entry. Raises `StoreError` if it is damaged or gone."""
        try:
            return read_result(self.home(entry), entry)
        except (DamagedError, OSError) as error:
            raise StoreError(
                f"entry {entry.key[:12]} is damaged: {error}; run the command that made it again"
            ) from error

    def home(self, entry: Entry) -> Path:
        """The folder of an entry."""
        return self._home(entry.type, entry.key)

    def export(self, entry: Entry, output: Path) -> None:
        """Copy an entry's saved module to `output`, or all of its files if it has no module.

        Raises:
            OutputError: `output` exists or cannot be written.
            StoreError: the entry is damaged.
        """
        module = self.result(entry).module
        with staged_folder(output) as staging:
            shutil.copytree(module or self.home(entry), staging, dirs_exist_ok=True)

    def prune(self, *, older_than: float | None = None, keep: int | None = None, dry_run: bool = False) -> Pruned:
        """Remove entries not used for `older_than` seconds, then the least recently used beyond `keep` bytes.

        Those whose records cannot be read serve nobody, and are always removed.
        """
        entries = sorted(self.entries(), key=lambda entry: (entry.used, entry.key))
        left, now = sum(entry.size for entry in entries), time.time()
        removed = []
        for entry in entries:
            old = older_than is not None and now - entry.used > older_than
            if old or (keep is not None and left > keep):
                left -= entry.size
                removed.append(entry)
        damaged = self.damaged(entries)
        freed = sum(entry.size for entry in removed) + sum(_size(folder) for folder in damaged)
        if not dry_run:
            for folder in [*(self.home(entry) for entry in removed), *damaged]:
                self._throw_away(folder)
            self.sweep(older_than=older_than)
        return Pruned(tuple(removed), left, len(damaged), freed)

    def sweep(self, *, older_than: float | None = None) -> None:
        """Remove what killed runs left: leases, pulses, half-written results, working folders of finished units.

        The working folder of an unfinished unit stays, because the next run continues from it, unless it is older than
        `older_than` seconds.
        """
        if not self.folder.is_dir():
            return
        with self.leases() as leases:
            leases.sweep()
            now = time.time()
            for folder in _inside(self.folder / "staging"):
                if _abandoned(folder.name) or now - _touched(folder) > FORGOTTEN:
                    shutil.rmtree(folder, ignore_errors=True)
            for folder in _inside(self.folder / "work"):
                finished = any(self.folder.glob(f"*/{folder.name[:2]}/{folder.name}/{RECORD}"))
                old = older_than is not None and now - _touched(folder) > older_than
                if (finished or old) and (lease := leases.take(folder.name)):
                    shutil.rmtree(folder, ignore_errors=True)
                    leases.release(lease)

    def damaged(self, sound: Iterable[Entry]) -> list[Path]:
        """The folders of entries whose records are missing or not what was written; `sound` are those just read."""
        found, known = [], {self.home(entry) for entry in sound}
        for folder in sorted(self.folder.glob("*/??/*")):
            is_entry = KEY.fullmatch(folder.name) and folder.name.startswith(folder.parent.name) and folder.is_dir()
            if is_entry and folder not in known:
                try:
                    read_entry(folder)
                except (DamagedError, FileNotFoundError):
                    if folder.exists():  # otherwise another process has just removed it
                        found.append(folder)
                except OSError:
                    continue
        return found

    def _home(self, type: str, key: str) -> Path:  # noqa: A002 - the record's own word
        return self.folder / type / key[:2] / key

    def _work(self, unit: Unit) -> Path:
        return self.folder / "work" / unit.key

    def _staging(self) -> Path:
        folder = self.folder / "staging" / f"{_writer()}-{next(_numbers)}-{os.urandom(4).hex()}"
        try:
            folder.mkdir()
        except FileNotFoundError:
            folder.mkdir(parents=True)
        return folder

    def _move_in(self, staging: Path, home: Path) -> None:
        for _ in range(3):
            home.parent.mkdir(parents=True, exist_ok=True)
            try:
                staging.rename(home)
                return
            except OSError:
                if not home.exists():
                    raise
            try:
                read_result(home, read_entry(home))
                return
            except (DamagedError, FileNotFoundError):
                self._throw_away(home)
        raise OSError(None, f"{home} cannot be replaced")

    def _throw_away(self, home: Path) -> None:
        """Remove an entry in one step, so that no other process sees only part of it."""
        with contextlib.suppress(OSError):
            bin_ = self._staging()
            home.rename(bin_ / home.name)
            shutil.rmtree(bin_, ignore_errors=True)


AnyStore = Store | Path | str | Literal[False] | None
"""What functions accept as `store`: a store or its folder, `None` for the user's own, `False` to keep nothing."""


def _unusable(folder: Path, verb: str, error: OSError) -> StoreError:
    return StoreError(
        f"cannot {verb} the store {folder}: {error.strerror or error}; free some space, or choose another folder with "
        f"--store or {VARIABLE}"
    )


def _writer() -> str:
    """This process, as it appears in the name of a folder that it is writing."""
    holder = who()
    return f"{hashlib.sha256(holder['host'].encode()).hexdigest()[:12]}-{holder['pid']}"


def _abandoned(name: str) -> bool:
    """Whether the process that was writing a folder ran on this machine and has ended."""
    host, _, rest = name.partition("-")
    pid = rest.partition("-")[0]
    mine = _writer().partition("-")[0]
    return host == mine and pid.isdigit() and gone(who() | {"pid": int(pid)})


def _size(folder: Path) -> int:
    """Bytes of all files in `folder`."""
    with contextlib.suppress(OSError):
        return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return 0


def _inside(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def _touched(folder: Path) -> float:
    """When anything directly in `folder` was last written, in seconds since 1970."""
    with contextlib.suppress(OSError):
        return max(path.stat().st_mtime for path in (folder, *folder.iterdir()))
    return time.time()
