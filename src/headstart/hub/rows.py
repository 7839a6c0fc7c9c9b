"""The catalogue's rows: what a module must agree on with the others, and how it enters and leaves."""

import hashlib
import sqlite3
import unicodedata
from dataclasses import dataclass

from headstart.errors import ModuleError
from headstart.hub.ref import CHANGED, Entry, changed
from headstart.records import Fingerprint, ModuleCard

__all__ = [
    "Known",
    "forget",
    "known_row",
    "known_rows",
    "known_stamps",
    "record",
    "refuse_conflict",
    "settle",
    "stated_backbone",
]


@dataclass(frozen=True)
class Known:
    """One row as it stands: `card`, `digest` and `shape` are missing where the folder could never be read."""

    stamp: str
    card: ModuleCard | None
    reason: str | None
    digest: str | None
    shape: str | None


KNOWN = "name, stamp, card, reason, digest, shape"


def known_rows(connection: sqlite3.Connection) -> dict[str, Known]:
    """Every row by name, in order of name."""
    return {row[0]: _known(*row) for row in connection.execute(f"SELECT {KNOWN} FROM modules ORDER BY name")}


def known_row(connection: sqlite3.Connection, name: str) -> Known | None:
    """The row of `name`, or `None`."""
    row = connection.execute(f"SELECT {KNOWN} FROM modules WHERE name = ?", (name,)).fetchone()
    return None if row is None else _known(*row)


def known_stamps(connection: sqlite3.Connection) -> dict[str, str]:
    """The stamp of every row by name."""
    return dict(connection.execute("SELECT name, stamp FROM modules").fetchall())


def stated_backbone(connection: sqlite3.Connection) -> tuple[str, Fingerprint] | None:
    """The first usable module that states a backbone, and that backbone; the others agree with it."""
    query = "SELECT name, backbone FROM modules WHERE backbone IS NOT NULL AND reason IS NULL ORDER BY name LIMIT 1"
    row = connection.execute(query).fetchone()
    return None if row is None else (row[0], Fingerprint.from_json(row[1], source=f"the catalogue's row '{row[0]}'"))


def _known(name: str, stamp: str, card: str | None, reason: str | None, digest: str | None, shape: str | None) -> Known:
    parsed = None if card is None else ModuleCard.from_json(card, source=f"the catalogue's row '{name}'")
    return Known(stamp, parsed, reason, digest, shape)


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
    _insert(connection, name=entry.card.name, stamp=stamp, reason=None, **_facts(entry))
    connection.executemany(
        "INSERT INTO layers (layer, in_features, out_features, modules) VALUES (?, ?, ?, 1) "
        "ON CONFLICT (layer) DO UPDATE SET modules = modules + 1, "
        "in_features = coalesce(in_features, excluded.in_features), "
        "out_features = coalesce(out_features, excluded.out_features)",
        [(layer, *widths) for layer, widths in entry.widths.items()],
    )


def _facts(entry: Entry) -> dict[str, str | int | float | None]:
    """The columns that come from the card and the tensors."""
    card = entry.card
    columns = ("tensor_hash", "kind", "variant", "family", "task", "metric", "license", "base_model")
    stated = {column: getattr(card, column) for column in (*columns, "rank", "parameters", "score")}
    words = (card.name, card.task, card.family, card.base_model, card.notes, card.origin)
    return stated | {
        "digest": entry.digest,
        "shape": entry.shape,
        "text": folded(" ".join(words)),
        "backbone": None if card.backbone is None else card.backbone.model_dump_json(),
        "card": card.model_dump_json(),
    }


def _insert(connection: sqlite3.Connection, **row: str | int | float | None) -> None:
    """Write one row; the stamp begins with the folder's own time."""
    time = str(row["stamp"]).partition("+")[0]
    row |= {"folded": folded(str(row["name"])), "added": int(time) / 1e9 if time.isdigit() else None}
    row["seal"] = hashlib.blake2b(repr(sorted(row.items())).encode(), digest_size=8).hexdigest()
    marks = ", ".join("?" * len(row))
    connection.execute(f"INSERT INTO modules ({', '.join(row)}) VALUES ({marks})", tuple(row.values()))


def _record_problem(connection: sqlite3.Connection, name: str, *, known: Known | None, stamp: str, reason: str) -> None:
    """Note why folder `name` cannot be used; the card that was `known`, if any, stays for comparison."""
    forget(connection, name)
    card = known.card if known else None
    facts = {"tensor_hash": card.tensor_hash, "card": card.model_dump_json()} if card else {}
    _insert(connection, name=name, stamp=stamp, reason=reason, **facts)


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
    elif known == Known(stamp, reading.card, None, reading.digest, reading.shape):
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


def folded(text: str) -> str:
    """The text as a search compares it: without the differences of case and of composed and decomposed letters."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
