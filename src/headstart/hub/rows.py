"""The catalogue's rows: what modules must agree on, and how they enter and leave."""

import os
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from headstart.errors import HubError, ModuleError
from headstart.hub.names import ANOTHER, check_name, folded, twin_key
from headstart.hub.ref import CHANGED, Entry, Widths, changed, parsed

if TYPE_CHECKING:
    from headstart.records import Fingerprint, ModuleCard

__all__ = [
    "GONE",
    "Known",
    "forget",
    "forget_gone",
    "forget_renamed",
    "known_row",
    "known_rows",
    "known_stamps",
    "record",
    "recount_layers",
    "refuse_conflict",
    "refuse_twin",
    "settle",
    "stated_backbone",
]

ONE_BACKBONE = (
    "use one hub for each backbone; if the hub's modules are the wrong ones, remove them, and add these with "
    "--backbone (in Python: check=)"
)
"""What to do about modules of two backbones: what comes first into a hub decides, unless a backbone is named."""

GONE = ""
"""The stamp of a folder that does not exist."""

STATED = (
    "tensor_hash", "kind", "variant", "family", "task", "metric", "license", "base_model", "rank", "parameters", "score"
)  # fmt: skip
"""Columns that are fields of the card."""

FOLDED = ("kind", "variant", "family", "task", "metric", "license")
"""Columns that filters compare, and that therefore hold the text as `folded` gives it."""

COLUMNS = ("name", "twin", "stamp", "reason", "digest", "shape", "added", "text", "backbone", "card", *STATED)
ROW = ", ".join(COLUMNS)

Value = str | int | float | None


@dataclass(frozen=True)
class Known:
    """One row; `written`, `digest` and `shape` are missing if the folder could never be read."""

    name: str
    stamp: str
    reason: str | None
    written: str | None
    digest: str | None
    shape: str | None

    @property
    def card(self) -> "ModuleCard | None":
        """The card; raises `DamageError` when another version wrote it."""
        return None if self.written is None else parsed(self.written)


def known_rows(
    connection: sqlite3.Connection, condition: str = "1", values: Iterable[Value] = (), *, order: str = "name"
) -> list[Known]:
    """The rows for which an SQL condition holds."""
    query = f"SELECT {ROW} FROM modules WHERE {condition} ORDER BY {order}"
    return [_known(row) for row in connection.execute(query, tuple(values))]


def known_row(connection: sqlite3.Connection, name: str) -> Known | None:
    """The row of `name`, or `None`."""
    return next(iter(known_rows(connection, "name = ?", (_text(name),))), None)


def known_stamps(connection: sqlite3.Connection) -> dict[str, str]:
    """The stamp of every row by name."""
    return dict(connection.execute("SELECT name, stamp FROM modules").fetchall())


def stated_backbone(connection: sqlite3.Connection) -> "tuple[str, Fingerprint] | None":
    """The first usable module that states a backbone, and that backbone; the others agree with it."""
    first = known_rows(connection, "backbone IS NOT NULL AND reason IS NULL", order="name LIMIT 1")
    card = first[0].card if first else None
    return None if card is None or card.backbone is None else (first[0].name, card.backbone)


def refuse_conflict(connection: sqlite3.Connection, entry: Entry) -> None:
    """Raise `ModuleError` if the module is in the hub already, or was made for another backbone than the others."""
    card = entry.card
    query = "SELECT name FROM modules WHERE tensor_hash = ? AND reason IS NULL"
    twin = connection.execute(query, (card.tensor_hash,)).fetchone()
    if twin is not None:
        raise ModuleError(f"module '{card.name}' has the same tensors as '{twin[0]}' in the hub; keep one of them")
    if card.backbone is not None:
        first = stated_backbone(connection)
        if first is not None and not first[1].same_as(card.backbone):
            raise ModuleError(
                f"module '{card.name}' states another backbone than '{first[0]}' in the hub; {ONE_BACKBONE}"
            )
    _refuse_widths(connection, entry)


def refuse_twin(connection: sqlite3.Connection, name: str) -> None:
    """Raise `HubError` if some file system, or a reader, would take `name` for another module's."""
    query = "SELECT name FROM modules WHERE twin = ? AND name <> ?"
    twin = connection.execute(query, (twin_key(name), name)).fetchone()
    if twin is not None:
        raise HubError(
            f"the name '{name}' differs from '{twin[0]}' in the hub only by case or by letters that look alike; "
            f"{ANOTHER}"
        )


def _refuse_widths(connection: sqlite3.Connection, entry: Entry) -> None:
    rows = connection.execute("SELECT layer, in_features, out_features FROM layers")
    present = {layer: (inner, outer) for layer, inner, outer in rows}
    for layer, widths in entry.widths.items():
        others = present.get(layer, widths)
        if any(None not in (own, other) and own != other for own, other in zip(widths, others, strict=True)):
            raise ModuleError(
                f"module '{entry.card.name}' was made for another backbone: its layer '{layer}' is "
                f"{_arrow(widths)}, the hub's modules have {_arrow(others)}; {ONE_BACKBONE}"
            )


def _arrow(widths: tuple[int | None, int | None]) -> str:
    return "→".join("?" if width is None else str(width) for width in widths)


