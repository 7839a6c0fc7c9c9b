"""Rows that are already in memory: lists of dicts, and the tables of pandas, datasets and pyarrow."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from headstart.errors import TaskError, of_type
from headstart.tasks.sources import datasets_id
from headstart.tasks.sources.locate import SPLIT_NAMES, Located, known_splits
from headstart.tasks.sources.rows import Rows

__all__ = ["locate_rows"]

WORKS = "give a list of dicts, a pandas DataFrame, a datasets.Dataset or a pyarrow Table"


def locate_rows(rows: object, *, parameter: str = "rows") -> Located:
    """The tables of what a caller holds in memory. Raises `TaskError` for anything else than `WORKS` names."""
    source = f"the {type(rows).__name__}"
    if isinstance(rows, str | Path):
        raise TaskError(f"{of_type(parameter, rows)}; to read a file or folder, call Task.load")
    if not isinstance(rows, Mapping):
        return Located("rows", source, {None: _rows(rows, source=source, parameter=parameter)})
    if _library(rows) == "datasets":
        tables = datasets_id.tables_of(rows, source=source)
    elif rows and rows.keys() <= SPLIT_NAMES.keys():
        tables = {
            split: _rows(part, source=f"split '{split}'", parameter=f"{parameter}['{split}']")
            for split, part in rows.items()
        }
    else:
        names = ", ".join(map(str, rows)) or "none"
        raise TaskError(
            f"{parameter} is a dict with the keys {names}, not all of them splits; {WORKS}, "
            "or a dict of them by split: train, dev, test"
        )
    found = known_splits(tables, source=source)
    return Located("rows", source, {split: found[split] for split in ("train", "dev", "test") if split in found})


def _rows(given: Any, *, source: str, parameter: str) -> Rows:
    """The rows of one table; what it is, is decided now, and they are read later."""
    match _library(given), type(given).__name__:
        case "pandas", "DataFrame":
            return _of_pandas(given, source=source)
        case "pyarrow", "Table":
            return _of_arrow(given, source=source)
        case "datasets", "Dataset":
            return datasets_id.tables_of(given, source=source)[None]
    if not isinstance(given, Iterable) or isinstance(given, str | bytes | Mapping):
        raise TaskError(f"{of_type(parameter, given)}; {WORKS}")
    return _of_dicts(given, source=source, parameter=parameter)


def _library(given: object) -> str:
    """Where its class comes from, without importing a library that the caller does not use."""
    return type(given).__module__.partition(".")[0]


def _of_dicts(given: Iterable[Any], *, source: str, parameter: str) -> Rows:
    for number, row in enumerate(given, start=1):
        if not isinstance(row, Mapping):
            raise TaskError(f"{of_type(f'row {number} of {parameter}', row)}; {WORKS}")
        yield f"{source}, row {number}", {str(name): _plain(value) for name, value in row.items()}


def _of_pandas(frame: Any, *, source: str) -> Rows:
    _check_names([str(name) for name in frame.columns], source)
    # None instead of NaN, NaT and NA.
    plain = frame.astype(object).where(frame.notna(), None)
    for number, values in enumerate(plain.itertuples(index=False, name=None), start=1):
        yield f"{source}, row {number}", dict(zip(map(str, frame.columns), map(_plain, values), strict=True))


def _of_arrow(table: Any, *, source: str) -> Rows:
    _check_names(table.column_names, source)
    rows: Iterator[Mapping[str, object]] = (row for batch in table.to_batches() for row in batch.to_pylist())
    for number, row in enumerate(rows, start=1):
        yield f"{source}, row {number}", row


def _plain(value: Any) -> Any:
    """Python's own value: pandas reads a list from Parquet as a NumPy array, and has values of its own for none."""
    match _library(value), type(value).__name__:
        case "numpy", _:
            return _plain(value.tolist())
        case "pandas", "NAType" | "NaTType":
            return None
    if isinstance(value, Mapping):
        return {name: _plain(element) for name, element in value.items()}
    return [_plain(element) for element in value] if isinstance(value, list | tuple) else value


def _check_names(names: list[str], source: str) -> None:
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise TaskError(f"{source}: column '{repeated}' appears twice; give each column a name of its own")
