"""Parquet, read batch by batch."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from headstart.errors import TaskError
from headstart.tasks.sources.rows import MOST_BYTES, MOST_ROWS, Rows

__all__ = ["read"]

BATCH = 1024
"""How many rows are decoded at once."""


def read(path: Path) -> Rows:
    """The rows of a Parquet file.

    Raises `TaskError` when it is not one, exceeds `MOST_ROWS` or `MOST_BYTES`, names a column twice, or holds a value
    that Python cannot (a date beyond the year 9999, text that is not UTF-8); the message names row and column.
    """
    import pyarrow as pa  # here, so that light commands do not pay for it
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            _check(file, path)
            number = 0
            for batch in file.iter_batches(batch_size=BATCH):
                for row in _rows(batch, path, number):
                    number += 1
                    yield f"{path}, row {number}", row
    except (OSError, pa.ArrowException) as error:
        raise TaskError(f"cannot read {path} as Parquet: {error}; write the file again") from error


def _check(file: Any, path: Path) -> None:
    if file.metadata.num_rows > MOST_ROWS:
        raise TaskError(f"{path} has more than {MOST_ROWS:,} rows; split it")
    groups = (file.metadata.row_group(index) for index in range(file.metadata.num_row_groups))
    if sum(group.total_byte_size for group in groups) > MOST_BYTES:
        raise TaskError(f"{path}: the file holds more than {MOST_BYTES:,} bytes; split it")
    names = file.schema_arrow.names
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise TaskError(f"{path}: column '{repeated}' appears twice; give each column a name of its own")


def _rows(batch: Any, path: Path, before: int) -> Iterator[Mapping[str, object]]:
    try:
        rows: list[Mapping[str, object]] = batch.to_pylist()
    except Exception as error:  # the conversion of a type can raise anything; the culprit is named below
        _refuse_value(batch, path, before)
        raise TaskError(f"{path}, row {before + 1} and following: {error}; write the file again") from error
    yield from rows


def _refuse_value(batch: Any, path: Path, before: int) -> None:
    """Raise `TaskError` for the first value of `batch` that Python cannot hold."""
    for row in range(batch.num_rows):
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            try:
                column[row].as_py()
            except Exception as error:
                raise TaskError(
                    f"{path}, row {before + row + 1}: column '{name}' of type {column.type} holds a value that cannot "
                    f"be read ({error}); correct it, or leave the column out"
                ) from error
