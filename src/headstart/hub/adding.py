"""Adding modules to a hub: many are read and copied in parallel, then entered in one short transaction."""

import contextlib
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple, cast

from headstart.atomic import hidden_folder, sweep, sync_folder, sync_trees
from headstart.errors import HeadstartError, HubError, ModuleError, OutputError, of_type
from headstart.events import Listener, Progress
from headstart.formats import StoredModule, module_name
from headstart.hub.admission import Admission, Stated, stated_card
from headstart.hub.catalogue import DamageError, UnusableError
from headstart.hub.folder import modules_in, stamp
from headstart.hub.names import ANOTHER, check_name
from headstart.hub.reading import WORKERS, copy_unchanged, entry_of, read_stamped, write_card
from headstart.hub.ref import Entry, changed
from headstart.hub.reference import is_reference, parse_reference
from headstart.hub.rows import known_row, record, refuse_conflict, refuse_twin
from headstart.hub.upkeep import Upkeep
from headstart.records import ModuleCard
from headstart.showing import plural

__all__ = ["Check", "Intake", "Staged", "admit", "name_of"]

BATCH = 128
"""How many modules are flushed to the disk and entered together."""

Check = Callable[[StoredModule], None]


@dataclass(frozen=True)
class Staged:
    """A module that was read and copied to a hidden folder of the hub; `None` if it is in the hub already."""

    entry: Entry
    staging: Path | None


def name_of(source: Path | str) -> str:
    """The default name of a module in a hub; raises `HubError` if it cannot be a name."""
    if not isinstance(source, str | Path):
        raise HubError(
            f"{of_type('source', source)}; give the folder of a module (save_module writes one), or hf://owner/name"
        )
    name = parse_reference(source).name if is_reference(source) else module_name(Path(source))
    check_name(name)
    return name


class Entered(NamedTuple):
    """The card of a module in the hub, and whether it was not there before."""

    card: ModuleCard
    new: bool


class Intake:
    """Adds modules to the hub at `path`.

    `check` raises `ModuleError` for a module that does not fit; `report` is called after each module that was read;
    `stated` goes onto every card.
    """

    def __init__(
        self,
        path: Path,
        upkeep: Upkeep,
        *,
        check: Check | None = None,
        report: Callable[[], None] | None = None,
        stated: Stated | None = None,
    ) -> None:
        self.path = path
        self._upkeep = upkeep
        self._check = check
        self._report = report or (lambda: None)
        self._stated = {field: value for field, value in (stated or {}).items() if value is not None}
        self._checking = threading.Lock()

    def results(self, sources: Sequence[tuple[Path | str, str]]) -> Iterator[Entered | HeadstartError]:
        """For each (folder or reference, name), in order: its card in the hub, or why it was refused."""
        for batch in _batches(sources):
            yield from self._admitted(self._staged(batch))

    def _staged(self, batch: Sequence[tuple[Path | str, str]]) -> list[Staged | HeadstartError]:
        with ThreadPoolExecutor(max_workers=WORKERS) as pool:
            futures: list[Future[Staged]] = []
            try:
                futures = [pool.submit(self._stage, source, name) for source, name in batch]
                return [self._outcome(future) for future in futures]
            except BaseException:
                for future in futures:
                    future.cancel()
                pool.shutdown()
                for future in futures:
                    if not future.cancelled() and future.exception() is None:
                        _discard([future.result()])
                raise

    def _outcome(self, future: "Future[Staged]") -> Staged | HeadstartError:
        try:
            return future.result()
        except HeadstartError as error:
            return error
        finally:
            self._report()

    def _stage(self, source: Path | str, name: str) -> Staged:
        check_name(name)
        if not is_reference(source):
            inside = modules_in(Path(source))
            if inside != [Path(source)]:
                held = plural(len(inside), "module")
                raise ModuleError(f"{source} is no module, but holds {held}; add them with add_all")
            return self._stage_folder(Path(source), name)
        self._upkeep.ask(lambda c: self._refuse_taken(c, name))  # rather than after the download
        # This imports the network library, which a hub of local folders does not need.
        from headstart.hub.remote import fetch

        with _disk_errors_named(self.path), _removed_at_end(hidden_folder(self.path / "fetched")) as staging:
            folder = staging / name
            try:
                fetch(source, folder)
                return self._stage_folder(folder, name)
            except ModuleError as error:
                # The temporary folder will be gone when the message is read.
                raise ModuleError(str(error).replace(str(folder), source)) from error

    def _stage_folder(self, folder: Path, name: str) -> Staged:
        module, read_at = read_stamped(folder)
        if self._check is not None:
            with self._checking:
                self._check(module)
        given = cast("Stated", self._stated)
        entry = entry_of(replace(module, card=stated_card(module.card, name, given)), name)
        if (self.path / name).exists() and (there := self._upkeep.ask(lambda c: _same(c, entry))) is not None:
            if self._stated and stated_card(there, name, given) != there:
                raise HubError(f"{self.path / name} is this very module; change its card with headstart hub edit")
            return Staged(entry, None)
        with _disk_errors_named(self.path / name):
            staging = hidden_folder(self.path / name)
            try:
                copy_unchanged(module, read_at, staging)
                if self._stated:
                    write_card(staging, entry.card, module.config, former=module.folder.name)
            except BaseException:
                shutil.rmtree(staging, ignore_errors=True)
                raise
        return Staged(entry, staging)

    def _admitted(self, batch: Sequence[Staged | HeadstartError]) -> list[Entered | HeadstartError]:
        """Enter what was staged; folders are flushed to the disk before they get their names and their rows."""
        staged = [one for one in batch if isinstance(one, Staged)]
        try:
            with _disk_errors_named(self.path):
                sync_trees([one.staging for one in staged if one.staging is not None])
            return self._upkeep.change(lambda connection: self._entered(connection, batch))
        except HeadstartError as error:
            return [error if isinstance(one, Staged) else one for one in batch]
        finally:
            _discard(staged)

    def _entered(
        self, connection: sqlite3.Connection, batch: Sequence[Staged | HeadstartError]
    ) -> list[Entered | HeadstartError]:
        results = [self._enter(connection, one) if isinstance(one, Staged) else one for one in batch]
        with _disk_errors_named(self.path):
            sync_folder(self.path)
        return results

    def _enter(self, connection: sqlite3.Connection, staged: Staged) -> Entered | HeadstartError:
        entry, name = staged.entry, staged.entry.card.name
        try:
            there = _same(connection, entry)
            if there is not None:
                return Entered(there, new=False)
            self._refuse_taken(connection, name)
            refuse_twin(connection, name)
            refuse_conflict(connection, entry)
            if staged.staging is None:
                raise HubError(f"module '{name}' was removed from {self.path} meanwhile; add it again")
            with _disk_errors_named(self.path / name):
                staged.staging.rename(self.path / name)
        except (DamageError, UnusableError):
            raise
        except HeadstartError as error:
            return error
        record(connection, entry, stamp(self.path / name))
        return Entered(entry.card, new=True)

    def _refuse_taken(self, connection: sqlite3.Connection, name: str) -> None:
        target = self.path / name
        if known_row(connection, name) or target.exists() or target.is_symlink():
            raise HubError(f"the hub {self.path} already has a module '{name}'; {ANOTHER}, or remove that one")


