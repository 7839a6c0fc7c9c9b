"""`headstart store …`: commands for finished work. None of them imports torch."""

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headstart.cli.options import AsJson, StoreOption
from headstart.cli.output import print_json, print_line, print_rows
from headstart.errors import SettingError

if TYPE_CHECKING:
    from headstart.units import Entry, Store

__all__ = ["app", "open_store", "size_text"]

app = typer.Typer(no_args_is_help=True, help="Look after finished work: list, show, export, prune.")

KeyArgument = Annotated[str, typer.Argument(help="Key of an entry, or how it begins.")]

SECONDS = {"s": 1, "min": 60, "h": 3600, "d": 86400, "w": 604800}
BYTES = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
TYPES = ("tune", "score", "evaluate", "merge", "weigh", "learn", "embed")
"""Headstart's own types of unit."""
SHORT = 12
"""How many letters of a key tables show."""


def open_store(folder: Path | None) -> "Store":
    """The store that a command uses."""
    from headstart.units import Store

    return Store.default() if folder is None else Store(folder)


@app.command("list")
def list_(
    type: Annotated[  # noqa: A002 - the word of the option
        str | None, typer.Option(help=f"Only units of this type: {', '.join(TYPES)}.")
    ] = None,
    store: StoreOption = None,
    as_json: AsJson = False,
) -> None:
    """Show what is in the store, most recently used first."""
    opened = open_store(store)
    everything = list(opened.entries())
    known = dict.fromkeys((*TYPES, *(entry.type for entry in everything)))
    if type is not None and type not in known:
        raise SettingError(f"no unit is of type '{type}'; choose one of: {', '.join(known)}")
    entries = sorted((each for each in everything if type in (None, each.type)), key=lambda entry: -entry.used)
    damaged = [folder for folder in opened.damaged(everything) if type in (None, folder.parent.parent.name)]
    if as_json:
        rows = [_facts(opened, entry) for entry in entries]
        size = sum(entry.size for entry in entries)
        broken = [str(folder) for folder in damaged]
        print_json({"store": str(opened.folder), "size": size, "entries": rows, "damaged": broken})
        return
    if entries:
        rows = [_facts(opened, entry) | _shown(entry) for entry in entries]
        columns = ("key", "type", "label", "size", "seconds", "used")
        print_rows(rows, columns, whole=("key", "type", "size", "seconds", "used"))
    if not opened.folder.is_dir():
        print_line(f"There is no store at {opened.folder} yet; it is made when something is stored.")
        return
    amount = "1 entry" if len(entries) == 1 else f"{len(entries)} entries"
    print_line(f"{amount}, {size_text(sum(entry.size for entry in entries))}, in {opened.folder}.")
    for folder in damaged:
        print_line(
            f"damaged: {folder.parent.parent.name} {folder.name[:SHORT]} cannot be read, and is computed again when it "
            "is needed; headstart store prune removes it",
            error=True,
        )


@app.command()
def show(key: KeyArgument, store: StoreOption = None, as_json: AsJson = False) -> None:
    """Show one entry: its inputs and its result."""
    opened = open_store(store)
    entry = opened.find(key)
    result = opened.result(entry)
    facts = _facts(opened, entry) | {"facts": dict(result.facts)}
    if as_json:
        print_json(facts | {"rows": [dict(row) for row in result.rows]})
        return
    import json

    texts = facts | _shown(entry) | {
        "key": entry.key, "inputs": json.dumps(facts["inputs"], ensure_ascii=False),
        "needs": ", ".join(need[:SHORT] for need in entry.needs), "facts": json.dumps(facts["facts"]),
        "files": ", ".join(facts["files"]), "rows": len(result.rows),
    }  # fmt: skip
    rows = [{"field": name, "value": value} for name, value in texts.items() if value not in (None, "", "{}", 0)]
    print_rows(rows, ("field", "value"), whole=("field",))


