"""Changing what a hub says about a module: the card in its folder, and the folder's name."""

import os
import sqlite3
from dataclasses import replace
from pathlib import Path

from headstart.errors import HubError, OutputError
from headstart.hub.admission import Stated, stated_card
from headstart.hub.folder import stamp
from headstart.hub.names import ANOTHER, check_name
from headstart.hub.reading import entry_of, write_card
from headstart.hub.ref import ModuleRef
from headstart.hub.rows import forget, record, refuse_twin
from headstart.hub.upkeep import Upkeep
from headstart.records import ModuleCard

__all__ = ["edit"]


def edit(hub: Path, upkeep: Upkeep, ref: ModuleRef, *, name: str, stated: Stated) -> ModuleCard:
    """Write the card of a module, then rename its folder, each in one step, and enter both; see `Hub.edit`."""
    check_name(name)
    if ref.path.is_symlink():
        raise HubError(
            f"{ref.path} is a link, and what is outside a hub is never changed; copy what it leads to into the hub "
            f"(headstart hub remove {hub} {ref.name}, then headstart hub add {hub} {ref.path.resolve()})"
        )
    read_at = stamp(ref.path)
    stored = ref.read()
    entry = entry_of(replace(stored, card=stated_card(stored.card, name, stated)), name)
    target = hub / name
    written = False

    def changed(connection: sqlite3.Connection) -> None:
        # Nobody enters anything meanwhile, and whoever finds the folder renamed waits for the end of this transaction.
        nonlocal written
        forget(connection, ref.name)
        if not written:
            refuse_twin(connection, name)
            if os.path.lexists(target) and not target.samefile(ref.path):
                raise HubError(f"the hub {hub} already has a module '{name}'; {ANOTHER}, or remove that one")
            if stamp(ref.path) != read_at:
                raise HubError(f"{ref.path} changed meanwhile; run the same command again")
            try:
                write_card(ref.path, entry.card, stored.config, former=ref.name)
                ref.path.rename(target)
            except OSError as error:
                raise OutputError(f"cannot change {ref.path}: {error.strerror}; check its permissions") from error
            written = True
        forget(connection, name)  # a catalogue that had to be built again has it already
        record(connection, entry, stamp(target))

    upkeep.change(changed)
    return entry.card
