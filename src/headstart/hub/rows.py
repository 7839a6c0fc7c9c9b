"""The catalogue's rows: what a module must agree on with the others, and how it enters and leaves."""

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass

from headstart.errors import ModuleError
from headstart.formats import StoredModule
from headstart.records import Fingerprint, ModuleCard

__all__ = [
    "CHANGED",
    "Entry",
    "Known",
    "changed",
    "entry_of",
    "forget",
    "known_row",
    "known_rows",
    "known_stamps",
    "record",
    "refuse_conflict",
    "settle",
    "stated_backbone",
]

SAME = ("tensor_hash", "rank", "scaling", "targets")
"""Fields of a card that differ when the module computes something else."""

CHANGED = (
    "its tensors or configuration changed since it was added; put the old files back, "
    "or rebuild the hub's catalogue to accept the new ones"
)


@dataclass(frozen=True)
class Entry:
    """What the catalogue keeps of a module: its card, and each target layer's (in, out) widths, `None` if not shown."""

    card: ModuleCard
    widths: Mapping[str, tuple[int | None, int | None]]


@dataclass(frozen=True)
class Known:
    """One row as it stands: `card` is missing where the folder could never be read."""

    stamp: str
    card: ModuleCard | None
    reason: str | None


def entry_of(module: StoredModule, name: str) -> Entry:
    """The entry of `module` under the hub's name for it."""
    return Entry(module.card.model_copy(update={"name": name}), module.layout.widths)


def known_rows(connection: sqlite3.Connection) -> dict[str, Known]:
    """Every row by name, in order of name."""
    rows = connection.execute("SELECT name, stamp, card, reason FROM modules ORDER BY name")
    return {row[0]: _known(*row) for row in rows}


def known_row(connection: sqlite3.Connection, name: str) -> Known | None:
    """The row of `name`, or `None`."""
    row = connection.execute("SELECT name, stamp, card, reason FROM modules WHERE name = ?", (name,)).fetchone()
    return None if row is None else _known(*row)


def known_stamps(connection: sqlite3.Connection) -> dict[str, str]:
    """The stamp of every row by name."""
    return dict(connection.execute("SELECT name, stamp FROM modules").fetchall())


def stated_backbone(connection: sqlite3.Connection) -> tuple[str, Fingerprint] | None:
    """The first usable module that states a backbone, and that backbone; the others agree with it."""
    query = "SELECT name, backbone FROM modules WHERE backbone IS NOT NULL AND reason IS NULL ORDER BY name LIMIT 1"
    row = connection.execute(query).fetchone()
    return None if row is None else (row[0], Fingerprint.from_json(row[1], source=f"the catalogue's row '{row[0]}'"))


def changed(old: ModuleCard, new: ModuleCard) -> bool:
    """Whether the two cards are of modules that compute something else."""
    return any(getattr(old, field) != getattr(new, field) for field in SAME)


def _known(name: str, stamp: str, card: str | None, reason: str | None) -> Known:
    parsed = None if card is None else ModuleCard.from_json(card, source=f"the catalogue's row '{name}'")
    return Known(stamp, parsed, reason)


def refuse_conflict(connection: sqlite3.Connection, entry: Entry) -> None:
    """Raise `ModuleError` when the module is in the hub already, or made for another backbone than the others."""
    card = entry.card
    query = "SELECT name FROM modules WHERE tensor_hash = ? AND reason IS NULL"
    twin = connection.execute(query, (card.tensor_hash,)).fetchone()
    if twin is not None:
        raise ModuleError(f"module '{card.name}' has the same tensors as '{twin[0]}' in the hub; keep one of them")
    if card.backbone is not None:
        first = stated_backbone(connection)
        if first is not None and not first[1].same_as(card.backbone):
            raise ModuleError(
                f"module '{card.name}' states another backbone than '{first[0]}' in the hub; "
                "use one hub for each backbone"
            )
    _refuse_widths(connection, entry)


def _refuse_widths(connection: sqlite3.Connection, entry: Entry) -> None:
    rows = connection.execute("SELECT layer, in_features, out_features FROM layers")
    present = {layer: (inner, outer) for layer, inner, outer in rows}
    for layer, widths in entry.widths.items():
        others = present.get(layer, widths)
        if any(None not in (own, other) and own != other for own, other in zip(widths, others, strict=True)):
            raise ModuleError(
                f"module '{entry.card.name}' was made for another backbone: its layer '{layer}' is "
                f"{_arrow(widths)}, the hub's modules have {_arrow(others)}; "
                "use one hub for each backbone"
            )


def _arrow(widths: tuple[int | None, int | None]) -> str:
    return "→".join("?" if width is None else str(width) for width in widths)


def record(connection: sqlite3.Connection, entry: Entry, stamp: str) -> None:
    """Enter a module that agrees with the others. The name must be free (see `forget`)."""
    card = entry.card
    backbone = None if card.backbone is None else card.backbone.model_dump_json()
    connection.execute(
        "INSERT INTO modules (name, stamp, tensor_hash, card, backbone) VALUES (?, ?, ?, ?, ?)",
        (card.name, stamp, card.tensor_hash, card.model_dump_json(), backbone),
    )
    connection.executemany(
        "INSERT INTO layers (layer, in_features, out_features, modules) VALUES (?, ?, ?, 1) "
        "ON CONFLICT (layer) DO UPDATE SET modules = modules + 1, "
        "in_features = coalesce(in_features, excluded.in_features), "
        "out_features = coalesce(out_features, excluded.out_features)",
        [(layer, *widths) for layer, widths in entry.widths.items()],
    )


def _record_problem(connection: sqlite3.Connection, name: str, *, known: Known | None, stamp: str, reason: str) -> None:
    """Note why folder `name` cannot be used; the card that was `known`, if any, stays for comparison."""
    forget(connection, name)
    card = known.card if known else None
    connection.execute(
        "INSERT INTO modules (name, stamp, tensor_hash, card, reason) VALUES (?, ?, ?, ?, ?)",
        (name, stamp, card and card.tensor_hash, card and card.model_dump_json(), reason),
    )


def settle(connection: sqlite3.Connection, name: str, *, stamp: str, reading: Entry | str | None) -> None:
    """Make the row of `name` say what its folder is now: a usable module, or a problem.

    `reading` is the entry, or why there is none, or `None` when the folder is gone.
    """
    known = known_row(connection, name)
    if reading is None:
        reason = "its folder is missing; put it back, or remove the module from the hub"
    elif isinstance(reading, str):
        reason = reading
    elif known is not None and known.card is not None and changed(known.card, reading.card):
        reason = CHANGED
    elif known == Known(stamp, reading.card, None):
        return
    else:
        forget(connection, name)
        try:
            refuse_conflict(connection, reading)
            record(connection, reading, stamp)
            return
        except ModuleError as error:
            reason = str(error)
    _record_problem(connection, name, known=known, stamp=stamp, reason=reason)


def forget(connection: sqlite3.Connection, name: str) -> None:
    """Delete the row of `name`, and its share of the layers."""
    known = known_row(connection, name)
    if known is not None and known.card is not None and known.reason is None:
        layers = [(layer,) for layer in known.card.targets]
        connection.executemany("UPDATE layers SET modules = modules - 1 WHERE layer = ?", layers)
        connection.execute("DELETE FROM layers WHERE modules <= 0")
    connection.execute("DELETE FROM modules WHERE name = ?", (name,))