@app.command()
def export(
    key: KeyArgument,
    output: Annotated[Path, typer.Argument(help="Folder to write; it must not exist.")],
    store: StoreOption = None,
    as_json: AsJson = False,
) -> None:
    """Copy an entry's module, as a PEFT folder, to OUTPUT, or the entry's files if it has no module."""
    opened = open_store(store)
    entry = opened.find(key)
    opened.export(entry, output)
    if as_json:
        print_json({"key": entry.key, "output": str(output), "module": entry.has_module})
        return
    print_line(f"Saved {'the module' if entry.has_module else 'the files'} of {entry.label} as {output}.")


@app.command()
def prune(
    older_than: Annotated[
        str | None, typer.Option(help="Remove what has not been used for this long: 30d, 12h, 2w, 90min.")
    ] = None,
    keep: Annotated[
        str | None, typer.Option(help="Remove the least recently used until this much is left: 20GB, 500MB.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    store: StoreOption = None,
    as_json: AsJson = False,
) -> None:
    """Remove entries, least recently used first, and what killed runs left behind. All of it can be computed again."""
    if older_than is None and keep is None:
        raise SettingError("nothing says what to remove; give --older-than 30d, --keep 20GB or both")
    seconds = None if older_than is None else _amount(older_than, SECONDS, option="--older-than", example="30d")
    most = None if keep is None else _amount(keep, BYTES, option="--keep", example="20GB")
    opened = open_store(store)
    pruned = opened.prune(older_than=seconds, keep=None if most is None else int(most), dry_run=dry_run)
    if as_json:
        removed = [entry.key for entry in pruned.removed]
        print_json(
            {
                "removed": removed, "damaged": pruned.damaged, "freed": pruned.freed, "left": pruned.left,
                "dry_run": dry_run,
            }
        )  # fmt: skip
        return
    amount = "1 entry" if len(pruned.removed) == 1 else f"{len(pruned.removed)} entries"
    if pruned.damaged:
        amount += f" and {pruned.damaged} that cannot be read"
    did, left = ("Would remove", "would be left") if dry_run else ("Removed", "is left")
    print_line(f"{did} {amount}, {size_text(pruned.freed)}; {size_text(pruned.left)} {left} in {opened.folder}.")


def size_text(size: int) -> str:
    """Bytes for people.

    >>> size_text(999), size_text(1_234_567)
    ('999 B', '1.2 MB')
    """
    unit = next(name for name in reversed(BYTES) if size >= BYTES[name] or name == "B")
    return f"{size} B" if unit == "B" else f"{size / BYTES[unit]:.1f} {unit}"


def _facts(store: "Store", entry: "Entry") -> dict[str, Any]:
    return {
        "key": entry.key, "type": entry.type, "version": entry.version, "label": entry.label, "size": entry.size,
        "seconds": entry.seconds, "created": entry.created, "used": _time(entry.used), "device": entry.device,
        "module": entry.has_module, "folder": str(store.home(entry)), "needs": list(entry.needs),
        "inputs": dict(entry.inputs), "files": list(entry.files),
    }  # fmt: skip


def _shown(entry: "Entry") -> dict[str, str]:
    """The columns that a table shows differently from JSON."""
    return {
        "key": entry.key[:SHORT],
        "size": size_text(entry.size),
        "seconds": f"{entry.seconds:.2f}",
        "used": _time(entry.used)[:16].replace("T", " "),
    }


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _amount(text: str, units: dict[str, int], *, option: str, example: str) -> float:
    found = re.fullmatch(r"(\d{1,12}(?:\.\d{1,6})?)\s*([A-Za-z]+)", text.strip(), re.ASCII)
    by_lower = {name.lower(): factor for name, factor in units.items()}
    if found is None or found[2].lower() not in by_lower:
        raise SettingError(
            f"{option} {text} is not a number with one of the units {', '.join(units)}; write for example "
            f"{option} {example}"
        )
    return float(found[1]) * by_lower[found[2].lower()]
