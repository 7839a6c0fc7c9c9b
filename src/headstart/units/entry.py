"""One entry of the store on disk: what was computed, and what it was computed from.

    unit.json            type, version, key, label, inputs, needs; when, where, in how many seconds; every file's hash
    result.json          facts and rows
    rows.parquet         the rows, if there are many
    tensors.safetensors  the tensors
    module/              a saved module

Every file that is read is checked against its hash; `unit.json` holds its own hash too.
"""

import hashlib
import json
import math
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from headstart.units.canonical import digest_of
from headstart.units.unit import Result, Unit

__all__ = ["RECORD", "DamagedError", "Entry", "read_entry", "read_result", "write_entry"]

RECORD = "unit.json"
RESULT = "result.json"
ROWS = "rows.parquet"
TENSORS = "tensors.safetensors"
MODULE = "module"

MOST_JSON = 1 << 16
"""Rows with more characters than this are written as Parquet."""


class DamagedError(Exception):
    """An entry is not what was written; the message says what differs. It is computed again, so no user sees this."""


@dataclass(frozen=True)
class Entry:
    """What the store knows of one finished unit.

    `files`: path inside the entry → SHA-256; `size`: of all files together, in bytes; `created`: ISO 8601, UTC;
    `used`: when it was last read, in seconds since 1970.
    """

    key: str
    type: str
    version: int
    label: str
    inputs: Mapping[str, Any]
    needs: Sequence[str]
    created: str
    seconds: float
    device: str
    size: int
    files: Mapping[str, str]
    used: float = field(default=0.0, compare=False)

    @property
    def has_module(self) -> bool:
        """Whether it holds a saved module that can be exported."""
        return any(name.startswith(f"{MODULE}/") for name in self.files)


def write_entry(folder: Path, unit: Unit, result: Result, *, seconds: float) -> None:
    """Write a unit's result into the empty `folder`. The folder of its module is moved, not copied."""
    rows = [dict(row) for row in result.rows]
    facts = {"facts": _to_json(result.facts)}
    text = json.dumps(facts | {"rows": _to_json(rows)}, allow_nan=False)
    if len(text) > MOST_JSON and _write_parquet(folder / ROWS, rows):
        text = json.dumps(facts, allow_nan=False)
    sums = {RESULT: _write(folder / RESULT, text.encode())}
    if result.tensors:
        from safetensors.numpy import save

        sums[TENSORS] = _write(folder / TENSORS, save({name: _plain(array) for name, array in result.tensors.items()}))
    if result.module is not None:
        shutil.move(result.module, folder / MODULE)
    found = {name: sums.get(name) or _sum((folder / name).read_bytes()) for name in _files(folder)}
    record = {
        "schema_version": 1, "key": unit.key, "type": unit.type, "version": unit.version, "label": unit.label,
        "inputs": unit.inputs, "needs": [need.key for need in unit.needs()],
        "created": datetime.now(UTC).isoformat(timespec="seconds"), "seconds": round(seconds, 4),
        "device": result.device, "size": sum((folder / name).stat().st_size for name in found), "files": found,
    }  # fmt: skip
    _write(folder / RECORD, json.dumps(record | {"check": digest_of(record)}, indent=1).encode())


def read_entry(folder: Path) -> Entry:
    """Read the record of an entry.

    Raises:
        FileNotFoundError: there is none.
        DamagedError: it is not what was written.
    """
    path = folder / RECORD
    try:
        record = json.loads(path.read_bytes())
        check = record.pop("check")
        if check != digest_of(record) or record.pop("schema_version") != 1:
            raise DamagedError(f"{path} is not what was written")
        status = path.stat()
        record["size"] += status.st_size
        return Entry(**record, used=status.st_mtime)
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise DamagedError(f"{path} is not what was written") from error


def read_result(folder: Path, entry: Entry) -> Result:
    """Read the result of an entry and check every file of it.

    Raises:
        FileNotFoundError: a file is missing.
        DamagedError: a file is not what was written.
    """
    contents = {name: (folder / name).read_bytes() for name in entry.files}
    for name, content in contents.items():
        if _sum(content) != entry.files[name]:
            raise DamagedError(f"{folder / name} is not what was written")
    try:
        found = _from_json(json.loads(contents[RESULT]))
        return Result(
            facts=found["facts"],
            rows=_read_parquet(contents[ROWS]) if ROWS in contents else found["rows"],
            tensors=_arrays(contents[TENSORS]) if TENSORS in contents else {},
            module=folder / MODULE if entry.has_module else None,
            device=entry.device,
            seconds=entry.seconds,
        )
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedError(f"{folder} cannot be read: {error}") from error


def _files(folder: Path) -> Iterable[str]:
    return sorted(str(path.relative_to(folder).as_posix()) for path in folder.rglob("*") if path.is_file())


def _write(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    return _sum(content)


def _sum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _plain(array: Any) -> Any:
    import numpy as np

    return np.ascontiguousarray(array)


def _arrays(content: bytes) -> Mapping[str, Any]:
    from safetensors.numpy import load

    return load(content)


def _write_parquet(path: Path, rows: list[dict[str, Any]]) -> bool:
    """Write the rows as a table if they are one (one type per column), and return whether they were."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pa.Table.from_pylist(rows)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
        return False
    pq.write_table(table, path)
    return True


def _read_parquet(content: bytes) -> list[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows: list[dict[str, Any]] = pq.read_table(pa.BufferReader(content)).to_pylist()
    return rows


def _to_json(value: Any) -> Any:
    """`value` with numbers that JSON cannot hold written as {"float": "nan"}."""
    match value:
        case float():
            return float(value) if math.isfinite(value) else {"float": repr(float(value))}
        case Mapping():
            return {key: _to_json(item) for key, item in value.items()}
        case list() | tuple():
            return [_to_json(item) for item in value]
    return value


def _from_json(value: Any) -> Any:
    match value:
        case {"float": str(text)} if len(value) == 1:
            return float(text)
        case dict():
            return {key: _from_json(item) for key, item in value.items()}
        case list():
            return [_from_json(item) for item in value]
    return value