def admit(
    path: Path,
    upkeep: Upkeep,
    sources: Iterable[Path | str],
    *,
    name: str | None,
    check: Check | None,
    stated: Stated,
    progress: Listener | None,
) -> list[Admission]:
    """What became of every module in `sources`; see `Hub.add_all`."""
    given = [sources] if isinstance(sources, str | Path) or not isinstance(sources, Iterable) else sources
    offered: list[Path | str] = []
    for source in given:
        folder = isinstance(source, str | Path) and not is_reference(source)
        offered += modules_in(Path(source)) if folder else [source]
    if name is not None and len(offered) != 1:
        raise HubError(f"the name '{name}' is for one module, and {len(offered)} are given; add that one alone")
    found: dict[int, Admission] = {}
    named: dict[int, str] = {}
    for index, source in enumerate(offered):
        try:
            named[index] = name_of(source) if name is None else name
        except HeadstartError as error:
            found[index] = Admission(source, str(source), None, str(error))
    report = None if progress is None else _counted(progress, len(found), len(offered))
    sweep(path)
    intake = Intake(path, upkeep, check=check, report=report, stated=stated)
    taken = intake.results([(offered[index], own) for index, own in named.items()])
    for (index, own), result in zip(named.items(), taken, strict=True):
        source = offered[index]
        if isinstance(result, HeadstartError):
            found[index] = Admission(source, own, None, str(result))
        else:
            found[index] = Admission(source, own, result.card, None, new=result.new)
    return [found[index] for index in range(len(offered))]


def _counted(progress: Listener, done: int, total: int) -> Callable[[], None]:
    counter = iter(range(done + 1, total + 1))
    return lambda: progress(Progress("adding modules", next(counter), total))


def _same(connection: sqlite3.Connection, entry: Entry) -> ModuleCard | None:
    """The card of this very module if it is in the hub under this name."""
    known = known_row(connection, entry.card.name)
    card = None if known is None or known.reason else known.card
    return card if card is not None and not changed(card, entry.card) else None


def _batches(sources: Iterable[tuple[Path | str, str]]) -> Iterator[list[tuple[Path | str, str]]]:
    rest = iter(sources)
    while batch := list(islice(rest, BATCH)):
        yield batch


def _discard(staged: Iterable[Staged]) -> None:
    for one in staged:
        if one.staging is not None:
            shutil.rmtree(one.staging, ignore_errors=True)


@contextlib.contextmanager
def _removed_at_end(folder: Path) -> Iterator[Path]:
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _disk_errors_named(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"cannot write {path}: {error.strerror or error}; free some space or choose another place"
        ) from error
