"""Bringing a catalogue up to date with the folders: changes are read before the lock is taken, then written."""

from collections.abc import Mapping
from pathlib import Path

from headstart.events import Listener
from headstart.hub.catalogue import Catalogue
from headstart.hub.folder import stamps
from headstart.hub.ref import Entry
from headstart.hub.removing import leaving
from headstart.hub.rows import GONE, forget, forget_renamed, known_stamps, recount_layers, settle

__all__ = ["sync"]

ROUNDS = 3
"""How often a folder that changes while it is read is tried again; the next opening reads it anyway."""

Readings = Mapping[str, Entry | str | None]


def sync(hub: Path, catalogue: Catalogue, *, everything: bool = False, progress: Listener | None = None) -> None:
    """Bring the catalogue up to date with the folders whose stamps changed, or with all of them.

    Raises what `Catalogue.writing` raises; if nothing changed, nothing is written.
    """
    for turn in range(ROUNDS):
        with catalogue.reading() as connection:
            known = known_stamps(connection)
        before = stamps(hub, {} if everything else known)
        every = everything and turn == 0
        stale = _stale(before, known, every=every)
        if not stale:
            return
        readings = _read(hub, [name for name in stale if name in before], progress)
        with catalogue.writing() as connection:
            # Another process may have written meanwhile: only what is stale now counts.
            known = known_stamps(connection)
            now, gone = stamps(hub, {} if everything else known), leaving(hub)
            # Missing folders first: otherwise a renamed folder would be a duplicate of itself.
            for name in sorted(_stale(now, known, every=every), key=lambda name: name in now):
                mark = now.get(name, GONE)
                if mark == GONE and name in gone:
                    forget(connection, name)
                elif mark == GONE:
                    settle(connection, name, stamp=GONE, reading=None)
                elif mark == before.get(name) and readings.get(name) is not None:
                    settle(connection, name, stamp=mark, reading=readings[name])
            forget_renamed(connection)
            if every:
                recount_layers(connection, {n: e.widths for n, e in readings.items() if isinstance(e, Entry)})


def _read(hub: Path, names: list[str], progress: Listener | None) -> Readings:
    """Each module's entry, or why it has none."""
    if not names:
        return {}
    from headstart.hub.reading import read_entries  # NumPy, which looking at a hub does without

    return dict(read_entries(hub, names, progress))


def _stale(now: Mapping[str, str], known: Mapping[str, str], *, every: bool) -> list[str]:
    return [name for name in sorted(now.keys() | known.keys()) if every or known.get(name) != now.get(name, GONE)]