def record(connection: sqlite3.Connection, entry: Entry, stamp: str) -> None:
    """Enter a module that agrees with the others. The name must be free (see `forget`)."""
    _insert(connection, _facts(entry.card) | {"digest": entry.digest, "shape": entry.shape, "stamp": stamp})
    _count_layers(connection, entry.widths)


def recount_layers(connection: sqlite3.Connection, widths: Mapping[str, Widths]) -> None:
    """Enter the layers anew, from the widths of every module by its name."""
    connection.execute("DELETE FROM layers")
    for (name,) in connection.execute("SELECT name FROM modules WHERE reason IS NULL ORDER BY name").fetchall():
        _count_layers(connection, widths.get(name, {}))


def _count_layers(connection: sqlite3.Connection, widths: Widths) -> None:
    connection.executemany(
        "INSERT INTO layers (layer, in_features, out_features, modules) VALUES (?, ?, ?, 1) "
        "ON CONFLICT (layer) DO UPDATE SET modules = modules + 1, "
        "in_features = coalesce(in_features, excluded.in_features), "
        "out_features = coalesce(out_features, excluded.out_features)",
        [(layer, *pair) for layer, pair in widths.items()],
    )


def _facts(card: "ModuleCard") -> dict[str, Value]:
    """The columns that come from the card."""
    facts: dict[str, Value] = {column: getattr(card, column) for column in STATED}
    facts |= {column: folded(str(facts[column])) for column in FOLDED if facts[column] is not None}
    words = (card.name, card.kind, card.variant, card.task, card.family, card.base_model, card.notes, card.origin)
    return facts | {
        "name": card.name,
        # SQLite stores whole numbers as integers, so it has no -0.0.
        "score": None if card.score is None else card.score + 0.0,
        "text": folded("\n".join(words)),
        "backbone": None if card.backbone is None else card.backbone.model_dump_json(),
        "card": card.model_dump_json(),
    }


def _insert(connection: sqlite3.Connection, facts: dict[str, Value]) -> None:
    """Write one row; its stamp begins with the folder's own time."""
    time = str(facts["stamp"]).partition("+")[0]
    made: dict[str, Value] = {"twin": twin_key(str(facts["name"]))}
    made["added"] = int(time) / 1e9 if time.isdigit() else None
    values = [(facts | made).get(column) for column in COLUMNS]
    marks = ", ".join("?" * len(COLUMNS))
    connection.execute(f"INSERT INTO modules ({ROW}) VALUES ({marks})", values)


def _known(row: tuple[Value, ...]) -> Known:
    held = dict(zip(COLUMNS, row, strict=True))
    reason, written, digest, shape = (_text(held[column]) for column in ("reason", "card", "digest", "shape"))
    return Known(str(held["name"]), str(held["stamp"]), reason, written, digest, shape)


def _text(value: Value) -> str | None:
    """The text as it can be searched for in the catalogue, which never holds invalid text."""
    return None if value is None else str(value).encode(errors="replace").decode()


def settle(connection: sqlite3.Connection, name: str, *, stamp: str, reading: Entry | str | None) -> None:
    """Make the row of `name` say what its folder is now: a usable module, or a problem.

    `reading` is the entry, or why there is none, or `None` when the folder is gone.
    """
    known = known_row(connection, name)
    card = None if known is None else known.card
    if reading is None:
        reason = "its folder is missing; put it back, or remove the module from the hub"
    elif isinstance(reading, str):
        reason = reading
    elif card is not None and changed(card, reading.card):
        reason = CHANGED
    elif known == Known(name, stamp, None, reading.card.model_dump_json(), reading.digest, reading.shape):
        return
    else:
        forget(connection, name)
        try:
            check_name(name)
            refuse_twin(connection, name)
            refuse_conflict(connection, reading)
            record(connection, reading, stamp)
            return
        except (HubError, ModuleError) as error:
            reason = str(error)
    _record_problem(connection, name, card=card, stamp=stamp, reason=reason)


def _record_problem(
    connection: sqlite3.Connection, name: str, *, card: "ModuleCard | None", stamp: str, reason: str
) -> None:
    """Note why folder `name` cannot be used; the `card` that was known, if any, stays for comparison."""
    forget(connection, name)
    _insert(connection, (_facts(card) if card else {}) | {"name": name, "stamp": stamp, "reason": reason})


def forget(connection: sqlite3.Connection, name: str) -> None:
    """Delete the row of `name`, and its share of the layers."""
    known = known_row(connection, name)
    card = None if known is None or known.reason is not None else known.card
    if card is not None:
        layers = [(layer,) for layer in card.targets]
        connection.executemany("UPDATE layers SET modules = modules - 1 WHERE layer = ?", layers)
        connection.execute("DELETE FROM layers WHERE modules <= 0")
    connection.execute("DELETE FROM modules WHERE name = ?", (name,))


def forget_gone(connection: sqlite3.Connection, hub: Path, names: Iterable[str]) -> None:
    """Delete the rows of the names that have no folder in the hub: another process may have put one there again."""
    for name in names:
        if not os.path.lexists(hub / name):
            forget(connection, name)


def forget_renamed(connection: sqlite3.Connection) -> None:
    """Delete the rows of missing folders whose module is there under another name: they were renamed, not lost."""
    there = "SELECT tensor_hash FROM modules WHERE reason IS NULL"
    connection.execute(f"DELETE FROM modules WHERE stamp = ? AND tensor_hash IN ({there})", (GONE,))
